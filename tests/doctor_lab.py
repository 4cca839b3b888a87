"""Runs single checks of the doctor, on a real API server or on scripted answers."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from harness import read, stack_config
from kubernetes import config as kubeconfig
from kubernetes.dynamic import DynamicClient

from ops import cluster as ops_cluster
from ops import doctor
from ops.doctor_server import Server
from ops.stacks import Stack
from sandbox.engine import Cluster, Engine

STACK = "sandbox"


class Scripted:
    """A cluster with scripted answers, by the last part of a path; None for others."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def ask(self, path: str, *_: str, **__: str) -> Any:
        """Return the answer for `path`."""
        return self.answers.get(path.rpartition("/")[2])

    def read(self, path: str, *_: str, **__: str) -> Any:
        """Return the answer for `path`; raises UnreadableError without one."""
        if (answer := self.ask(path)) is None:
            raise ops_cluster.UnreadableError(f"{path}: the API server does not know it")
        return answer


async def problems(check: Any, fields: dict[str, Any], *, state: bool = False) -> list[str]:
    """Return what a check yields for a Server with these `fields`, after reading its `state`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        defaults = {"settings": None, "stack": None, "cluster": None}
        server = Server(session=session, **{**defaults, **fields})
        if state:
            assert not [problem async for problem in doctor.state(server)]
        return [problem async for problem in check(server)]


def connect(cluster: Cluster) -> DynamicClient:
    """Return the dynamic client of a cluster, from its kubeconfig alone."""
    api = kubeconfig.new_client_from_config(  # type: ignore[no-untyped-call]
        str(cluster.kubeconfig), cluster.context
    )
    cache = str(cluster.folder / "discovery.json")
    return DynamicClient(api, cache_file=cache)  # type: ignore[no-untyped-call]


class Place:
    """A cluster with a stack, in which a test may create objects."""

    def __init__(self, cluster: Cluster, engine: Engine) -> None:
        self.cluster = cluster
        self.stack = Stack(name=STACK, cli=engine.cli, kubeconfig=cluster.kubeconfig)
        self.kube = connect(cluster)

    def problems(
        self,
        check: Any,
        raw: dict[str, Any] | None = None,
        account: Path | None = None,
        *,
        state: bool = True,
    ) -> list[str]:
        """Return what a check yields, with another stack file or account, or without the state."""
        settings = read(raw or stack_config(STACK))
        live = ops_cluster.Cluster(settings.context, account or self.cluster.kubeconfig)
        fields = {"settings": settings, "stack": self.stack, "cluster": live}
        return asyncio.run(problems(check, fields, state=state))

    @contextlib.contextmanager
    def created(self, *objects: dict[str, Any]) -> Iterator[None]:
        """Create these objects, and delete them afterwards."""
        with contextlib.ExitStack() as cleanup:
            for body in objects:
                metadata = body["metadata"]
                place = {"namespace": metadata["namespace"]} if "namespace" in metadata else {}
                kind = self.kube.resources.get(api_version=body["apiVersion"], kind=body["kind"])
                kind.create(body=body, **place)
                cleanup.callback(kind.delete, name=metadata["name"], **place)
            yield


def manifest(kind: str, name: str, namespace: str = "", **fields: Any) -> dict[str, Any]:
    """Return an object, of API version v1 unless `fields` have another."""
    names = {"name": name, **({"namespace": namespace} if namespace else {})}
    metadata = {**names, **fields.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": kind, **fields, "metadata": metadata}
