"""A container as a process of this machine: started, probed and ended as a kubelet would."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from sandbox.apiserver import probe
from sandbox.pods import Pod
from sandbox.processes import Processes


class Container:
    """One container of a pod, all in this machine's words."""

    def __init__(
        self,
        processes: Processes,
        pod: Pod,
        spec: Mapping[str, Any],
        command: Sequence[str],
        environment: Mapping[str, str],
        ports: Mapping[int | str, int],
    ) -> None:
        self._processes = processes
        self.name = f"{pod.namespace}.{pod.name}.{spec['name']}"
        self.pod, self.spec, self.command = pod, spec, command
        self.environment, self.ports = environment, ports
        """Local ports by the container's, which go by number and by name."""
        self.process: psutil.Process | None = None

    def log(self) -> Path:
        """Give the file with what it wrote since it was last started."""
        return self._processes.log(self.name)

    def start(self) -> None:
        """Start it; whether it stays is seen by waiting for it."""
        self.process = self._processes.start(self.name, self.command, self.environment)

    def wait(self, *kinds: str) -> None:
        """Probe until it is well, or raise SandboxError when a kubelet would give up."""
        for kind in kinds:
            if not (spec := self.spec.get(kind)):
                continue
            # A kubelet waits for ever for a container to get ready.
            tries = spec["failureThreshold"] if kind == "startupProbe" else 60
            step = partial(self._probe, spec)
            self._processes.retry(self.name, step, tries * spec["periodSeconds"])

    def end(self, deadline: float) -> None:
        """Run its hook, end it with SIGTERM, and after `deadline` with SIGKILL, and its family."""
        if self.name not in self._processes.alive():
            return
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        time.sleep(hook.get("sleep", {}).get("seconds", 0))
        family = self.process.children(recursive=True) if self.process else []
        self._processes.stop([self.name], max(0.0, deadline - time.monotonic()))
        kill(family)

    def code(self) -> int | None:
        """Give its exit code, None while it runs."""
        assert self.process
        with suppress(psutil.TimeoutExpired):
            return self.process.wait(0)
        return None

    def kill(self) -> None:
        """End it and its family with SIGKILL, as for want of memory."""
        if self.process:
            kill([self.process, *self.process.children(recursive=True)])

    def _probe(self, spec: Mapping[str, Any]) -> None:
        if asked := spec.get("httpGet"):
            probe(self.ports[asked["port"]], asked["path"])
            return
        try:
            subprocess.run(
                spec["exec"]["command"],
                env=dict(self.environment),
                timeout=spec["timeoutSeconds"],
                capture_output=True,
                check=True,
            )
        except subprocess.SubprocessError as error:
            raise ConnectionError(error) from error


def kill(family: Sequence[psutil.Process]) -> None:
    """End these processes with SIGKILL, and wait until they are gone."""
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=5)
