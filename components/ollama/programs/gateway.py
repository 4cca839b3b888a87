"""Reverse proxy before Ollama: authorizes, limits and measures requests.

Every setting is an environment variable: `GATEWAY_` and the name of a field of `Settings`.
"""

import asyncio
import hmac
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable

import aiohttp
import uvloop
from aiohttp import hdrs, web
from gateway_bodies import SMALL_BODY, SMALL_TEXT, Body, Budget, Pieces
from gateway_connections import Server, error_response
from gateway_meters import Call, Meters
from gateway_poller import Poller
from gateway_push import Exporter
from gateway_routes import BLOB, BLOBS, ROUTES, RefusalError, end_to_end
from gateway_settings import Settings
from multidict import CIMultiDict
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from yarl import URL


class BrokenAnswerError(ConnectionError):
    """Ollama closed the connection before the response was complete."""


class Gateway:
    """The proxy: a server for clients, a client of Ollama, a poller and a meter provider."""

    def __init__(self, settings: Settings, readers: Iterable[MetricReader] = ()) -> None:
        self.settings, self.stopping, self.ending = settings, False, False
        self.session = aiohttp.ClientSession(
            # Ollama keeps idle connections open, and a new one for each request costs 0.3 ms.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, "Content-Type"),
        )
        self.poller = Poller(settings, self.session)
        if settings.otlp_url:
            exporter = Exporter(settings.otlp_url, self.session, self.poller.mark_pushed)
            millis = settings.push_seconds * 1000
            readers = [*readers, PeriodicExportingMetricReader(exporter, millis)]
        attributes = {"service.name": "ollama-gateway", "service.instance.id": "ollama"}
        resource = Resource(attributes).merge(OTELResourceDetector().detect())
        self.provider = MeterProvider(list(readers), resource, shutdown_on_exit=False)
        self.meters = Meters(settings, self.poller, self.provider.get_meter("gateway"))
        self.bodies = Budget("bodies", settings.bodies_bytes, SMALL_BODY)
        self.texts = Budget("texts", settings.texts_bytes, SMALL_TEXT)
        self.reading = set[asyncio.Timeout]()
        self.server = Server(settings, self.meters, self.handle)
        self.runner = web.ServerRunner(self.server, shutdown_timeout=settings.grace_seconds + 5)

    async def start(self) -> int:
        """Listen, and return the port."""
        host, _, port = self.settings.listen.rpartition(":")
        await self.runner.setup()
        await web.TCPSite(self.runner, host, int(port), backlog=1024).start()
        self.tasks = [asyncio.create_task(self.poller.run())]
        return int(self.runner.addresses[0][1])

    async def stop(self) -> None:
        """Drain: accept no requests, and let responses finish within the grace period."""
        self.stopping, loop = True, asyncio.get_running_loop()
        cut = loop.call_later(self.settings.grace_seconds, self.give_up)
        for timeout in self.reading:  # aiohttp drops the rest of these bodies
            if not timeout.expired():  # an expired one cannot be rescheduled
                timeout.reschedule(loop.time())
        # Again, for a connection accepted while the server closes, which aiohttp would wait for.
        loop.call_later(0.1, self.server.pre_shutdown)
        await self.runner.cleanup()
        cut.cancel()
        for task in self.tasks:
            task.cancel()
        # The last push marks all gauges as stale: the next process may not have these models.
        self.poller.values = {}
        await asyncio.to_thread(self.provider.shutdown, 5000)
        await self.session.close()

    def give_up(self) -> None:
        """Abort all connections; their requests count as `shutdown`, not as `client_cancel`."""
        self.ending = True
        for connection in self.server.connections:
            if connection.transport:
                connection.transport.abort()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to a request, and count it exactly once."""
        call, outcome, limit = self.server.call(), "client_cancel", ""
        body = Body(self.bodies, self.texts, self.settings.text_bytes)
        try:
            try:
                response, outcome = await self.answer(request, call, body)
            except RefusalError as refusal:
                outcome, limit = refusal.outcome, refusal.limit
                path = request.raw_path.partition("?")[0][:100]
                self.server.log(f"refused with {refusal.status}: {request.method} {path!r}")
                response = error_response(refusal.status, refusal.reason)
            await response.prepare(request)
            async with asyncio.timeout(self.settings.client_seconds):
                await response.write_eof()
        except BrokenAnswerError:
            outcome = "upstream_error"
            raise
        except TimeoutError:  # the client does not read the response
            outcome, limit = "client_cancel", "silence"
            assert request.transport
            request.transport.abort()
            raise ConnectionResetError from None
        except (ConnectionError, asyncio.CancelledError):
            outcome = "shutdown" if self.ending else "client_cancel"
            raise
        except Exception:
            outcome = "gateway_error"
            raise
        finally:
            body.release()
            self.meters.finish(call, outcome, limit)
        return response

    def admit(self, request: web.BaseRequest, call: Call) -> bool:
        """Return whether the request has the token; raises RefusalError if it is not allowed."""
        # Not decoded or normalized, because Ollama may do that in another way.
        path = request.raw_path.partition("?")[0]
        path = BLOBS if BLOB.fullmatch(path) else path
        route = ROUTES.get(path)
        if route is None:
            raise RefusalError(404, "the gateway does not know this path")
        call.path, call.route = path, route
        if request.method not in route.methods:
            raise RefusalError(405, "the gateway does not know this method here")
        if route.manages and not self.settings.manage_token:
            raise RefusalError(403, "models are not managed through this gateway")
        actual = request.headers.get(hdrs.AUTHORIZATION, "").encode(errors="surrogateescape")
        expected = f"Bearer {self.settings.manage_token}".encode()
        trusted = bool(self.settings.manage_token) and hmac.compare_digest(actual, expected)
        if route.manages and not trusted:
            raise RefusalError(401, "managing models needs the token")
        is_old = request.version == aiohttp.HttpVersion10
        if not (is_old or request.version == aiohttp.HttpVersion11):
            raise RefusalError(400, "not HTTP/1.0 or 1.1", "http")
        if is_old and hdrs.TRANSFER_ENCODING in request.headers:
            raise RefusalError(400, "bad request", "http")
        if not request.raw_path.isascii() or "#" in request.raw_path:
            raise RefusalError(400, "bad request", "http")
        return trusted

    async def answer(
        self, request: web.BaseRequest, call: Call, body: Body
    ) -> tuple[web.StreamResponse, str]:
        """Return the response and the outcome; raises RefusalError if it is not allowed."""
        trusted = self.admit(request, call)
        limit = self.limit(call, trusted)
        if (request.content_length or 0) > limit:
            raise RefusalError(413, f"larger than {limit} bytes", "body")
        expects = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        if expects and request.version == aiohttp.HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        headers = end_to_end(request.headers)
        headers.popall(hdrs.CONTENT_LENGTH, None)  # of the body as it is sent
        if trusted:
            headers.popall(hdrs.AUTHORIZATION, None)  # the gateway's own token
        data: AsyncIterator[bytes | memoryview] | None = None
        if call.path == BLOBS and request.body_exists:
            data = self.blob(request, call)
        elif request.body_exists:
            await self.read(request, body, limit)
            pieces = self.parse_body(request, call, body, trusted)
            headers[hdrs.CONTENT_LENGTH] = str(sum(map(len, pieces)))
            data = body.sent(pieces)
            # Otherwise this frame would hold the body until the response has ended.
            del pieces
        elif call.route and call.route.operation and not trusted:
            raise RefusalError(400, "no body", "json")
        self.meters.move(call, "waiting")
        return await self.forward(request, call, headers, data, body)

    def limit(self, call: Call, trusted: bool) -> int:
        """Return the most bytes of a body."""
        if call.path == BLOBS:
            return self.settings.blob_bytes
        is_parsed = call.route and call.route.operation
        return self.settings.body_bytes if is_parsed or trusted else self.settings.other_bytes

    async def read(self, request: web.BaseRequest, body: Body, limit: int) -> None:
        """Read the body; raises RefusalError after `client_seconds`."""
        timeout = asyncio.timeout(0 if self.stopping else self.settings.client_seconds)
        self.reading.add(timeout)
        try:
            async with timeout:
                await body.read(request.content, limit)
        except TimeoutError:
            raise RefusalError(408, "the body did not come", "silence") from None
        except web.RequestPayloadError:
            raise RefusalError(400, "bad request", "http") from None
        finally:
            self.reading.discard(timeout)

    def parse_body(self, request: web.BaseRequest, call: Call, body: Body, trusted: bool) -> Pieces:
        """Return the body for Ollama, and set the labels of the call from it."""
        assert call.route
        if not call.route.operation:
            return [memoryview(body.raw)]
        call.stream, call.user = call.route.streams, self.meters.user(request.headers)
        call.model = "other"
        try:
            parsed = body.parse()
        except RefusalError:
            if trusted:
                return [memoryview(body.raw)]
            raise
        stream = parsed.value.get("stream")
        call.stream = stream if isinstance(stream, bool) else call.route.streams
        call.model = self.poller.label(parsed.value.get("model"))
        if trusted:  # the model Job may load models with any options
            return [memoryview(body.raw)]
        self.meters.drop(parsed.dropped)
        return parsed.pieces

    async def blob(self, request: web.BaseRequest, call: Call) -> AsyncIterator[bytes]:
        """Yield a model file in chunks; raises RefusalError."""
        size = 0
        while True:
            try:
                async with asyncio.timeout(self.settings.client_seconds):
                    piece = await request.content.readany()
            except TimeoutError:
                call.refusal = RefusalError(408, "the body did not come", "silence")
                raise call.refusal from None
            if not piece:
                return
            size += len(piece)
            if size > self.settings.blob_bytes:
                call.refusal = RefusalError(413, "too large", "body")
                raise call.refusal
            yield piece

    async def forward(
        self,
        request: web.BaseRequest,
        call: Call,
        headers: CIMultiDict[str],
        data: AsyncIterator[bytes | memoryview] | None,
        body: Body,
    ) -> tuple[web.StreamResponse, str]:
        """Send the request to Ollama, and relay the response."""
        try:
            answer = await self.session.request(
                request.method,
                URL(self.settings.upstream + request.raw_path, encoded=True),
                headers=headers,
                data=data,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError):
            if call.refusal:
                raise call.refusal from None
            return error_response(502, "Ollama does not answer"), "upstream_error"
        try:
            return await self.relay(request, call, answer, body)
        finally:
            answer.close()  # Ollama then stops generating, if the client has disconnected

    async def relay(
        self, request: web.BaseRequest, call: Call, answer: aiohttp.ClientResponse, body: Body
    ) -> tuple[web.StreamResponse, str]:
        """Relay a response, each chunk as soon as it arrives."""
        response = web.StreamResponse(
            status=answer.status, reason=answer.reason, headers=end_to_end(answer.headers)
        )
        response.headers.setdefault(hdrs.SERVER, "gateway")  # aiohttp's default has its version
        if hdrs.UPGRADE in request.headers:
            response.force_close()  # aiohttp would never answer pipelined requests
        await response.prepare(request)
        parses = call.route is not None and (call.route.operation or call.route.streams)
        while True:
            try:
                piece = await answer.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise BrokenAnswerError from error
            if not piece:
                break
            async with asyncio.timeout(self.settings.client_seconds):
                await response.write(piece)
            if call.phase == "waiting":
                self.meters.move(call, "answering")
                body.text.set(0)
            if call.model and answer.status < 400:  # an error, as of a full queue, is no output
                self.meters.note_output(call)
            if parses:
                call.parser.feed(piece)
        call.parser.end()
        if call.route and call.route.manages:
            self.poller.wake.set()
        if 200 <= answer.status < 400:
            return response, "in_stream_error" if call.parser.error else "ok"
        outcomes = {404: "not_found", 503: "busy"}
        default = "bad_request" if 400 <= answer.status < 500 else "upstream_error"
        return response, outcomes.get(answer.status, default)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `Exporter` logs failures
    gateway, stop = Gateway(settings), asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    port = await gateway.start()
    print(f"port {port} is open, upstream {settings.upstream}")
    await stop.wait()
    print(f"stopping: {settings.grace_seconds:g} s for running responses")
    await gateway.stop()
    print("stopped")


def main() -> int:
    """Run the program and return its exit code."""
    try:
        settings = Settings.parse(os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    uvloop.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
