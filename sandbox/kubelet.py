"""Runs pods as processes of this machine, as a kubelet runs containers."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sandbox.containers import Container
from sandbox.pods import Image, Machine, Pod
from sandbox.processes import Processes


class Kubelet:
    """The pods at the API server as plain processes.

    Not kept, of all that a kubelet does: restarts, liveness probes, limits, users, policies.
    """

    def __init__(
        self,
        machine: Machine,
        processes: Processes,
        images: Mapping[str, Image],
        say: Callable[[str], None],
    ) -> None:
        """Know an image by its name without tag and digest; tell `say` what happens."""
        self._machine, self._processes, self._images = machine, processes, images
        self._say = say
        self._running: dict[str, list[Container]] = {}

    def not_run(self) -> list[str]:
        """Name the images for which this machine has no program."""
        images = {one["image"] for pod in self._machine.pods() for one in pod.containers()}
        return sorted(image for image in images if not self._image(image))

    def start(self) -> None:
        """Make every Deployment's pod run as it is registered now; changed ones start anew."""
        for pod in self._machine.pods():
            before = self._running.get(pod.full_name)
            if before and before[0].pod == pod:
                continue
            if pod.kind == "Deployment" and self._known(pod):
                self.stop(pod.full_name)
                self._say(f"{pod.full_name}: starting")
                begun = time.monotonic()
                self._start(pod)
                self._say(f"{pod.full_name}: ready after {time.monotonic() - begun:.0f} s")

    def run_jobs(self) -> dict[str, Container]:
        """Run every Job once to its end, telling what it writes; give what ran, by full name."""
        ended = {}
        for pod in self._machine.pods():
            if pod.kind == "Job" and self._known(pod):
                self._say(f"{pod.full_name}: running")
                (container,) = self._containers(pod, pod.spec["containers"])
                container.start()
                ended[pod.full_name] = container
                with container.log().open() as log:
                    while container.code() is None:
                        self._tell(log)
                        time.sleep(0.2)
                    self._tell(log)
                self._say(f"{pod.full_name}: ended with {container.code()}")
        return ended

    def stop(self, *pods: str) -> None:
        """End these pods, by default all and the last first: hooks, SIGTERM, grace, SIGKILL."""
        for name in pods or list(reversed(self._running)):
            containers = self._running.pop(name, [])
            if containers:
                self._say(f"{name}: stopping")
            grace = containers[0].pod.spec["terminationGracePeriodSeconds"] if containers else 0
            deadline = time.monotonic() + grace
            # A sidecar stays until the others have ended.
            for one in reversed(containers):
                one.end(deadline)

    def containers(self, pod: str) -> dict[str, Container]:
        """Give the containers of the pod `namespace/name` that runs, by name."""
        return {one.spec["name"]: one for one in self._running[pod]}

    def _tell(self, log: Iterable[str]) -> None:
        for line in log:
            self._say(f"  {line.rstrip()}")

    def _known(self, pod: Pod) -> bool:
        return all(self._image(one["image"]) for one in pod.containers())

    def _image(self, reference: str) -> Image | None:
        return self._images.get(reference.partition("@")[0].rpartition(":")[0])

    def _start(self, pod: Pod) -> None:
        containers = self._containers(pod, pod.containers())
        running = self._running[pod.full_name] = []
        for one in containers:
            running.append(one)
            one.start()
            # What comes first has to have started up; only the whole pod has to be ready.
            if one.spec in pod.spec.get("initContainers", []):
                one.wait("startupProbe")
        for one in running:
            one.wait("startupProbe", "readinessProbe")

    def _containers(self, pod: Pod, specs: Sequence[Mapping[str, Any]]) -> list[Container]:
        mounts, made = self._machine.mounts(pod), []
        for spec in specs:
            image = self._images[spec["image"].partition("@")[0].rpartition(":")[0]]
            here = self._machine.translation(pod, spec, mounts)
            ports: dict[int | str, int] = {}
            for port in spec.get("ports", []):
                local = self._machine.port(pod, port["containerPort"])
                ports |= {port["containerPort"]: local, port.get("name", ""): local}
            default = [word.format(port=next(iter(ports.values()), "")) for word in image.command]
            command = [here(word) for word in spec.get("command") or []] or default
            command += [here(word) for word in spec.get("args") or []]
            given = self._machine.environment(pod, spec)
            environment = {
                "PATH": f"{image.programs}:/usr/bin:/bin",
                **image.environment,
                **{name: here(value) for name, value in given.items()},
            }
            made.append(Container(self._processes, pod, spec, command, environment, ports))
        return made
