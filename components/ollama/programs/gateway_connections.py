"""Connections of clients: how many there are, what each may hold, and what is no request."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import hdrs, web, web_protocol
from aiohttp.http_exceptions import LineTooLong
from gateway_meters import Call, Meters
from gateway_rules import Settings
from gateway_tee import Tee

# Requests that a connection may send ahead, each with a head in memory; no client of ours does.
web_protocol.MAX_MSG_QUEUE_SIZE = 1
FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Log:
    """Prints at most one line a second of this kind, with a count of those left out."""

    def __init__(self) -> None:
        self.next, self.left_out = 0.0, 0

    def __call__(self, text: str) -> None:
        """Print, or count."""
        if (now := time.monotonic()) < self.next:
            self.left_out += 1
            return
        more = f" ({self.left_out} more before)" if self.left_out else ""
        print(text[:200] + more)
        self.next, self.left_out = now + 1, 0


class Handler(web.RequestHandler):
    """A connection of a client that also counts what is not even a request."""

    __slots__ = ("server",)
    server: "Server"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many."""
        super().connection_made(transport)
        transport = cast(asyncio.Transport, transport)  # uvloop's is registered as none
        # Nothing waits in memory unseen: a write is done when the kernel has all of it.
        transport.set_write_buffer_limits(0)
        if len(self.server.connections) > self.server.settings.connections:
            self.server.meters.finish(self.server.call(), "busy", "connections")
            self.server.log("refused with 503: too many connections")
            transport.write(FULL)
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, without repeating any of it in words or logs."""
        if request.writer.output_size > 0:
            raise ConnectionResetError
        if message is not None:  # of the parser; what `Gateway.handle` raises is counted there
            many = message.startswith("Too many headers") or isinstance(exc, LineTooLong)
            status = 431 if many else status
            self.server.meters.finish(self.server.call(), "bad_request", "head" if many else "http")
        self.server.log(f"refused with {status}: {type(exc).__name__}")
        return refused("/", status, "bad request" if status < 500 else "the gateway failed")


class Server(web.Server):
    """What listens; its connections count with `meters`."""

    settings: Settings
    meters: Meters

    def __call__(self) -> web.RequestHandler:
        """Make a connection."""
        handler = Handler(self, loop=self._loop, **self._kwargs)
        handler.server = self
        return handler

    def __init__(self, settings: Settings, meters: Meters, handler: Handle) -> None:
        self.settings, self.meters, self.log = settings, meters, Log()
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=settings.header_bytes,
            max_field_size=settings.header_bytes,
            max_headers=settings.headers,
            keepalive_timeout=settings.idle_seconds,  # also until the first head is whole
            lingering_time=2,
        )

    def call(self) -> Call:
        """Begin to count a request."""
        return Call(tee=Tee(self.settings.line_bytes), start=time.monotonic())


def refused(path: str, status: int, why: str) -> web.Response:
    """Return an error as Ollama writes it on this kind of path; it ends the connection."""
    wrapped = {"message": why, "type": "api_error", "param": None, "code": None}
    body = {"error": wrapped if path.startswith("/v1/") else why}
    response = web.json_response(body, status=status, headers={hdrs.SERVER: "gateway"})
    if status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    response.force_close()
    return response
