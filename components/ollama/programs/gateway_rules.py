"""Settings of the gateway, and the routes and headers that it passes on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from aiohttp import hdrs
from model_name import canonical
from multidict import CIMultiDict, CIMultiDictProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings by environment variable, such as `GATEWAY_BANDWIDTH=89.6e9`."""

    listen: str = "0.0.0.0:11434"
    upstream: str = "http://127.0.0.1:11435"
    otlp_url: str = ""  # complete; empty: no push
    push_seconds: float = 10
    poll_seconds: float = 15
    manage_token: str = field(default="", repr=False)  # empty: models cannot be changed
    bandwidth: float = 0  # memory bandwidth in bytes/s; 0: unknown
    read_bytes: str = ""  # "model=bytes,…" read per token, if less than the file (MoE)
    user_label: str = "off"  # "on": metrics have a pseudonym of the user
    user_key: str = field(default="", repr=False)
    user_header: str = "X-OpenWebUI-User-Id"
    user_cap: int = 20  # pseudonyms; further users are "other"
    grace_seconds: float = 600  # for running responses after SIGTERM
    # Limits of memory: `make bench` measures that they stay far below the pod's 512 MiB.
    connections: int = 256
    header_bytes: int = 4096  # of a header
    headers: int = 32
    body_bytes: int = 64 * 2**20  # of a body, which may have pictures
    bodies_bytes: int = 96 * 2**20  # of all bodies in memory
    # Ollama needs 170 times the size of a text to split it into tokens (0.24, measured), while it
    # plans 2 GiB for its own process.
    text_bytes: int = 2 * 2**20  # of a body without its pictures
    texts_bytes: int = 8 * 2**20  # of all texts that Ollama has not begun to answer
    other_bytes: int = 2**16  # of a body where no model runs, which is not parsed
    blob_bytes: int = 256 * 2**30  # of a model file, which is streamed
    line_bytes: int = 2**16  # of a response that is parsed
    idle_seconds: float = (
        20  # until the next head is complete; Open WebUI keeps connections for 15 s
    )
    client_seconds: float = 60  # until a body is complete, or more of a response is read
    # Shorter loads are not recorded: a loaded model has some ms of scheduling.
    load_seconds: float = 0.25

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> "Settings":
        """Parse the variables that begin with `GATEWAY_`; raises ValueError."""
        known: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith("GATEWAY_"):
                continue
            if (name := variable.removeprefix("GATEWAY_").lower()) not in known:
                raise ValueError(f"{variable}: unknown setting")
            try:
                values[name] = known[name](text)
            except ValueError as error:
                raise ValueError(f"{variable}: {error}") from error
        settings = cls(**values)
        if settings.user_label not in ("on", "off"):
            raise ValueError(f"GATEWAY_USER_LABEL: got {settings.user_label}, want on or off")
        if settings.user_label == "on" and not settings.user_key:
            raise ValueError("GATEWAY_USER_KEY: missing, want a key while GATEWAY_USER_LABEL is on")
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
        """Return `read_bytes` by model; raises ValueError."""
        try:
            pairs = (pair.split("=") for pair in self.read_bytes.split(",") if pair)
            return {canonical(name): float(size) for name, size in pairs}
        except ValueError as error:
            raise ValueError(f"GATEWAY_READ_BYTES: {error}") from error


class Route(NamedTuple):
    """A route of Ollama's API."""

    methods: tuple[str, ...]
    manages: bool = False  # requires the token
    operation: str = ""  # `gen_ai.operation.name`; empty: no inference
    streams: bool = False  # default of the body's `stream`


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
# RFC 9110 §7.6.1, and headers that aiohttp writes for each side.
HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"),
    *("te", "trailer", "transfer-encoding", "upgrade", "host", "expect"),
}


class RefusalError(Exception):
    """A refused request: HTTP status, reason for the client, and the limit that it exceeds."""

    def __init__(self, status: int, reason: str, limit: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.limit = status, reason, limit

    @property
    def outcome(self) -> str:
        """Value of the label `ollama.outcome`."""
        by_status = {
            401: "refused",
            403: "refused",
            404: "refused",
            405: "refused",
            503: "busy",
        }
        return by_status.get(self.status, "bad_request")


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return the end-to-end headers."""
    named = ",".join(headers.getall(hdrs.CONNECTION, [])).lower().split(",")
    hop_by_hop = HOP_BY_HOP.union(name.strip() for name in named)
    return CIMultiDict(
        (key, text) for key, text in headers.items() if key.lower() not in hop_by_hop
    )
