"""What the gateway is told, and what it lets pass."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from aiohttp import hdrs
from model_name import canonical
from multidict import CIMultiDict, CIMultiDictProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the gateway needs to know; for example `GATEWAY_BANDWIDTH=89.6e9`."""

    listen: str = "0.0.0.0:11434"
    upstream: str = "http://127.0.0.1:11435"
    otlp_url: str = ""  # the whole URL, nothing is appended; empty: nothing is pushed
    push_seconds: float = 10
    poll_seconds: float = 15
    manage_token: str = field(default="", repr=False)  # empty: nobody changes models
    bandwidth: float = 0  # of the memory that models run in, bytes/s; 0: no ceiling is given
    read_bytes: str = ""  # "model=bytes,…" read per token, where that is less than the file (MoE)
    user_label: str = "off"  # "on": requests and tokens carry a pseudonym of the user
    user_key: str = field(default="", repr=False)
    user_header: str = "X-OpenWebUI-User-Id"
    user_cap: int = 20  # pseudonyms; all later users are "other"
    grace_seconds: float = 600  # for running answers after SIGTERM
    # What clients can make it hold: measured by `make bench`, far below the pod's 512 MiB.
    connections: int = 256
    header_bytes: int = 4096  # one header
    headers: int = 32
    body_bytes: int = 64 * 2**20  # one body; pictures travel in it
    bodies_bytes: int = 96 * 2**20  # all bodies under way
    blob_bytes: int = 256 * 2**30  # passed on while they come
    line_bytes: int = 2**16  # of an answer, to read along
    idle_seconds: float = 20  # until the next head is whole; Open WebUI keeps connections for 15
    client_seconds: float = 60  # until a body is whole, or more of an answer is taken
    # Ollama counts some ms of scheduling even for a model in memory; a load starts a process.
    load_seconds: float = 0.25

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the variables that begin with `GATEWAY_`, or say which one is wrong."""
        known: dict[str, Any] = {one.name: one.type for one in fields(cls)}
        given: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith("GATEWAY_"):
                continue
            if (name := variable.removeprefix("GATEWAY_").lower()) not in known:
                raise ValueError(f"{variable}: unknown setting")
            try:
                given[name] = known[name](text)
            except ValueError as error:
                raise ValueError(f"{variable}: {error}") from error
        settings = cls(**given)
        if settings.user_label not in ("on", "off"):
            raise ValueError(f"GATEWAY_USER_LABEL: on or off, not {settings.user_label}")
        if settings.user_label == "on" and not settings.user_key:
            raise ValueError("GATEWAY_USER_KEY: needed when GATEWAY_USER_LABEL is on")
        for name in known:
            if (
                known[name] in (int, float)
                and name != "bandwidth"
                and not getattr(settings, name) > 0
            ):
                raise ValueError(
                    f"GATEWAY_{name.upper()}: got {getattr(settings, name)}, want more than 0"
                )
        settings.bytes_read()
        return settings

    def bytes_read(self) -> dict[str, float]:
        """Split `read_bytes`."""
        try:
            pairs = (pair.split("=") for pair in self.read_bytes.split(",") if pair)
            return {canonical(name): float(size) for name, size in pairs}
        except ValueError as error:
            raise ValueError(f"GATEWAY_READ_BYTES: {error}") from error


class Route(NamedTuple):
    """What may be asked at a path."""

    methods: tuple[str, ...]
    manages: bool = False  # needs the token
    operation: str = ""  # `gen_ai.operation.name`, of inference only
    streams: bool = False  # what Ollama does when the body has no `stream`


MODEL = "gen_ai.request.model"
READS = (hdrs.METH_GET, hdrs.METH_HEAD)
POST = (hdrs.METH_POST,)
ROUTES = {
    "/": Route(READS),
    "/api/version": Route(READS),
    "/api/tags": Route(READS),
    "/api/ps": Route(READS),
    "/api/show": Route(POST),
    "/v1/models": Route(READS),
    "/v1/models/{model}": Route(READS),
    "/api/chat": Route(POST, operation="chat", streams=True),
    "/api/generate": Route(POST, operation="text_completion", streams=True),
    "/api/embed": Route(POST, operation="embeddings"),
    "/api/embeddings": Route(POST, operation="embeddings"),
    "/v1/chat/completions": Route(POST, operation="chat"),
    "/v1/responses": Route(POST, operation="chat"),
    "/v1/messages": Route(POST, operation="chat"),
    "/v1/completions": Route(POST, operation="text_completion"),
    "/v1/embeddings": Route(POST, operation="embeddings"),
    "/api/pull": Route(POST, manages=True, streams=True),
    "/api/create": Route(POST, manages=True, streams=True),
    "/api/push": Route(POST, manages=True, streams=True),
    "/api/copy": Route(POST, manages=True),
    "/api/delete": Route((hdrs.METH_DELETE,), manages=True),
    "/api/blobs/{digest}": Route((hdrs.METH_HEAD, hdrs.METH_POST), manages=True),
}
BLOBS = "/api/blobs/{digest}"
PATTERNS = {
    re.compile(r"/v1/models/[\w.:%~-]+(/[\w.:%~-]+)*", re.ASCII): "/v1/models/{model}",
    re.compile(r"/api/blobs/sha256[:-][0-9a-f]{64}", re.ASCII): BLOBS,
}
# RFC 9110 §7.6.1, and what aiohttp writes itself for each side.
NOT_PASSED_ON = {
    *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"),
    *("te", "trailer", "transfer-encoding", "upgrade", "host", "expect"),
}


class RefusalError(Exception):
    """A request that is not let through: HTTP status, words for the client, and which limit."""

    def __init__(self, status: int, why: str, limit: str = "") -> None:
        super().__init__(why)
        self.status, self.why, self.limit = status, why, limit

    @property
    def outcome(self) -> str:
        """As what it is counted."""
        by_status = {401: "refused", 403: "refused", 404: "refused", 405: "refused", 503: "busy"}
        return by_status.get(self.status, "bad_request")


def passed_on(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Copy the headers that are not of this connection alone."""
    named = ",".join(headers.getall(hdrs.CONNECTION, [])).lower().split(",")
    dropped = NOT_PASSED_ON.union(name.strip() for name in named)
    return CIMultiDict((key, text) for key, text in headers.items() if key.lower() not in dropped)
