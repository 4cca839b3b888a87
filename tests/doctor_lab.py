"""A real API server for the doctor to look at, and what a test plants in it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import deploy_program, read, stack_config
from kubernetes import config as kubeconfig
from kubernetes.dynamic import DynamicClient

from ops import doctor
from ops.doctor_checks import Result, run
from ops.stacks import Stack
from sandbox.cluster import Cluster
from sandbox.engine import Engine

STACK = "sandbox"


class Place:
    """A cluster with a stack, and what a test needs to plant things in it."""

    def __init__(self, cluster: Cluster, engine: Engine) -> None:
        self.cluster, self.engine = cluster, engine
        api = kubeconfig.new_client_from_config(str(self.cluster.kubeconfig))  # type: ignore[no-untyped-call]
        self.kube = DynamicClient(api)  # type: ignore[no-untyped-call]

    def house(self, raw: dict[str, Any] | None = None, account: Path | None = None) -> doctor.House:
        """Give what the doctor looks at, with another stack file or account if asked for."""
        chosen = account or self.cluster.kubeconfig
        cli = self.engine.cli
        return doctor.House(
            stack=Stack(name=STACK, cli=cli, kubeconfig=chosen, simulated=True),
            stack_file=self.cluster.folder / "engine" / "project" / f"Pulumi.{STACK}.yaml",
            settings=read(raw or stack_config(STACK)),
            program=deploy_program(STACK, raw),
            exported=cli("stack", "export"),
        )

    def look(self, name: str, house: doctor.House | None = None) -> Result:
        """Give the result of one check."""
        looks = doctor.before(house or self.house())
        ((_, result),) = run(one for one in looks if one.name == name)
        return result

    @contextlib.contextmanager
    def planted(self, *objects: dict[str, Any]) -> Iterator[None]:
        """Have these objects in the cluster."""
        with contextlib.ExitStack() as made:
            for one in objects:
                about = one["metadata"]
                where = {"namespace": about["namespace"]} if "namespace" in about else {}
                kind = self.kube.resources.get(api_version=one["apiVersion"], kind=one["kind"])
                kind.create(body=one, **where)
                made.callback(kind.delete, name=about["name"], **where)
            yield

    def kubeconfig_with(self, file: Path, token: str) -> Path:
        """Write a kubeconfig of the same cluster for the owner of `token`."""
        whole = json.loads(self.cluster.kubeconfig.read_text())
        whole["users"][0]["user"] = {"token": token}
        file.write_text(json.dumps(whole))
        return file


def thing(kind: str, name: str, namespace: str = "", **rest: Any) -> dict[str, Any]:
    """An object of the core's API unless `rest` says otherwise."""
    about = {"name": name, **({"namespace": namespace} if namespace else {})}
    metadata = {**about, **rest.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": kind, **rest, "metadata": metadata}


def volume(name: str, path: str) -> dict[str, Any]:
    """A PersistentVolume of somebody else's."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": path},
    }
    return thing("PersistentVolume", name, spec=spec)
