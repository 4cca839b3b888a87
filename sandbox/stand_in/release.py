"""Helm releases: recorded, never rendered."""

from typing import Any

from pulumi.runtime.proto import provider_pb2

from sandbox.stand_in import wire
from sandbox.stand_in.diff import changes, ignored, marked

RELEASE = "kubernetes:helm.sh/v3:Release"
WARNING = (
    "{name}: the Helm chart is recorded but not rendered: the stand-in has no Helm; "
    "its pods, CRDs and claims do not exist here"
)


def check(request: Any) -> provider_pb2.CheckResponse:
    """Accept the inputs if they pin a release."""
    inputs = wire.plain(wire.read(request.news))
    answer = provider_pb2.CheckResponse(inputs=request.news)
    for key in ("name", "chart", "version"):
        if not inputs.get(key):
            answer.failures.add(
                property=key, reason=f"{key} is missing: write it down, or it moves"
            )
    return answer


def diff(request: Any) -> Any:
    """Find the changes per value; another name or namespace is another release."""
    old, new = (wire.plain(wire.read(side)) for side in (request.old_inputs, request.news))
    found = (change for change in changes(old, new) if not ignored(change, request.ignoreChanges))
    return marked(found, ["name", "namespace"])


def state(raw: dict[str, Any], namespace: str) -> tuple[str, dict[str, Any]]:
    """Give the id and the recorded properties of a release with the sealed inputs `raw`."""
    inputs = wire.plain(raw)
    namespace = inputs.get("namespace") or namespace
    status = {
        "name": inputs["name"],
        "namespace": namespace,
        "chart": inputs["chart"],
        "version": inputs["version"],
        "revision": 1,
        "status": "not rendered",
    }
    return f"{namespace}/{inputs['name']}", raw | {"namespace": namespace, "status": status}
