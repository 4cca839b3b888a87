"""Server of the gateway: limits of connections, and responses to invalid requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import hdrs, web, web_protocol
from aiohttp.http_exceptions import LineTooLong
from gateway_meters import Call, Meters
from gateway_settings import Settings
from gateway_stream import StreamParser

# Pipelined requests of a connection, each with a head in memory; no known client pipelines.
web_protocol.MAX_MSG_QUEUE_SIZE = 1
FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Log:
    """Prints at most one line a second, with the number of omitted lines."""

    def __init__(self) -> None:
        self.next, self.omitted = 0.0, 0

    def __call__(self, text: str) -> None:
        """Print a line, or count it as omitted."""
        if (now := time.monotonic()) < self.next:
            self.omitted += 1
            return
        more = f" ({self.omitted} omitted before)" if self.omitted else ""
        print(text[:200] + more)
        self.next, self.omitted = now + 1, 0


class Handler(web.RequestHandler):
    """A connection of a client, which also counts invalid requests."""

    __slots__ = ("server",)
    server: "Server"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or respond 503 if there are too many."""
        super().connection_made(transport)
        transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        # A write then completes when the kernel has all of it, so nothing is buffered here.
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
        """Return the response to an invalid request, and log no part of it."""
        if request.writer.output_size > 0:
            raise ConnectionResetError
        if message is not None:  # from the parser; `Gateway.handle` counts its own exceptions
            is_large = message.startswith("Too many headers") or isinstance(exc, LineTooLong)
            status = 431 if is_large else status
            self.server.meters.finish(
                self.server.call(), "bad_request", "head" if is_large else "http"
            )
        self.server.log(f"refused with {status}: {type(exc).__name__}")
        return error_response(status, "bad request" if status < 500 else "the gateway failed")


class Server(web.Server):
    """The HTTP server; its connections use `meters`."""

    settings: Settings
    meters: Meters

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
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
            keepalive_timeout=settings.idle_seconds,  # also until the first head is complete
            lingering_time=2,
        )

    def call(self) -> Call:
        """Return the record of a request that begins now."""
        return Call(parser=StreamParser(self.settings.line_bytes), start=time.monotonic())


def error_response(status: int, reason: str) -> web.Response:
    """Return an error in the format of Ollama's API; it closes the connection."""
    headers = {hdrs.SERVER: "gateway"}
    response = web.json_response({"error": reason}, status=status, headers=headers)
    if status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    response.force_close()
    return response
