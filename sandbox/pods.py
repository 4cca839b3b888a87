"""What the pods at the API server are on this machine: folders, ports and variables."""

import base64
import random
import re
import shutil
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.dynamic import DynamicClient

from sandbox.processes import SandboxError, is_free

LOOPBACK = ("127.0.0.1", "0.0.0.0", "localhost")
ADDRESS = re.compile(r"(?<![\w.-])([\w.-]+):(\d{2,5})(?!\w)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What stands in for a container image: the same programs, installed on this machine."""

    programs: Path
    """Folder that comes first on PATH."""
    command: tuple[str, ...]
    """What it runs unless told otherwise; `{port}` is the first port of the container."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the image sets, and what this machine needs beyond that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod as a Deployment or a Job at the API server describes it."""

    kind: str
    namespace: str
    name: str
    template: Mapping[str, Any]

    @property
    def spec(self) -> Mapping[str, Any]:
        """The pod's spec as it was registered, with the API server's defaults."""
        spec: Mapping[str, Any] = self.template["spec"]
        return spec

    @property
    def full_name(self) -> str:
        """Namespace and name of the Deployment or Job."""
        return f"{self.namespace}/{self.name}"

    def containers(self) -> list[Mapping[str, Any]]:
        """All containers, those first that start first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def port(self, wanted: int | str) -> int:
        """Give a port of the pod by its name or number; raise SandboxError if there is none."""
        for container in self.containers():
            for port in container.get("ports", []):
                if wanted in (port.get("name"), port["containerPort"]):
                    return int(port["containerPort"])
        raise SandboxError(f"{self.full_name}: port {wanted!r} is not a port of any container")


class Machine:
    """The local ports and folders that stand for those of the cluster."""

    def __init__(self, api: DynamicClient, folder: Path, beyond: Mapping[str, str]) -> None:
        """Read at `api`, and work in `folder`.

        `beyond` are local addresses by those of the cluster that no Service there explains.
        """
        self._api, self._folder, self._beyond = api, folder, beyond
        self._ports: dict[tuple[str, int], int] = {}

    def read(self, version: str, kind: str) -> list[dict[str, Any]]:
        """Give all objects of a kind at the API server."""
        found = self._api.resources.get(api_version=version, kind=kind).get()
        items: list[dict[str, Any]] = found.to_dict()["items"]
        return items

    def pods(self) -> list[Pod]:
        """Give what the Deployments and Jobs at the API server want to run, but for releases'."""
        return [
            Pod(
                kind=kind,
                namespace=one["metadata"]["namespace"],
                name=one["metadata"]["name"],
                template=one["spec"]["template"],
            )
            for version, kind in (("apps/v1", "Deployment"), ("batch/v1", "Job"))
            for one in self.read(version, kind)
            if "meta.helm.sh/release-name" not in (one["metadata"].get("annotations") or {})
        ]

    def port(self, pod: Pod, port: int) -> int:
        """Give the port of 127.0.0.1 that is this port of the pod's, the same one every time."""
        key = (f"{pod.kind}/{pod.full_name}", port)
        if key not in self._ports:
            self._ports[key] = free_port(self._ports.values())
        return self._ports[key]

    def addresses(self) -> dict[str, str]:
        """Give the local address by the cluster's, for every Service and host port with a pod."""
        found, pods = dict(self._beyond), self.pods()
        for service in self.read("v1", "Service"):
            about, spec = service["metadata"], service["spec"]
            wanted = (spec.get("selector") or {}).items()
            behind = [
                pod
                for pod in pods
                if wanted
                and pod.namespace == about["namespace"]
                and wanted <= pod.template["metadata"]["labels"].items()
            ]
            name = f"{about['name']}.{about['namespace']}"
            given = service["status"].get("loadBalancer", {}).get("ingress") or []
            names = [name, f"{name}.svc", f"{name}.svc.cluster.local", *(at["ip"] for at in given)]
            for port in spec["ports"] if behind else ():
                local = self.port(behind[0], behind[0].port(port["targetPort"]))
                found |= {f"{one}:{port['port']}": f"127.0.0.1:{local}" for one in names}
        for pod in pods:
            for port in (port for one in pod.containers() for port in one.get("ports", [])):
                if "hostPort" in port:
                    local = self.port(pod, port["containerPort"])
                    host = port.get("hostIP", "0.0.0.0")
                    found[f"{host}:{port['hostPort']}"] = f"127.0.0.1:{local}"
        return found

    def mounts(self, pod: Pod) -> dict[str, Path]:
        """Make the folder of each volume of the pod; those of claims keep what they hold."""
        made = {}
        for volume in pod.spec.get("volumes", []):
            folder = self._folder / "pods" / pod.namespace / pod.name / volume["name"]
            if claim := volume.get("persistentVolumeClaim"):
                folder = self._folder / "claims" / pod.namespace / claim["claimName"]
            elif "emptyDir" in volume or "configMap" in volume:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                raise SandboxError(f"{pod.full_name}: volume {volume['name']!r} is of another kind")
            folder.mkdir(parents=True, exist_ok=True)
            if source := volume.get("configMap"):
                for name, text in self._data("ConfigMap", pod, source["name"]).items():
                    (folder / name).write_text(text)
            made[volume["name"]] = folder
        return made

    def environment(self, pod: Pod, container: Mapping[str, Any]) -> dict[str, str]:
        """Give what the pod's spec sets, with secrets, in the cluster's own words."""
        found = {}
        for variable in container.get("env", []):
            source = variable.get("valueFrom")
            if source is None:
                found[variable["name"]] = variable.get("value", "")
            elif reference := source.get("secretKeyRef"):
                text = self._data("Secret", pod, reference["name"])[reference["key"]]
                found[variable["name"]] = base64.b64decode(text).decode()
            else:
                raise SandboxError(f"{pod.full_name}: {variable['name']} comes from elsewhere")
        return found

    def translation(
        self, pod: Pod, container: Mapping[str, Any], mounts: Mapping[str, Path]
    ) -> Callable[[str], str]:
        """Give a function that puts this machine's addresses and folders into a text."""
        addresses = self.addresses()
        paths = {}
        for one in container.get("volumeMounts", []):
            paths[one["mountPath"]] = mounts[one["name"]] / one.get("subPath", "")
            paths[one["mountPath"]].mkdir(exist_ok=True)
        mounted = re.compile(rf"(?<![\w./-])({_any(paths)})(?![\w.-])")

        def local(found: re.Match[str]) -> str:
            if found[1] in LOOPBACK:
                return f"127.0.0.1:{self.port(pod, int(found[2]))}"
            return addresses.get(found[0], found[0])

        # What the first has put in must not be taken for what was there.
        def translate(text: str) -> str:
            parts = mounted.split(ADDRESS.sub(local, text))
            return "".join(str(paths[part]) if part in paths else part for part in parts)

        return translate

    def _data(self, kind: str, pod: Pod, name: str) -> dict[str, str]:
        for one in self.read("v1", kind):
            if (one["metadata"]["namespace"], one["metadata"]["name"]) == (pod.namespace, name):
                data: dict[str, str] = one.get("data") or {}
                return data
        raise SandboxError(f"{pod.full_name}: there is no {kind} {name}")


def free_port(taken: Container[int]) -> int:
    """Give a port of 127.0.0.1 on which nothing listens, and none of those `taken`."""
    # Below 30000 lie neither node ports nor those that Linux and macOS give to clients.
    candidates = random.sample(range(20000, 30000), 1000)
    return next(port for port in candidates if port not in taken and is_free(port))


def _any(words: Iterable[str]) -> str:
    # The longest first, so that /data/x is not taken for /data; nothing matches where none is.
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)"
