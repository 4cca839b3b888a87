"""The `kubernetes` plugin, for the sandbox cluster only."""

# The names of the methods are those of the gRPC service; a long list of words is one string.
# ruff: noqa: N802, SIM905

from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from pulumi.runtime.proto import provider_pb2

from sandbox.stand_in import diff, release, wire
from sandbox.stand_in.api import CONTEXT, Cluster
from sandbox.stand_in.base import NotReadyError, RefusedError, StandIn, answering, differences
from sandbox.stand_in.lifecycle import Lifecycle

# Source: the inputs of Provider in pulumi-kubernetes 4.34.2 and its schema, plus the engine's own.
INPUTS = frozenset(
    """alwaysRender cluster clusterIdentifier context deleteUnreachable enableConfigMapMutable
    enablePatchForce enableReplaceCRD enableSecretMutable enableServerSideApply helmReleaseSettings
    kubeClientSettings kubeconfig namespace renderYamlToDirectory skipUpdateUnreachable strictMode
    suppressDeprecationWarnings suppressHelmHookWarnings upsertExistingObjects version
    pluginDownloadURL __internal""".split()
)


class Kubernetes(StandIn):
    """Objects of every kind by server-side apply; Helm releases are only recorded."""

    package = "pulumi_kubernetes"

    def __init__(self, engine: str, kubeconfig: Path) -> None:
        super().__init__(engine)
        self.kubeconfig = kubeconfig
        self._life: Lifecycle | None = None

    @property
    def life(self) -> Lifecycle:
        """Say what to do with objects; raise RefusedError before Configure."""
        if self._life is None:
            message = "the stand-in was used before it was configured"
            raise RefusedError(message)
        return self._life

    @answering
    def CheckConfig(self, request: Any, _context: Any) -> provider_pb2.CheckResponse:
        """Refuse another cluster and unknown provider inputs."""
        inputs = wire.plain(wire.read(request.news))
        answer = provider_pb2.CheckResponse(inputs=request.news)
        for key, reason in self._foreign(inputs):
            answer.failures.add(property=key, reason=reason)
        for key in sorted(set(inputs) - INPUTS):
            answer.failures.add(
                property=key, reason=f"{key} is no input of the kubernetes provider"
            )
        return answer

    @answering
    def DiffConfig(self, request: Any, _context: Any) -> provider_pb2.DiffResponse:
        """Replace the provider only if its cluster identifier becomes another."""
        old, new = (wire.plain(wire.read(side)) for side in (request.old_inputs, request.news))
        # Another identifier is another cluster; gaining or losing one is not.
        moved = ["clusterIdentifier"] if old.keys() & new.keys() >= {"clusterIdentifier"} else []
        return differences(diff.marked(diff.changes(old, new), moved), delete_first=False)

    @answering
    def Configure(self, request: Any, _context: Any) -> provider_pb2.ConfigureResponse:
        """Connect to the sandbox; raise RefusedError for any other cluster."""
        settings = wire.plain(wire.read(request.args))
        for _, reason in self._foreign(settings):
            raise RefusedError(reason)
        self._life = Lifecycle(Cluster(self.kubeconfig), settings, self.cancelled, self.warn)
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @answering
    def Check(self, request: Any, _context: Any) -> provider_pb2.CheckResponse:
        """Refuse what has no name, version or kind, and fill in the default namespace."""
        if request.type == release.RELEASE:
            return release.check(request)
        raw = wire.read(request.news)
        inputs = wire.plain(raw)
        answer = provider_pb2.CheckResponse()
        _, _, kind = request.type.rpartition(":")
        if not inputs.get("apiVersion"):
            answer.failures.add(property="apiVersion", reason="apiVersion is missing")
        if inputs.get("kind") != kind:
            reason = f"kind is {inputs.get('kind')}, but the resource is a {kind}"
            answer.failures.add(property="kind", reason=reason)
        metadata = inputs.get("metadata") or {}
        if not wire.has_unknown(metadata) and not metadata.get("name"):
            reason = "metadata.name is missing: names are not made up here (autonaming is off)"
            answer.failures.add(property="metadata.name", reason=reason)
        if not answer.failures:
            raw = wire.reseal(self.life.placed(inputs), raw)
        answer.inputs.CopyFrom(wire.write(raw))
        return answer

    @answering
    def Diff(self, request: Any, _context: Any) -> provider_pb2.DiffResponse:
        """Compare the inputs with the live state as the state file has it."""
        if request.type == release.RELEASE:
            return differences(release.diff(request), delete_first=False)
        state, old, new = (
            wire.plain(wire.read(side)) for side in (request.olds, request.old_inputs, request.news)
        )
        found = [
            change
            for change in self.life.changes(request.urn, state, old, new)
            if not diff.ignored(change, request.ignoreChanges)
        ]
        return differences(found, delete_first=True)

    @answering
    def Create(self, request: Any, _context: Any) -> provider_pb2.CreateResponse:
        """Create an object that must not exist yet, or rehearse that."""
        raw = wire.read(request.properties)
        if request.type == release.RELEASE:
            name, state = self._record(request, raw)
            return provider_pb2.CreateResponse(id=name, properties=wire.write(state))
        obj = self.life.placed(wire.plain(raw))
        if request.preview:
            live = self.life.rehearse(request.urn, obj, new=True)
            return provider_pb2.CreateResponse(properties=wire.write(recorded(live, raw)))
        try:
            live = self.life.create(request.urn, obj, request.timeout)
        except NotReadyError as error:
            error.keep(_identity(error.live), recorded(error.live, raw), raw)
            raise
        return provider_pb2.CreateResponse(
            id=_identity(live), properties=wire.write(recorded(live, raw))
        )

    @answering
    def Update(self, request: Any, _context: Any) -> provider_pb2.UpdateResponse:
        """Apply the whole new object, or rehearse that."""
        raw = wire.read(request.news)
        if request.type == release.RELEASE:
            _, state = self._record(request, raw)
            return provider_pb2.UpdateResponse(properties=wire.write(state))
        obj = self.life.placed(wire.plain(raw))
        try:
            if request.preview:
                live = self.life.rehearse(request.urn, obj, new=False)
            else:
                live = self.life.update(request.urn, obj, request.timeout)
        except NotReadyError as error:
            error.keep(request.id, recorded(error.live, raw), raw)
            raise
        return provider_pb2.UpdateResponse(properties=wire.write(recorded(live, raw)))

    @answering
    def Read(self, request: Any, _context: Any) -> provider_pb2.ReadResponse:
        """Look at the live object; by id alone this is an import."""
        raw = wire.read(request.inputs)
        if request.type == release.RELEASE:
            known = bool(request.properties.fields)
            return provider_pb2.ReadResponse(
                id=request.id if known else "", properties=request.properties, inputs=request.inputs
            )
        old = wire.plain(raw)
        live = self.life.read(old or _named(request))
        if live is None:
            return provider_pb2.ReadResponse()
        inputs = wire.reseal(self.life.inputs(live, old), raw)
        state = recorded(live, inputs)
        try:
            if old:
                self.life.check_ready(live)
        except NotReadyError as error:
            error.keep(_identity(live), state, inputs)
            raise
        return provider_pb2.ReadResponse(
            id=_identity(live), properties=wire.write(state), inputs=wire.write(inputs)
        )

    @answering
    def Delete(self, request: Any, _context: Any) -> Empty:
        """Delete the object and wait until it is gone."""
        if request.type != release.RELEASE:
            state = wire.plain(wire.read(request.properties))
            self.life.remove(state or _named(request), request.timeout)
        return Empty()

    def _foreign(self, inputs: dict[str, Any]) -> list[tuple[str, str]]:
        """Find the provider inputs that name another cluster than the sandbox, and what to say."""
        own = {"context": ("", CONTEXT), "kubeconfig": ("", str(self.kubeconfig))}
        return [
            (key, f"{key}: the stand-in only talks to {CONTEXT}, not to {str(value)[:60]!r}")
            for key, allowed in own.items()
            if (value := inputs.get(key) or "") not in allowed and not wire.has_unknown(value)
        ]

    def _record(self, request: Any, raw: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        name, state = release.state(raw, self.life.namespace)
        if not request.preview:
            self.warn(request.urn, release.WARNING.format(name=wire.plain(raw)["name"]))
        return name, state


def _identity(live: dict[str, Any]) -> str:
    """Write the id as the official provider does: `namespace/name`, or `name`."""
    metadata = live["metadata"]
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def _named(request: Any) -> dict[str, Any]:
    """Make up an object of which only the type and the id are known."""
    _, version, kind = request.type.split(":")
    namespace, _, name = request.id.rpartition("/")
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version.removeprefix("core/"), "kind": kind, "metadata": metadata}


def recorded(live: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """Write `live` as the engine records it: without managed fields, sealed where `raw` is."""
    metadata = {key: value for key, value in live["metadata"].items() if key != "managedFields"}
    state: dict[str, Any] = wire.reseal({**live, "metadata": metadata}, raw)
    if live.get("kind") == "Secret":
        state |= {key: wire.seal(state[key]) for key in ("data", "stringData") if key in state}
    return state
