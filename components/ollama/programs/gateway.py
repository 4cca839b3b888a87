"""Stand between Ollama and its users: pass every byte on, keep to the policy, and measure.

Every setting is an environment variable: `GATEWAY_` and the name of a field of `Settings`.
"""

import asyncio
import hmac
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from gateway_meters import Call, Meters, Poller, Tee
from gateway_rules import BLOBS, PATTERNS, ROUTES, Settings, outline, passed_on
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from yarl import URL


class BrokenAnswerError(ConnectionError):
    """Ollama ended in the middle of an answer; the client must not take it for whole."""


class Handler(web.RequestHandler):
    """A connection of a client that also counts what is not even a request."""

    __slots__ = ("gateway",)
    gateway: "Gateway"

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
        if message is not None:  # of the parser; what `handle` raises is counted there
            self.gateway.meters.finish(self.gateway.call(), "bad_request")
        print(f"refused with {status}: {type(exc).__name__}")
        return refusal("/", status, "bad request" if status < 500 else "the gateway failed")


class Server(web.Server):
    """A server whose connections know the gateway."""

    gateway: "Gateway"

    def __call__(self) -> web.RequestHandler:
        """Make a connection."""
        handler = Handler(self, loop=self._loop, **self._kwargs)
        handler.gateway = self.gateway
        return handler


def refusal(path: str, status: int, why: str) -> web.Response:
    """Write an error as Ollama does on this kind of path, and end the connection."""
    wrapped = {"message": why, "type": "api_error", "param": None, "code": None}
    body = {"error": wrapped if path.startswith("/v1/") else why}
    response = web.json_response(body, status=status)
    if status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    response.force_close()
    return response


class Gateway:
    """The server, the client and the poller."""

    def __init__(self, settings: Settings, readers: Iterable[MetricReader]) -> None:
        self.settings, self.ending = settings, False
        self.session = aiohttp.ClientSession(
            # Ollama ends no idle connection by itself; a new one for each request costs 0.3 ms.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, "Content-Type"),
        )
        named = {"service.name": "ollama-gateway", "service.instance.id": "ollama"}
        resource = Resource(named).merge(OTELResourceDetector().detect())
        self.provider = MeterProvider(list(readers), resource, shutdown_on_exit=False)
        self.poller = Poller(settings, self.session)
        self.meters = Meters(settings, self.poller, self.provider.get_meter("gateway"))
        self.server = Server(
            self.handle,
            request_factory=self.request,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=settings.header_bytes,
            max_field_size=settings.header_bytes,
            lingering_time=2,
        )
        self.server.gateway = self
        self.runner = web.ServerRunner(self.server, shutdown_timeout=settings.grace_seconds + 5)

    async def start(self) -> int:
        """Listen, and return the port."""
        host, _, port = self.settings.listen.rpartition(":")
        await self.runner.setup()
        await web.TCPSite(self.runner, host, int(port), backlog=1024).start()
        self.tasks = [asyncio.create_task(self.poller.run())]
        return int(self.runner.addresses[0][1])

    async def stop(self) -> None:
        """Accept nothing more, let running answers finish within the grace period, then end."""
        cut = asyncio.get_running_loop().call_later(self.settings.grace_seconds, self.give_up)
        await self.runner.cleanup()
        cut.cancel()
        for task in self.tasks:
            task.cancel()
        # The last push ends its gauges: whoever starts next may never know of these models.
        self.poller.values = {}
        await self.session.close()
        await asyncio.to_thread(self.provider.shutdown, 5000)

    def give_up(self) -> None:
        """Cut what still runs; from now on it is not the client who ends an answer."""
        self.ending = True
        for connection in self.server.connections:
            if connection.transport:
                connection.transport.abort()

    def call(self) -> Call:
        """Begin to count a request."""
        return Call(tee=Tee(self.settings.line_bytes), start=time.monotonic())

    def request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> web.BaseRequest:
        """Make aiohttp's request, with our limit of the body."""
        loop, limit = asyncio.get_running_loop(), self.settings.body_bytes
        return web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=limit
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request and count it exactly once."""
        call, outcome = self.call(), "client_cancel"
        try:
            response, outcome = await self.answer(request, call)
            await response.prepare(request)
            await response.write_eof()
        except BrokenAnswerError:
            outcome = "upstream_error"
            raise
        except (ConnectionError, asyncio.CancelledError):
            outcome = "shutdown" if self.ending else "client_cancel"
            raise
        except Exception:
            outcome = "gateway_error"
            raise
        finally:
            self.meters.finish(call, outcome)
        return response

    def policy(self, request: web.BaseRequest, call: Call) -> tuple[int, str]:
        """Say whether the request may pass: 0, or the status and the reason to refuse it."""
        # The path as it was written, not as somebody may decode or clean it.
        path = request.raw_path.partition("?")[0]
        for pattern, name in PATTERNS.items():
            path = name if pattern.fullmatch(path) and ".." not in path else path
        route = ROUTES.get(path)
        if route is None:
            return 404, "the gateway does not know this path"
        call.path, call.route = path, route
        if request.method not in route.methods:
            return 405, "the gateway does not know this method here"
        if route.manages and not self.settings.manage_token:
            return 403, "models are not managed through this gateway"
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode(errors="surrogateescape")
        wanted = f"Bearer {self.settings.manage_token}".encode()
        if route.manages and not hmac.compare_digest(given, wanted):
            return 401, "managing models needs the token"
        return 0, ""

    async def answer(self, request: web.BaseRequest, call: Call) -> tuple[web.StreamResponse, str]:
        """Let the request pass or not, and say what became of it."""
        status, why = self.policy(request, call)
        if status:
            path = request.raw_path.partition("?")[0]
            print(f"refused with {status}: {request.method} {path[:100]!r}")
            return refusal(call.path, status, why), "refused"
        ambiguous = request.version < aiohttp.HttpVersion11 and (
            hdrs.TRANSFER_ENCODING in request.headers
        )
        if ambiguous or not request.raw_path.isascii() or "#" in request.raw_path:
            return refusal(call.path, 400, "bad request"), "bad_request"
        limit = self.settings.blob_bytes if call.path == BLOBS else self.settings.body_bytes
        if (request.content_length or 0) > limit:
            return refusal(call.path, 413, f"larger than {limit} bytes"), "bad_request"
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body: bytes | AsyncIterator[bytes] | None = None
        try:
            if call.path == BLOBS and request.body_exists:
                body = self.blob(request, call)
            elif request.body_exists:
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return refusal(call.path, 413, f"larger than {limit} bytes"), "bad_request"
        except web.RequestPayloadError:
            return refusal(call.path, 400, "bad request"), "bad_request"
        if call.route and call.route.operation and isinstance(body, bytes):
            self.understand(call, body, request.headers)
        self.meters.move(call, "waiting")
        return await self.forward(request, call, body)

    def understand(self, call: Call, body: bytes, headers: Mapping[str, str]) -> None:
        """Read from the body what the labels need, if that is cheap; Ollama judges the rest."""
        asked: Any = None
        with suppress(ValueError, RecursionError):
            asked = json.loads(outline(body))
        asked = asked if isinstance(asked, dict) else {}
        stream = asked.get("stream")
        assert call.route
        call.stream = stream if isinstance(stream, bool) else call.route.streams
        call.model, call.user = self.poller.label(asked.get("model")), self.meters.user(headers)

    async def blob(self, request: web.BaseRequest, call: Call) -> AsyncIterator[bytes]:
        """Pass a model file on piece by piece."""
        size = 0
        while piece := await request.content.readany():
            size += len(piece)
            if size > self.settings.blob_bytes:
                call.too_large = True
                raise ValueError
            yield piece

    async def forward(
        self, request: web.BaseRequest, call: Call, body: bytes | AsyncIterator[bytes] | None
    ) -> tuple[web.StreamResponse, str]:
        """Ask Ollama and pass its answer on while it comes."""
        headers = passed_on(request.headers)
        headers.popall(hdrs.CONTENT_LENGTH, None)  # written anew from the body as it was read
        if call.route and call.route.manages:
            headers.popall(hdrs.AUTHORIZATION, None)  # was for us
        try:
            answer = await self.session.request(
                request.method,
                URL(self.settings.upstream + request.raw_path, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError):
            if call.too_large:
                return refusal(call.path, 413, "too large"), "bad_request"
            return refusal(call.path, 502, "Ollama does not answer"), "upstream_error"
        try:
            return await self.relay(request, call, answer)
        finally:
            answer.close()  # whoever is gone, Ollama stops working

    async def relay(
        self, request: web.BaseRequest, call: Call, answer: aiohttp.ClientResponse
    ) -> tuple[web.StreamResponse, str]:
        """Pass an answer on, each piece as soon as it is here."""
        response = web.StreamResponse(
            status=answer.status, reason=answer.reason, headers=passed_on(answer.headers)
        )
        await response.prepare(request)
        listens = call.route is not None and (call.route.operation or call.route.streams)
        while True:
            try:
                piece = await answer.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise BrokenAnswerError from error
            if not piece:
                break
            await response.write(piece)
            if call.phase == "waiting":
                self.meters.move(call, "answering")
            if listens:
                call.tee.feed(piece)
        call.tee.end()
        if call.route and call.route.manages:
            self.poller.wake.set()
        if answer.status < 400:
            return response, "in_stream_error" if call.tee.error else "ok"
        named = {404: "not_found", 503: "busy"}
        otherwise = "bad_request" if answer.status < 500 else "upstream_error"
        return response, named.get(answer.status, otherwise)


class Exporter(OTLPMetricExporter):
    """Pushes, and says so only when that begins to fail or to work."""

    last: MetricExportResult | None = None

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 5000, **kwargs: Any
    ) -> MetricExportResult:
        """Push, in the thread of the reader."""
        result = super().export(metrics_data, timeout_millis, **kwargs)
        if result != self.last:
            print(f"push of metrics: {result.name.lower()}")
        self.last = result
        return result


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `Exporter` says it once
    readers: list[MetricReader] = []
    if settings.otlp_url:
        exporter = Exporter(endpoint=settings.otlp_url, timeout=5)
        millis = settings.push_seconds * 1000
        readers = [PeriodicExportingMetricReader(exporter, millis, 5000)]
    gateway, stop = Gateway(settings, readers), asyncio.Event()
    for number_ in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number_, stop.set)
    port = await gateway.start()
    print(f"port {port} leads to {settings.upstream}")
    await stop.wait()
    print(f"stopping, running answers have {settings.grace_seconds:g} s")
    await gateway.stop()
    print("stopped")


def main() -> int:
    """Run the program and return its exit code."""
    try:
        settings = Settings.parse(os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
