"""Runs one check of the doctor, on a real API server or on a script, and plants things there."""

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
from sandbox.cluster import Cluster
from sandbox.engine import Engine

STACK = "sandbox"


class Scripted:
    """A cluster that answers what a test says, by a path's last word, and else that it is not."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def ask(self, path: str, *_: str, **__: str) -> Any:
        """Give what is at `path`."""
        return self.answers.get(path.rpartition("/")[2])


async def problems(check: Any, given: dict[str, Any], *, state: bool = False) -> list[str]:
    """Give what a check yields for a server that has only what is `given`, and its `state`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        nothing = {"settings": None, "stack": None, "cluster": None}
        server = Server(session=session, **{**nothing, **given})
        if state:
            assert not [problem async for problem in doctor.state(server)]
        return [problem async for problem in check(server)]


class Place:
    """A cluster with a stack, and what a test needs to plant things in it."""

    def __init__(self, cluster: Cluster, engine: Engine) -> None:
        self.cluster = cluster
        self.stack = Stack(
            name=STACK, cli=engine.cli, kubeconfig=cluster.kubeconfig, simulated=True
        )
        api = kubeconfig.new_client_from_config(str(cluster.kubeconfig))  # type: ignore[no-untyped-call]
        self.kube = DynamicClient(api)  # type: ignore[no-untyped-call]

    def problems(
        self,
        check: Any,
        raw: dict[str, Any] | None = None,
        account: Path | None = None,
        *,
        state: bool = True,
    ) -> list[str]:
        """Give what a check finds, with another stack file or account, or without the state."""
        settings = read(raw or stack_config(STACK))
        live = ops_cluster.Cluster(settings.context, account or self.cluster.kubeconfig)
        given = {"settings": settings, "stack": self.stack, "cluster": live}
        return asyncio.run(problems(check, given, state=state))

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


def thing(kind: str, name: str, namespace: str = "", **rest: Any) -> dict[str, Any]:
    """An object of the core's API unless `rest` says otherwise."""
    about = {"name": name, **({"namespace": namespace} if namespace else {})}
    metadata = {**about, **rest.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": kind, **rest, "metadata": metadata}
