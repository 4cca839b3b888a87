"""Pulumi's engine on a stack of its own, with state, secrets and plugins in one folder."""

import contextlib
import functools
import json
import os
import runpy
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from pulumi import automation as auto

from ops import cluster as ops_cluster
from ops import recover
from ops.cluster import UnreadableError
from ops.stacks import Stack
from sandbox import cluster as simulated
from sandbox import real_cluster
from sandbox.build import CHART, Tools
from sandbox.cache import link
from sandbox.processes import MARK, Processes, SandboxError, locked, write_private
from sandbox.toolchain import pinned

PROJECT = Path(__file__).parent.parent
CLI = "github.com/pulumi/pulumi/pkg/v3"
Cluster = simulated.Cluster | real_cluster.Cluster
OWN_CHART = Path(__file__).parent / "chart"
# The engine starts plugins in folders whose modules must not shadow ours: a safe path.
PLUGIN = """\
#!/bin/sh
PYTHONSAFEPATH=1 PYTHONPATH={} exec {} -m sandbox.random_provider "$@"
"""


class Engine:
    """One stack of the program in `project`, applied to `cluster`."""

    def __init__(
        self,
        cluster: Cluster,
        tools: Tools,
        project: Path = PROJECT,
        stack: str = "sandbox",
        config: Mapping[str, Any] | None = None,
        *,
        refresh: bool = True,
    ) -> None:
        """Use `config`, keys without prefix, in place of the stack file's.

        Without `refresh`, the state is taken for what the cluster has.
        """
        self._cluster, self._tools, self._refresh = cluster, tools, refresh
        self._project, self._stack, self._config = project, stack, config
        self._folder = cluster.folder / "engine"
        self.work = self._folder / "project"
        """Working directory of the CLI and its plugins."""

    def up(self, say: Callable[[str], None]) -> dict[str, int]:
        """Apply the program; returns the number of resources by operation.

        `say` takes each line of progress.
        """
        with self._opened() as stack:
            self._take_up(say)
            result = stack.up(on_output=say, on_error=say, color="never", suppress_outputs=True)
            return {str(op): n for op, n in (result.summary.resource_changes or {}).items()}

    def preview(
        self,
        say: Callable[[str], None] | None = None,
        see: Callable[[auto.EngineEvent], object] | None = None,
    ) -> dict[str, int]:
        """Return the number of resources by operation of an `up`, without changing any.

        `say` takes each line of progress, `see` each event.
        """
        as_previewer = {"KUBECONFIG": str(self._cluster.preview_kubeconfig)}
        with self._opened() as stack, _only({**self._environment(), **as_previewer}):
            result = stack.preview(
                diff=True, color="never", on_output=say, on_error=say, on_event=see
            )
            return {str(op): count for op, count in result.change_summary.items()}

    def destroy(self, say: Callable[[str], None]) -> None:
        """Delete all resources of the stack."""
        with self._opened() as stack:
            self._take_up(say, to_destroy=True)
            stack.destroy(on_output=say, on_error=say, color="never", suppress_outputs=True)

    def outputs(self) -> dict[str, tuple[Any, bool]]:
        """Return the stack's outputs by name, each with whether it is secret."""
        with self._opened() as stack:
            return {name: (out.value, out.secret) for name, out in stack.outputs().items()}

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the CLI that needs no program on the stack."""
        with locked(self._folder):
            return self._run(*arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._tools.pulumi), *arguments, "--non-interactive", "--color=never"],
            cwd=self.work,
            env={**self._environment(), "PULUMI_STACK": self._stack},
            capture_output=True,
            text=True,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        """Return the CLI's environment, without settings for another backend or cluster."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PULUMI_", "KUBE"))},
            "PATH": f"{self._folder / 'plugins'}{os.pathsep}{os.environ['PATH']}",
            MARK: str(self._cluster.folder),
            "KUBECONFIG": str(self._cluster.kubeconfig),
            # With metadata, a CLI that is killed at the wrong moment leaves a half-written file
            # beside the state, which then cannot be read (gocloud.dev, fileblob: setAttrs).
            "PULUMI_BACKEND_URL": f"{(self._folder / 'state').as_uri()}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self._folder / "passphrase"),
            # As `enable_patch_force`, which the provider that is built here does not know.
            "PULUMI_K8S_ENABLE_PATCH_FORCE": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": str(bool(self._tools.provider)).lower(),
            "PULUMI_HOME": str(self._tools.folder / "pulumi-home"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_ERROR_OUTPUT_STRING": "true",
        }

    @contextlib.contextmanager
    def _opened(self) -> Iterator[auto.Stack]:
        """Lock the stack, created if missing, with a fresh copy of the project's files."""
        with locked(self._folder):
            # An engine that was killed may have left a CLI that still writes to the cluster.
            Processes(self._cluster.folder).stop([""], grace=1)
            self._prepare()
            with _only(self._environment()), _interrupt_deferred():
                yield auto.create_or_select_stack(
                    stack_name=self._stack,
                    project_name=self._settings("Pulumi.yaml")["name"],
                    program=self._program,
                    opts=auto.LocalWorkspaceOptions(
                        work_dir=str(self.work), pulumi_command=self._command
                    ),
                )

    def _mend(self) -> None:
        """Delete locks and restore a state that a full disk has truncated; the CLI does not."""
        for lock in (self._folder / "state").rglob("*.tmp"):
            lock.unlink()
        for state in (self._folder / "state").rglob(f"{self._stack}.json"):
            backup = state.with_name(f"{state.name}.bak")
            try:
                json.loads(state.read_text())
            except ValueError:
                if backup.exists():
                    shutil.copyfile(backup, state)

    def _prepare(self) -> None:
        (self._folder / "state").mkdir(exist_ok=True)
        self._mend()
        self.work.mkdir(exist_ok=True)
        if not (file := self._folder / "passphrase").exists():
            if (self._folder / "state" / ".pulumi").exists():
                lost = f"{file}: is gone, and without it the state is lost"
                raise SandboxError(f"{lost}; start over with: make down")
            write_private(file, secrets.token_hex(32))
        # Copies, because the CLI writes the salt of the secrets into the stack's file.
        project = self._settings("Pulumi.yaml")
        # The CLI that is built here is older, and new enough for this program.
        project["requiredPulumiVersion"] = f">={pinned('engine', CLI).removeprefix('v')}"
        if not self._refresh:
            project.pop("options", None)
        (self.work / "Pulumi.yaml").write_text(yaml.safe_dump(project))
        name = f"Pulumi.{self._stack}.yaml"
        kept = yaml.safe_load((self.work / name).read_text()) if (self.work / name).exists() else {}
        salt = {k: v for k, v in kept.items() if k == "encryptionsalt"}
        own = {f"homelab:{key}": value for key, value in (self._config or {}).items()}
        stack = {"config": own} if own else self._settings(name)
        charts = {CHART: str(self._tools.chart or link(OWN_CHART, self._folder / "charts" / CHART))}
        charts |= stack["config"].get("homelab:charts", {})
        stack["config"]["homelab:charts"] = charts
        (self.work / name).write_text(yaml.safe_dump({**stack, **salt}))
        self._place_plugins()

    def _place_plugins(self) -> None:
        """Place the plugins made here in a folder on PATH, where the CLI looks first."""
        folder = self._folder / "plugins"
        shutil.rmtree(folder, ignore_errors=True)
        if self._tools.provider:
            link(self._tools.provider, folder / "pulumi-resource-kubernetes")
            script = folder / "pulumi-resource-random"
            # Not resolved: the link in a virtual environment is what finds its packages.
            words = map(shlex.quote, (str(PROJECT), str(Path(sys.executable).absolute())))
            script.write_text(PLUGIN.format(*words))
            script.chmod(0o755)

    def _settings(self, name: str) -> dict[str, Any]:
        try:
            settings: dict[str, Any] = yaml.safe_load((self._project / name).read_text())
        except FileNotFoundError as error:
            raise SandboxError(f"{name}: cannot be read: {error.strerror}") from error
        return settings

    @functools.cached_property
    def _command(self) -> auto.PulumiCommand:
        """The CLI, which is asked for its version once."""
        folder = self._tools.pulumi.parent
        return auto.PulumiCommand(str(folder.parent) if folder.name == "bin" else None)

    def _program(self) -> None:
        if str(self._project) not in sys.path:
            sys.path.insert(0, str(self._project))
        runpy.run_path(str(self._project / "__main__.py"), run_name="__main__")

    def _take_up(self, say: Callable[[str], None], *, to_destroy: bool = False) -> None:
        """Repair state and cluster after an engine that was killed."""
        stack = Stack(
            name=self._stack,
            cli=self._run,
            kubeconfig=self._cluster.kubeconfig,
            folder=self.work,
        )
        try:
            state = recover.export_state(stack)
            live = ops_cluster.Cluster(self._cluster.context, self._cluster.kubeconfig)
            left = recover.inspect(stack, state, live)
            for reason in left.reasons:
                # A volume may have been changed by hand.
                cut_off = "" if reason.startswith("volume ") else "an earlier run was cut off: "
                say(f"{cut_off}{reason}")
            recover.repair_state(stack, state, left)
            # Helm uninstalls an unfinished release as well.
            if not to_destroy:
                recover.repair_cluster(live, left)
        except UnreadableError as error:
            raise SandboxError(str(error)) from error


def _only(environment: dict[str, str]) -> contextlib.AbstractContextManager[object]:
    """Replace this process' environment, which the SDK passes to the CLI."""
    return patch.dict(os.environ, environment, clear=True)


@contextlib.contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Defer an interrupt until the CLI, which gets it too, has stopped in good order."""
    interrupts = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if interrupts:
            raise KeyboardInterrupt
