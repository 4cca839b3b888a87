"""Kills `up` and `destroy` while the API server holds a request of theirs."""

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
"""CEL: a Secret in which Helm keeps a release."""
ANNOTATED = "has(object.metadata.annotations) && 'meta.helm.sh/release-name' in"
IN_RELEASE = f"{ANNOTATED} object.metadata.annotations"
"""CEL: an object that Helm created."""
RBAC = "rbac.authorization.k8s.io"
TRANSIENT = (
    "Event",
    "Lease",
    "Pod",
    "EndpointSlice",
    "Endpoints",
    "IPAddress",
    "ControllerRevision",
    "ReplicaSet",
    "ConfigurationState",
)
"""Kinds whose objects controllers create, delete or name."""


class Hold:
    """A request that the API server keeps waiting, for at most 30 seconds."""

    def __init__(self, listener: socket.socket, admission: Any) -> None:
        self._listener, self._admission = listener, admission

    def reached(self) -> None:
        """Wait until the API server has received the request."""
        self._listener.settimeout(300)
        self._caller, _ = self._listener.accept()

    def release(self) -> None:
        """Let this request and all later ones continue."""
        self._admission.delete_validating_webhook_configuration("hold")
        self._listener.close()
        if hasattr(self, "_caller"):
            self._caller.close()


@contextlib.contextmanager
def held(
    live_stack: LiveStack, verb: str, resource: str, when: str = "true", policy: str = "Ignore"
) -> Iterator[Hold]:
    """Hold requests to `verb` a `resource` for which the CEL expression `when` is true.

    The API server calls a webhook that never answers. When the connection to it closes, the
    request continues, even if its client is gone; with the `policy` "Fail" it is refused.
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
        # `tools` as they are: build() would wait for another worker that installs programs.
        script = RUN.format(tools=tools, verb=verb, **names)
        self._log = live_stack.project / "run.log"
        with self._log.open("wb") as log:
            self._launcher = subprocess.Popen(
                [sys.executable, "-c", script], stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self, *, plugins: bool) -> list[psutil.Process]:
        """Send SIGKILL to the CLI, with `plugins` to its plugins too; return the plugins."""
        family = psutil.Process(self._launcher.pid).children(recursive=True)
        assert "pulumi" in [process.name() for process in family], self._log.read_text()[-2000:]
        resource_plugins = [process for process in family if "resource" in process.name()]
        for process in family:
            if plugins or process not in resource_plugins:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        os.kill(self._launcher.pid, signal.SIGKILL)
        self._launcher.wait()
        return resource_plugins


def killed(
    live_stack: LiveStack,
    tools: Tools,
    command: str,
    verb: str,
    resource: str,
    when: str = "true",
    *,
    policy: str = "Ignore",
    plugins: bool = True,
) -> list[psutil.Process]:
    """Kill the `command`, `up` or `destroy`, at this request (see `held`); return its plugins."""
    with held(live_stack, verb, resource, when, policy) as hold:
        run = Run(live_stack, tools, command)
        hold.reached()
        return run.kill(plugins=plugins)


def stack_of(live_stack: LiveStack) -> Stack:
    """Return the stack as `ops` reaches it."""
    return Stack(
        name="sandbox",
        cli=live_stack.engine.cli,
        kubeconfig=live_stack.cluster.kubeconfig,
        folder=live_stack.engine.work,
    )


def end(processes: list[psutil.Process]) -> None:
    """Kill plugins that outlived their CLI, as `recover` asks for."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert eventually(lambda: not any(process.is_running() for process in processes))


def objects(live_stack: LiveStack) -> set[str]:
    """Return kind, namespace and name of every object, without the transient ones."""
    live = Live(live_stack.cluster.context, live_stack.cluster.kubeconfig)
    # A kind may be served in several versions.
    kinds = {
        (version.rpartition("/")[0], name): kind for (version, name), kind in live.kinds.items()
    }
    names = set()
    for (group, name), kind in kinds.items():
        if name in TRANSIENT or (name.endswith(("Review", "Binding", "Status")) and group != RBAC):
            continue
        answer = live.ask(f"{kind.root}/{kind.plural}", METADATA) or {}
        for item in answer.get("items") or []:
            metadata = item["metadata"]
            line = f"{name}.{group} {metadata.get('namespace', '')}/{metadata['name']}"
            # Each upgrade increments the revision.
            names.add(re.sub(r"(sh\.helm\.release\.v1\..*\.v)\d+$", r"\1", line))
    return names


def running(live_stack: LiveStack) -> dict[str, str]:
    """Return the UID of each running pod, by `namespace/name`."""
    pods = live_stack.core.list_pod_for_all_namespaces().items
    return {
        f"{pod.metadata.namespace}/{pod.metadata.name}": pod.metadata.uid
        for pod in pods
        if pod.status.phase == "Running"
    }
