"""Kills `up` and `destroy` at a moment of a test's choice: while the API server holds a request."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
from kubernetes import client
from live_stack import LiveStack
from waiting import eventually

from ops.cluster import METADATA
from ops.cluster import Cluster as Live
from ops.stacks import Stack
from sandbox.build import Tools
from sandbox.engine import PROJECT

RUN = """
import sys
from pathlib import Path, PosixPath
sys.path.insert(0, {project!r})
from sandbox.build import Tools
from sandbox.cluster import Cluster
from sandbox.engine import Engine
tools = {tools}
Engine(Cluster(Path({cluster!r}), tools), tools, Path({work!r})).{verb}(print)
"""
HELM = "has(object.metadata.labels) && 'owner' in object.metadata.labels"
"""Of a Secret: Helm keeps a release in it."""
ANNOTATED = "has(object.metadata.annotations) && 'meta.helm.sh/release-name' in"
IN_RELEASE = f"{ANNOTATED} object.metadata.annotations"
"""Of anything: Helm made it."""
RBAC = "rbac.authorization.k8s.io"
PASSING = (
    "Event",
    "Lease",
    "Pod",
    "EndpointSlice",
    "Endpoints",
    "IPAddress",
    "ControllerRevision",
    "ConfigurationState",
)
"""Kinds whose objects come, go or get names by themselves."""


class Hold:
    """A request that the API server keeps waiting, for up to half a minute."""

    def __init__(self, listener: socket.socket, admission: Any) -> None:
        self._listener, self._admission = listener, admission

    def reached(self) -> None:
        """Wait until the request has come."""
        self._listener.settimeout(300)
        self._caller, _ = self._listener.accept()

    def release(self) -> None:
        """Let it go on, and whatever comes after it."""
        self._admission.delete_validating_webhook_configuration("hold")
        self._listener.close()
        if hasattr(self, "_caller"):
            self._caller.close()


@contextlib.contextmanager
def held(
    live_stack: LiveStack, verb: str, resource: str, when: str = "true", policy: str = "Ignore"
) -> Iterator[Hold]:
    """Hold the first requests that `verb` a `resource` for which the CEL expression `when` holds.

    The API server asks a webhook that never answers; when its connection ends, the request goes
    on, whether its caller still lives or not, or with the `policy` "Fail" it is refused.
    """
    admission: Any = client.AdmissionregistrationV1Api(live_stack.core.api_client)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        rule = {
            "apiGroups": ["*"],
            "apiVersions": ["*"],
            "operations": [verb],
            "resources": [resource],
        }
        webhook = {
            "name": "hold.homelab.test",
            "clientConfig": {"url": f"https://127.0.0.1:{listener.getsockname()[1]}/"},
            "rules": [rule],
            "matchConditions": [
                {"name": "real", "expression": "!has(request.dryRun) || !request.dryRun"},
                {"name": "when", "expression": when},
            ],
            "failurePolicy": policy,
            "timeoutSeconds": 30,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        admission.create_validating_webhook_configuration(
            {"metadata": {"name": "hold"}, "webhooks": [webhook]}
        )
        hold = Hold(listener, admission)
        try:
            yield hold
        finally:
            with contextlib.suppress(client.ApiException):
                hold.release()


class Run:
    """An `up` or a `destroy` in a process of its own."""

    def __init__(self, live_stack: LiveStack, tools: Tools, verb: str = "up") -> None:
        paths = {
            "project": PROJECT,
            "cluster": live_stack.cluster.folder,
            "work": live_stack.project,
        }
        names = {name: str(path) for name, path in paths.items()}
        # Not built again: another worker may be installing programs, which takes minutes.
        script = RUN.format(tools=tools, verb=verb, **names)
        self._log = live_stack.project / "run.log"
        with self._log.open("wb") as log:
            self._launcher = subprocess.Popen(
                [sys.executable, "-c", script], stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self, *, plugins: bool) -> list[psutil.Process]:
        """End the CLI, and its plugins with it or not, as a dead battery does; give the plugins."""
        family = psutil.Process(self._launcher.pid).children(recursive=True)
        # Without the CLI nothing would be interrupted.
        assert "pulumi" in [process.name() for process in family], self._log.read_text()[-2000:]
        left = [one for one in family if "resource" in one.name()]
        for process in family:
            if plugins or process not in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        os.kill(self._launcher.pid, signal.SIGKILL)
        self._launcher.wait()
        return left


def stack_of(live_stack: LiveStack) -> Stack:
    """Give the stack as its owner's commands reach it."""
    return Stack(
        name="sandbox",
        cli=live_stack.engine.cli,
        kubeconfig=live_stack.cluster.kubeconfig,
        simulated=True,
        folder=live_stack.engine.work,
    )


def end(processes: list[psutil.Process]) -> None:
    """End plugins that were left, as the message of `recover` says."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert eventually(lambda: not any(one.is_running() for one in processes))


def objects(live_stack: LiveStack) -> set[str]:
    """Kind, namespace and name of every object that stays."""
    live = Live(live_stack.cluster.context, live_stack.cluster.kubeconfig)
    # Each kind in one version only.
    kinds = {(kind.group, kind.name): kind for kind in live.kinds.values()}
    places = set()
    for (group, name), kind in kinds.items():
        root = f"/apis/{group}/{kind.version}" if group else f"/api/{kind.version}"
        if name in PASSING or (name.endswith(("Review", "Binding", "Status")) and group != RBAC):
            continue
        listed = live.ask(f"{root}/{kind.plural}", METADATA) or {}
        for item in listed.get("items") or []:
            about = item["metadata"]
            place = f"{name}.{group} {about.get('namespace', '')}/{about['name']}"
            # Revisions are counted on.
            places.add(re.sub(r"(sh\.helm\.release\.v1\..*\.v)\d+$", r"\1", place))
    return places


def running(live_stack: LiveStack) -> dict[str, str]:
    """Uid of each pod that runs, by namespace and name."""
    pods = live_stack.core.list_pod_for_all_namespaces().items
    return {
        f"{pod.metadata.namespace}/{pod.metadata.name}": pod.metadata.uid
        for pod in pods
        if pod.status.phase == "Running"
    }
