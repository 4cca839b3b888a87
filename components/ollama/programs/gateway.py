"""Stand between Ollama and its users: pass every byte on, keep to the policy, and measure.

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
from aiohttp import hdrs, web
from gateway_bodies import Body, Budget, Pieces
from gateway_connections import Server, refused
from gateway_meters import Call, Meters
from gateway_poller import Poller
from gateway_push import Exporter
from gateway_rules import BLOBS, PATTERNS, ROUTES, RefusalError, Settings, passed_on
from multidict import CIMultiDict
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from yarl import URL


class BrokenAnswerError(ConnectionError):
    """Ollama ended in the middle of an answer; the client must not take it for whole."""


class Gateway:
    """The server, the client and the poller."""

    def __init__(self, settings: Settings, readers: Iterable[MetricReader] = ()) -> None:
        self.settings, self.stopping, self.ending = settings, False, False
        self.session = aiohttp.ClientSession(
            # Ollama ends no idle connection by itself; a new one for each request costs 0.3 ms.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, "Content-Type"),
        )
        self.poller = Poller(settings, self.session)
        if settings.otlp_url:
            exporter = Exporter(settings.otlp_url, self.session, self.poller.pushed)
            millis = settings.push_seconds * 1000
            readers = [*readers, PeriodicExportingMetricReader(exporter, millis)]
        named = {"service.name": "ollama-gateway", "service.instance.id": "ollama"}
        resource = Resource(named).merge(OTELResourceDetector().detect())
        self.provider = MeterProvider(list(readers), resource, shutdown_on_exit=False)
        self.meters = Meters(settings, self.poller, self.provider.get_meter("gateway"))
        self.budget, self.reading = Budget(settings.bodies_bytes), set[asyncio.Timeout]()
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
        """Accept nothing more, let running answers finish within the grace period, then end."""
        self.stopping, loop = True, asyncio.get_running_loop()
        cut = loop.call_later(self.settings.grace_seconds, self.give_up)
        for timeout in self.reading:  # aiohttp drops the rest of these bodies
            if not timeout.expired():  # an expired one cannot be rescheduled
                timeout.reschedule(loop.time())
        # aiohttp would wait for a connection accepted in the turn of the loop in which it closes.
        loop.call_later(0.1, self.server.pre_shutdown)
        await self.runner.cleanup()
        cut.cancel()
        for task in self.tasks:
            task.cancel()
        # The last push ends its gauges: whoever starts next may never know of these models.
        self.poller.values = {}
        await asyncio.to_thread(self.provider.shutdown, 5000)
        await self.session.close()

    def give_up(self) -> None:
        """Cut what still runs; from now on it is not the client who ends an answer."""
        self.ending = True
        for connection in self.server.connections:
            if connection.transport:
                connection.transport.abort()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request and count it exactly once."""
        call, outcome, limit = self.server.call(), "client_cancel", ""
        body = Body(self.budget)
        try:
            try:
                response, outcome = await self.answer(request, call, body)
            except RefusalError as refusal:
                outcome, limit = refusal.outcome, refusal.limit
                path = request.raw_path.partition("?")[0][:100]
                self.server.log(f"refused with {refusal.status}: {request.method} {path!r}")
                response = refused(call.path, refusal.status, refusal.why)
            await response.prepare(request)
            async with asyncio.timeout(self.settings.client_seconds):
                await response.write_eof()
        except BrokenAnswerError:
            outcome = "upstream_error"
            raise
        except TimeoutError:  # of a client that takes nothing
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
            body.charge(0)
            self.meters.finish(call, outcome, limit)
        return response

    def admit(self, request: web.BaseRequest, call: Call) -> bool:
        """Return whether the request has the token; raises RefusalError if it may not pass."""
        # The path as it was written, not as somebody may decode or clean it.
        path = request.raw_path.partition("?")[0]
        for pattern, name in PATTERNS.items():
            path = name if pattern.fullmatch(path) and ".." not in path else path
        route = ROUTES.get(path)
        if route is None:
            raise RefusalError(404, "the gateway does not know this path")
        call.path, call.route = path, route
        if request.method not in route.methods:
            raise RefusalError(405, "the gateway does not know this method here")
        if route.manages and not self.settings.manage_token:
            raise RefusalError(403, "models are not managed through this gateway")
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode(errors="surrogateescape")
        wanted = f"Bearer {self.settings.manage_token}".encode()
        trusted = bool(self.settings.manage_token) and hmac.compare_digest(given, wanted)
        if route.manages and not trusted:
            raise RefusalError(401, "managing models needs the token")
        old = request.version == aiohttp.HttpVersion10
        if not (old or request.version == aiohttp.HttpVersion11):
            raise RefusalError(400, "not HTTP/1.0 or 1.1", "http")
        if old and hdrs.TRANSFER_ENCODING in request.headers:
            raise RefusalError(400, "bad request", "http")
        if not request.raw_path.isascii() or "#" in request.raw_path:
            raise RefusalError(400, "bad request", "http")
        return trusted

    async def answer(
        self, request: web.BaseRequest, call: Call, body: Body
    ) -> tuple[web.StreamResponse, str]:
        """Return the answer and the outcome; raises RefusalError if the request may not pass."""
        trusted = self.admit(request, call)
        limit = self.settings.blob_bytes if call.path == BLOBS else self.settings.body_bytes
        if (request.content_length or 0) > limit:
            raise RefusalError(413, f"larger than {limit} bytes", "body")
        expects = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        if expects and request.version == aiohttp.HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        headers = passed_on(request.headers)
        headers.popall(hdrs.CONTENT_LENGTH, None)  # written anew from the body as it was read
        if trusted:
            headers.popall(hdrs.AUTHORIZATION, None)  # was for us
        data: AsyncIterator[bytes | memoryview] | None = None
        if call.path == BLOBS and request.body_exists:
            data = self.blob(request, call)
        elif request.body_exists:
            await self.read(request, body, limit)
            pieces = self.understand(request, call, body, trusted)
            headers[hdrs.CONTENT_LENGTH] = str(sum(map(len, pieces)))
            data = body.sent(pieces)
            # Or the body would be held until the answer has ended.
            del pieces
        elif call.route and call.route.operation and not trusted:
            raise RefusalError(400, "no body", "json")
        self.meters.move(call, "waiting")
        return await self.forward(request, call, headers, data)

    async def read(self, request: web.BaseRequest, body: Body, limit: int) -> None:
        """Read the body as long as the client has time for it."""
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

    def understand(self, request: web.BaseRequest, call: Call, body: Body, trusted: bool) -> Pieces:
        """Return what Ollama gets, and read from it what the labels need."""
        assert call.route
        if not call.route.operation:
            return [memoryview(body.raw)]
        call.stream, call.user = call.route.streams, self.meters.user(request.headers)
        call.model = "other"
        try:
            asked = body.parse()
        except RefusalError:
            if trusted:
                return [memoryview(body.raw)]
            raise
        stream = asked.value.get("stream")
        call.stream = stream if isinstance(stream, bool) else call.route.streams
        call.model = self.poller.label(asked.value.get("model"))
        if trusted:  # it loads models, for as long as it wants
            return [memoryview(body.raw)]
        self.meters.drop(asked.dropped)
        return asked.pieces

    async def blob(self, request: web.BaseRequest, call: Call) -> AsyncIterator[bytes]:
        """Pass a model file on piece by piece."""
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
    ) -> tuple[web.StreamResponse, str]:
        """Ask Ollama and pass its answer on while it comes."""
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
            return refused(call.path, 502, "Ollama does not answer"), "upstream_error"
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
        response.headers.setdefault(hdrs.SERVER, "gateway")  # aiohttp's own tells versions
        if hdrs.UPGRADE in request.headers:
            response.force_close()  # aiohttp holds back what came behind it
        await response.prepare(request)
        listens = call.route is not None and (call.route.operation or call.route.streams)
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
            if call.model and answer.status < 400:  # a queue that is full answers, too
                self.meters.hear(call)
            if listens:
                call.tee.feed(piece)
        call.tee.end()
        if call.route and call.route.manages:
            self.poller.wake.set()
        if 200 <= answer.status < 400:
            return response, "in_stream_error" if call.tee.error else "ok"
        named = {404: "not_found", 503: "busy"}
        otherwise = "bad_request" if 400 <= answer.status < 500 else "upstream_error"
        return response, named.get(answer.status, otherwise)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `Exporter` says it
    gateway, stop = Gateway(settings), asyncio.Event()
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
