"""A stack of its own for each test: the real engine, the stand-in, and a namespace."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pulumi_kubernetes as k8s
import pytest
from kubernetes.client import CoreV1Api
from kubernetes.config import new_client_from_config
from pulumi import ResourceOptions
from pulumi import automation as auto

from sandbox.build import Tools
from sandbox.cluster import Cluster
from sandbox.stand_in import install

Body = Callable[[ResourceOptions], None]
"""The resources of a program, given the options that name its provider."""


class Lab:
    """One stack with a state of its own."""

    def __init__(self, folder: Path, cluster: Cluster, tools: Tools, namespace: str) -> None:
        self.namespace = namespace
        self.context = cluster.context
        client = new_client_from_config(  # type: ignore[no-untyped-call]
            str(cluster.kubeconfig), cluster.context
        )
        self.core: Any = CoreV1Api(client)
        self._lines: list[str] = []
        self._stack: auto.Stack | None = None
        self._work = folder / "work"
        self._work.mkdir()
        (folder / "state").mkdir()
        (folder / "phrase").write_text("open sesame")
        plugins = install(folder / "plugins", cluster.kubeconfig)
        self.environment = {
            "PATH": os.pathsep.join(map(str, (plugins, tools.pulumi.parent, os.environ["PATH"]))),
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(folder / "phrase"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }

    @property
    def said(self) -> str:
        """What the engine printed during the last update."""
        return "\n".join(self._lines)

    def stack(self, body: Body) -> auto.Stack:
        """The stack whose program is `body` with an explicit provider."""

        def program() -> None:
            provider = k8s.Provider(
                "cluster",
                kubeconfig="",
                context=self.context,
                cluster_identifier="sandbox",
                enable_config_map_mutable=True,
            )
            body(ResourceOptions(provider=provider))

        if not self._stack:
            settings = auto.ProjectSettings(name="lab", runtime="python")
            options = auto.LocalWorkspaceOptions(
                work_dir=str(self._work), project_settings=settings
            )
            self._stack = auto.create_stack(
                "lab", project_name="lab", program=program, opts=options
            )
        self._stack.workspace.program = program
        return self._stack

    def up(self, body: Body, *, refresh: bool = False) -> dict[str, int]:
        """Deploy `body`; how many were created, replaced and so on, unchanged ones left out."""
        self._lines.clear()
        done = self.stack(body).up(on_output=self._lines.append, refresh=refresh, color="never")
        counts = done.summary.resource_changes or {}
        return {str(what): count for what, count in counts.items() if what != "same"}

    def refused(self, body: Body, *, refresh: bool = False) -> str:
        """What the engine says when `body` cannot be deployed."""
        with pytest.raises(auto.CommandError):
            self.up(body, refresh=refresh)
        return self.said

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of the CLI; its exit code is for the test to judge."""
        command = ["pulumi", *words, "--stack", "lab", "--non-interactive"]
        return subprocess.run(command, cwd=self._work, capture_output=True, text=True, check=False)

    def drift(self) -> int:
        """The exit code of the drift check."""
        return self.cli("refresh", "--preview-only", "--expect-no-changes").returncode

    def state(self) -> str:
        """Everything the backend holds, as it lies on the disk."""
        files = self._work.with_name("state").rglob("*")
        return "".join(path.read_text() for path in files if path.is_file())

    def kill_during(self, body: Body, ready: Callable[[], bool]) -> list[psutil.Process]:
        """End the engine outright once `ready`; the processes it had started."""
        before = set(psutil.Process().children())
        update = threading.Thread(target=self.refused, args=(body,))
        update.start()
        while not ready():
            update.join(0.1)
        (engine,) = set(psutil.Process().children()) - before
        started: list[psutil.Process] = engine.children(recursive=True)
        engine.kill()
        update.join()
        return started
