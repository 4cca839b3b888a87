"""The whole house on this machine: a cluster, the stack on it, and the programs of its pods."""

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from kubernetes import config
from kubernetes.dynamic import DynamicClient
from pulumi.automation import CommandError

from sandbox.build import Tools
from sandbox.cluster import Cluster, Node
from sandbox.containers import kill
from sandbox.engine import PROJECT, Engine
from sandbox.kubelet import Kubelet
from sandbox.model_registry import model_registry
from sandbox.monitoring import NAMES, Monitoring, find_release
from sandbox.pods import Image, Machine, free_port
from sandbox.processes import Processes, SandboxError, readable_errors
from sandbox.programs import Programs

STACK_FILE = "Pulumi.sandbox.yaml"
Say = Callable[[str], None]


class Demo:
    """One running house, all of it in `folder` and on 127.0.0.1."""

    def __init__(self, folder: Path, tools: Tools, programs: Programs, say: Say) -> None:
        self.folder = folder.absolute()
        self.cluster = Cluster(self.folder / "cluster", tools)
        self.engine = Engine(self.cluster, tools, self.folder / "project")
        self.processes = Processes(self.folder)
        self._programs, self._say = programs, say
        self._open = contextlib.ExitStack()

    def edit(self, change: Callable[[dict[str, Any]], object]) -> Path:
        """Change the configuration in this house's own stack file, and give its path."""
        project = self.folder / "project"
        file = project / STACK_FILE
        if not project.exists():
            project.mkdir(parents=True)
            for name in ("Pulumi.yaml", STACK_FILE):
                shutil.copyfile(PROJECT / name, project / name)
            program = f"import sys, runpy\nsys.path.insert(0, {str(PROJECT)!r})\n"
            run = f"runpy.run_path({str(PROJECT / '__main__.py')!r}, run_name='__main__')\n"
            (project / "__main__.py").write_text(program + run)
        stack = yaml.safe_load(file.read_text())
        change(stack["config"])
        file.write_text(yaml.safe_dump(stack))
        return file

    def start(
        self,
        nodes: Sequence[Node],
        disks: Sequence[str],
        *,
        local_models: bool = True,
        interval: str = "30s",
        hurry: Mapping[str, str] | None = None,
    ) -> None:
        """Bring up everything, with models from the internet unless they are `local_models`.

        `disks` are the nodes' data disks; `interval` is Prometheus', for scrapes and rules;
        `hurry` is added to the environment of what pushes metrics, to make it push more often.
        """
        self._local_models = local_models
        self._say("cluster: starting")
        self.cluster.start(nodes)
        self._say("pulumi up: running")
        changes = self._apply()
        self._say(f"pulumi up: {changes.get('create', 0)} created")

        ports: dict[str, int] = {}
        for name in (*NAMES, "telemetry"):
            ports[name] = free_port(ports.values())
        local = f"127.0.0.1:{ports['prometheus']}"
        self.prometheus = f"http://{local}"
        kubeconfig = self.cluster.kubeconfig
        api = config.new_client_from_config(  # type: ignore[no-untyped-call]
            str(kubeconfig), self.cluster.context
        )
        # Its own choice is a file in the common folder for temporary ones, which stays.
        cache = str(self.cluster.folder / "discovery.json")
        client = DynamicClient(api, cache_file=cache)  # type: ignore[no-untyped-call]
        beyond: dict[str, str] = {}
        self.machine = Machine(client, self._made("pods"), beyond)
        release = find_release(self.machine.read)
        beyond[release.address] = local
        self.monitoring = Monitoring(
            release=release,
            processes=self.processes,
            programs=dict(
                zip(
                    NAMES,
                    (
                        self._programs.kube_state_metrics,
                        self._programs.node_exporter,
                        self._programs.prometheus,
                    ),
                    strict=True,
                )
            ),
            folder=self._made("monitoring"),
            ports=ports,
            disks=dict.fromkeys(disks, self._made("pods")),
            interval=interval,
        )
        self.monitoring.start(kubeconfig, self.rules())
        self._say(f"Prometheus: ready at {self.prometheus}")

        registry: dict[str, str] = {}
        if local_models:
            registry = self._open.enter_context(model_registry(self._made("registry")))
        web = ("open-webui", "serve", "--host", "127.0.0.1", "--port", "{port}")
        images = {
            "ollama/ollama": Image(
                programs=self._programs.ollama.parent,
                command=("ollama", "serve"),
                environment=registry,
            ),
            "ghcr.io/open-webui/open-webui": Image(
                programs=self._programs.python.parent,
                command=web,
                environment={"ENV": "prod", **(hurry or {})},  # the image sets it
            ),
            "restic/restic": Image(programs=self._programs.restic.parent, command=("restic",)),
        }
        self.kubelet = Kubelet(self.machine, self.processes, images, self._say)
        self.kubelet.start()

    def _apply(self) -> dict[str, int]:
        """Apply the stack; what the engine says is only shown where it fails."""
        said: list[str] = []
        try:
            return self.engine.up(said.append)
        except CommandError:
            for line in filter(str.strip, said):
                self._say(line.rstrip())
            raise

    def rules(self) -> dict[str, Any]:
        """Give the PrometheusRule specs that the stack made, by name.

        The chart's own, which only the official plugin makes, need a kubelet to be well.
        """
        return {
            rule["metadata"]["name"]: rule["spec"]
            for rule in self.machine.read("monitoring.coreos.com/v1", "PrometheusRule")
            if rule["metadata"]["labels"].get("app.kubernetes.io/managed-by") != "Helm"
        }

    def report(self) -> str:
        """What a person needs to know to use it."""
        outputs = {name: value for name, (value, _) in self.engine.outputs().items()}
        page = self.machine.addresses()[outputs["open_webui_urls"][0].removeprefix("http://")]
        others = ", ".join(["Grafana", "Alertmanager", *self.kubelet.not_run()])
        lines = [
            f"chat page   http://{page}",
            f"sign in     {outputs['open_webui_email']}  {outputs['open_webui_password']}",
            f"Prometheus  {self.prometheus}",
            "",
            f"Not run: {others}.",
            "Open WebUI reads no PDF and no Office files here; the data disk is this machine's.",
        ]
        if self._local_models:
            lines.append("Every model is one of 0.4 MB with random weights: answers are noise.")
        return "\n".join([*(f"  {line}".rstrip() for line in lines), "", "  Ctrl-C stops it."])

    def remove(self) -> None:
        """End every process, also of a run that was killed, and delete the folder."""
        if not self.folder.exists():
            return
        with contextlib.suppress(AttributeError):
            self.kubelet.stop()
        self._open.close()
        alive = self.processes.alive()
        family = [child for one in alive.values() for child in one.children(recursive=True)]
        self.processes.stop(list(alive))
        kill(family)
        self._say("cluster: stopping")
        self.cluster.remove()
        shutil.rmtree(self.folder)

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, or raise SandboxError if another one has it."""
    with readable_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, which is deleted in the end.
        handle = folder.with_suffix(".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"a demo runs already in {folder}; stop it there with Ctrl-C"
            raise SandboxError(message) from error
        yield


@contextlib.contextmanager
def removed(house: Demo) -> Iterator[None]:
    """Remove the house in the end, whatever happens and however this process is told to stop."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # An engine that was at work. What the house started is in sessions of its own.
        ours = psutil.Process().children(recursive=True)
        kill([one for one in ours if one.is_running() and os.getsid(one.pid) == os.getsid(0)])
        house.remove()
