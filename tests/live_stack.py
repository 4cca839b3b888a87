"""The program itself, applied by the real engine to a cluster with one node of its own."""

import time
from collections.abc import Callable
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
    """Take a line of progress and keep silent."""


def addresses(core: Any) -> dict[str, list[str]]:
    """Give the addresses that MetalLB has assigned, by Service."""
    return {
        service.metadata.name: [entry.ip for entry in service.status.load_balancer.ingress or []]
        for service in core.list_service_for_all_namespaces().items
        if service.spec.type == "LoadBalancer"
    }


class LiveStack:
    """The stack, up, with a stack file that a test may edit."""

    def __init__(
        self, folder: Path, tools: Tools, change: Callable[[dict[str, Any]], object] = dict
    ) -> None:
        """Make `change` to the configuration first, and again at every `reset`."""
        self._change = change
        self.project = folder / "project"
        self.project.mkdir()
        (self.project / "Pulumi.yaml").write_text((PROJECT / "Pulumi.yaml").read_text())
        self.write_program()
        metallb = self.reset()["homelab:network"]["metallb"]
        self.cluster = Cluster(folder / "cluster", tools, metallb=metallb == "addon")
        self.cluster.start([NODE])
        self.engine = Engine(self.cluster, tools, self.project)
        began = time.monotonic()
        self.up()
        self.first_up = time.monotonic() - began
        self.connect()

    def connect(self) -> None:
        """Make the clients anew: a cluster has another certificate after each start."""
        path = str(self.cluster.kubeconfig)
        api = kubeconfig.new_client_from_config(path, "homelab-sandbox")  # type: ignore[no-untyped-call]
        # The client's types say of every field that it may be missing.
        self.core: Any = client.CoreV1Api(api)
        self.apps: Any = client.AppsV1Api(api)
        self.batch: Any = client.BatchV1Api(api)
        self.rbac: Any = client.RbacAuthorizationV1Api(api)

    def write_program(self) -> None:
        """Put the program in place."""
        (self.project / "__main__.py").write_text(
            f"import runpy, sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
            f"runpy.run_path({str(PROJECT / '__main__.py')!r}, run_name='__main__')\n"
        )

    def reset(self) -> dict[str, Any]:
        """Go back to the stack file as it was at first; give the configuration in it."""
        (self.project / "Pulumi.sandbox.yaml").write_text(
            (PROJECT / "Pulumi.sandbox.yaml").read_text()
        )
        return self.edit(self._change)

    def edit(self, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Change the configuration in the stack file; give it as it is now."""
        path = self.project / "Pulumi.sandbox.yaml"
        stack = yaml.safe_load(path.read_text())
        config: dict[str, Any] = stack["config"]
        change(config)
        path.write_text(yaml.safe_dump(stack))
        return config

    def up(self) -> dict[str, int]:
        """Apply the program; give the operations, less what stayed the same."""
        try:
            changes = self.engine.up(quiet)
        except CommandError as error:
            # The diagnostics alone: a report has no room for all lines of progress before them.
            why: Any = str(error).rpartition("Diagnostics:")[2]
            raise CommandError(why) from None
        changes.pop("same", None)
        return changes

    def bound(self) -> dict[str, tuple[str, str]]:
        """Give volume and directory by claim, for every claim there is."""
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
        """The pods of a namespace."""
        found: list[Any] = self.core.list_namespaced_pod(namespace).items
        return found

    def jobs(self) -> list[str]:
        """The uids of the model Jobs."""
        return [job.metadata.uid for job in self.batch.list_namespaced_job("ollama-stack").items]

    def uids(self) -> set[str]:
        """The uids of everything else that the program makes in the namespaces."""
        found: list[Any] = []
        for namespace in ("ollama-stack", "observability"):
            found += self.core.list_namespaced_service(namespace).items
            found += self.core.list_namespaced_config_map(namespace).items
            found += self.apps.list_namespaced_deployment(namespace).items
        return {made.metadata.uid for made in found}
