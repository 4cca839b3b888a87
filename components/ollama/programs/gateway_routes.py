"""The routes and headers that the gateway passes on, and its refusal of all others."""

import re
from typing import NamedTuple

from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy


class Route(NamedTuple):
    """A route of Ollama's API; those of other APIs (`/v1/…`) are unknown, as nothing uses them."""

    methods: tuple[str, ...]
    manages: bool = False  # requires the token
    operation: str = ""  # `gen_ai.operation.name`; empty: no inference
    streams: bool = False  # default of the body's `stream`


READS = (hdrs.METH_GET, hdrs.METH_HEAD)
POST = (hdrs.METH_POST,)
ROUTES = {
    "/": Route(READS),
    "/api/version": Route(READS),
    "/api/tags": Route(READS),
    "/api/ps": Route(READS),
    "/api/show": Route(POST),
    "/api/chat": Route(POST, operation="chat", streams=True),
    "/api/generate": Route(POST, operation="text_completion", streams=True),
    "/api/embed": Route(POST, operation="embeddings"),
    "/api/embeddings": Route(POST, operation="embeddings"),
    "/api/pull": Route(POST, manages=True, streams=True),
    "/api/create": Route(POST, manages=True, streams=True),
    "/api/push": Route(POST, manages=True, streams=True),
    "/api/copy": Route(POST, manages=True),
    "/api/delete": Route((hdrs.METH_DELETE,), manages=True),
    "/api/blobs/{digest}": Route((hdrs.METH_HEAD, hdrs.METH_POST), manages=True),
}
BLOBS = "/api/blobs/{digest}"
BLOB = re.compile(r"/api/blobs/sha256[:-][0-9a-f]{64}", re.ASCII)
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
