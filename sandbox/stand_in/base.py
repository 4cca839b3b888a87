"""What both plugins share: answers to the engine, errors, the log."""

# The names of the methods are those of the gRPC service.
# ruff: noqa: N802

import functools
import threading
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderServicer

from sandbox.stand_in import wire

Result = TypeVar("Result")
# The engine sets no limit either: a stack's largest ConfigMap is close to gRPC's default of 4 MiB.
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class RefusedError(Exception):
    """Something the user has to know, in one line."""


class NotReadyError(RefusedError):
    """An object that exists but did not become ready; it stays in the state."""

    def __init__(self, reasons: list[str], live: dict[str, Any]) -> None:
        super().__init__(reasons[0])
        self.reasons = reasons
        self.live = live
        self.detail = provider_pb2.ErrorResourceInitFailed(reasons=reasons)

    def keep(self, identity: str, state: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Say what the engine shall record of the object, both with secrets sealed."""
        self.detail = provider_pb2.ErrorResourceInitFailed(
            id=identity,
            properties=wire.write(state),
            inputs=wire.write(inputs),
            reasons=[wire.hide(reason, inputs) for reason in self.reasons],
        )


class Change(NamedTuple):
    """One property that differs between two objects."""

    path: tuple[str | int, ...]
    kind: str
    """ADD, DELETE or UPDATE."""
    replaces: bool = False
    """Whether only a new object can have it."""

    @property
    def text(self) -> str:
        """Write the path as the engine does, e.g. `spec.ports[0].port`."""
        parts = (
            f"[{part}]" if isinstance(part, int) else f".{part}" if _simple(part) else f'["{part}"]'
            for part in self.path
        )
        return "".join(parts).removeprefix(".")


def _simple(key: str) -> bool:
    return key.isidentifier()


def answering(method: Callable[..., Result]) -> Callable[..., Result]:
    """Turn what `method` raises into a gRPC status the engine shows as one line."""

    @functools.wraps(method)
    def call(self: Any, request: Any, context: Any) -> Result:
        details = None
        try:
            return method(self, request, context)
        except NotReadyError as error:
            message, details = str(error), error.detail
        except RefusedError as error:
            message = str(error)
        except Exception as error:  # a plugin's traceback helps no user
            message = f"{type(error).__name__} in the stand-in: {error}"
        message = wire.one_line(message)
        for field in ("properties", "inputs", "news"):
            if field in request.DESCRIPTOR.fields_by_name:
                message = wire.hide(message, wire.read(getattr(request, field)))
        status = Status(code=grpc.StatusCode.UNKNOWN.value[0], message=message)
        if details is not None:
            status.details.add().Pack(details)
        answer = grpc.Status()
        answer.code, answer.details = grpc.StatusCode.UNKNOWN, message
        answer.trailing_metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        context.abort_with_status(answer)
        raise AssertionError

    return call


def differences(changes: Iterable[Change], *, delete_first: bool) -> provider_pb2.DiffResponse:
    """Put `changes` in the engine's form; `delete_first` holds where one replaces."""
    answer = provider_pb2.DiffResponse(hasDetailedDiff=True)
    for change in changes:
        kind = change.kind + ("_REPLACE" if change.replaces else "")
        answer.detailedDiff[change.text].kind = provider_pb2.PropertyDiff.Kind.Value(kind)
        answer.detailedDiff[change.text].inputDiff = True
        if change.path[0] not in answer.diffs:
            answer.diffs.append(str(change.path[0]))
        if change.replaces:
            answer.replaces.append(change.text)
    some = bool(answer.detailedDiff)
    answer.changes = (
        provider_pb2.DiffResponse.DIFF_SOME if some else (provider_pb2.DiffResponse.DIFF_NONE)
    )
    answer.deleteBeforeReplace = delete_first and bool(answer.replaces)
    return answer


class StandIn(ResourceProviderServicer):
    """A provider that does what is common to all and refuses what neither can do."""

    package: str
    """The Python package whose version the plugin reports."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.cancelled = threading.Event()

    def warn(self, urn: str, message: str) -> None:
        """Show `message` as a warning of the resource `urn`."""
        with grpc.insecure_channel(self.engine) as channel:
            engine_pb2_grpc.EngineStub(channel).Log(
                engine_pb2.LogRequest(severity=engine_pb2.WARNING, message=message, urn=urn)
            )

    def Handshake(self, request: Any, _context: Any) -> provider_pb2.ProviderHandshakeResponse:
        """Learn where the engine is, and say that secrets come as such."""
        self.engine = request.engine_address or self.engine
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    def Attach(self, request: Any, _context: Any) -> Empty:
        """Talk to another engine from now on."""
        self.engine = request.address
        return Empty()

    def GetPluginInfo(self, _request: Any, _context: Any) -> plugin_pb2.PluginInfo:
        """Report the version of the SDK this stands in for."""
        return plugin_pb2.PluginInfo(version=version(self.package))

    def GetSchema(self, _request: Any, _context: Any) -> provider_pb2.GetSchemaResponse:
        """Give an empty schema: no code is made from a stand-in."""
        return provider_pb2.GetSchemaResponse(schema="{}")

    def CheckConfig(self, request: Any, _context: Any) -> provider_pb2.CheckResponse:
        """Accept the configuration of the provider as it is."""
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, _request: Any, _context: Any) -> provider_pb2.DiffResponse:
        """Find no difference in the configuration."""
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, _request: Any, _context: Any) -> provider_pb2.ConfigureResponse:
        """Take previews and secrets."""
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @answering
    def Invoke(self, request: Any, _context: Any) -> provider_pb2.InvokeResponse:
        """Refuse every function."""
        message = f"{request.tok}: the stand-in has no functions"
        raise RefusedError(message)

    @answering
    def Construct(self, request: Any, _context: Any) -> provider_pb2.ConstructResponse:
        """Refuse every remote component."""
        message = f"{request.type}: the stand-in has no components"
        raise RefusedError(message)

    def Cancel(self, _request: Any, _context: Any) -> Empty:
        """End every wait."""
        self.cancelled.set()
        return Empty()
