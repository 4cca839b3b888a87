"""The program, applied by the real engine to a simulated cluster of its own."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client
from kubernetes import config as kubeconfig
from pulumi.automation import CommandError

from sandbox.build import Tools
from sandbox.cluster import Cluster, Node
from sandbox.engine import PROJECT, Engine

NODE = Node(name="evo4t", cpus=24, memory="93Gi", address="192.168.1.100")


def quiet(_: str) -> None:
    """Drop a line of progress."""


def with_backups(keys: dict[str, Any]) -> None:
    """Add the backups to a configuration."""
    volume = {"path": "/mnt/backup/homelab", "size": "200Gi"}
    keys["homelab:webui"]["backup"] = {"volume": volume}


def addresses(core: Any) -> dict[str, list[str]]:
    """Return the addresses that MetalLB has assigned, by Service."""
    return {
        service.metadata.name: [entry.ip for entry in service.status.load_balancer.ingress or []]
        for service in core.list_service_for_all_namespaces().items
        if service.spec.type == "LoadBalancer"
    }


class LiveStack:
    """A stack, up, with a stack file that a test may edit."""

    def __init__(
        self,
        folder: Path,
        tools: Tools,
        change: Callable[[dict[str, Any]], object] = dict,
        *,
        stack: str = "sandbox",
        nodes: Sequence[Node] = (NODE,),
    ) -> None:
        """Make `change` to the configuration first, and again at every `reset`."""
        self._change, self._file = change, f"Pulumi.{stack}.yaml"
        self.project = folder / "project"
        self.project.mkdir()
        (self.project / "Pulumi.yaml").write_text((PROJECT / "Pulumi.yaml").read_text())
        self.write_program()
        metallb = self.reset()["homelab:network"]["metallb"]
        self.cluster = Cluster(folder / "cluster", tools, metallb=metallb == "addon")
        self.cluster.start(nodes)
        self.engine = Engine(self.cluster, tools, self.project, stack)
        began = time.monotonic()
        self.up()
        self.first_up = time.monotonic() - began
        self.connect()

    def connect(self) -> None:
        """Make the clients; again after each start, because the certificate changes."""
        path = str(self.cluster.kubeconfig)
        api = kubeconfig.new_client_from_config(path, self.cluster.context)  # type: ignore[no-untyped-call]
        # The client's types say of every field that it may be missing.
        self.core: Any = client.CoreV1Api(api)
        self.apps: Any = client.AppsV1Api(api)
        self.batch: Any = client.BatchV1Api(api)
        self.rbac: Any = client.RbacAuthorizationV1Api(api)

    def write_program(self) -> None:
        """Write the project's `__main__.py`, which runs the program."""
        (self.project / "__main__.py").write_text(
            f"import runpy, sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
            f"runpy.run_path({str(PROJECT / '__main__.py')!r}, run_name='__main__')\n"
        )

    def reset(self) -> dict[str, Any]:
        """Restore the first stack file, and return its configuration."""
        (self.project / self._file).write_text((PROJECT / self._file).read_text())
        return self.edit(self._change)

    def edit(self, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Apply `change` to the configuration in the stack file, and return it."""
        path = self.project / self._file
        stack = yaml.safe_load(path.read_text())
        config: dict[str, Any] = stack["config"]
        change(config)
        path.write_text(yaml.safe_dump(stack))
        return config

    def up(self) -> dict[str, int]:
        """Apply the program; return the number of resources by operation, without `same`."""
        try:
            changes = self.engine.up(quiet)
        except CommandError as error:
            # The lines of progress before them would fill the report of a failed test.
            diagnostics: Any = str(error).rpartition("Diagnostics:")[2]
            raise CommandError(diagnostics) from None
        changes.pop("same", None)
        return changes

    def bound(self) -> dict[str, tuple[str, str]]:
        """Return volume and directory of each bound claim, by `namespace/name`."""
        paths = {
            volume.metadata.name: volume.spec.local.path
            for volume in self.core.list_persistent_volume().items
        }
        return {
            f"{claim.metadata.namespace}/{claim.metadata.name}": (
                claim.spec.volume_name,
                paths[claim.spec.volume_name],
            )
            for claim in self.core.list_persistent_volume_claim_for_all_namespaces().items
            if claim.status.phase == "Bound"
        }

    def pods(self, namespace: str) -> list[Any]:
        """Return the pods of a namespace."""
        pods: list[Any] = self.core.list_namespaced_pod(namespace).items
        return pods

    def jobs(self) -> list[str]:
        """Return the UIDs of the model Jobs."""
        jobs = self.batch.list_namespaced_job(
            "ollama-stack", label_selector="app.kubernetes.io/name=ollama-models"
        )
        return [job.metadata.uid for job in jobs.items]

    def uids(self) -> set[str]:
        """Return the UIDs of the Services, ConfigMaps and Deployments in both namespaces."""
        objects: list[Any] = []
        for namespace in ("ollama-stack", "observability"):
            objects += self.core.list_namespaced_service(namespace).items
            objects += self.core.list_namespaced_config_map(namespace).items
            objects += self.apps.list_namespaced_deployment(namespace).items
        return {item.metadata.uid for item in objects}


def encrypted(engine: Engine, secret: str) -> Any:
    """Return the value that `pulumi config set --secret` writes into the stack file."""
    process = engine.cli("config", "set", "--secret", "homelab:notifySecret", secret)
    assert process.returncode == 0, process.stderr
    text = (engine.work / "Pulumi.sandbox.yaml").read_text()
    return yaml.safe_load(text)["config"]["homelab:notifySecret"]
