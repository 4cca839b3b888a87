"""Exporter of metrics by OTLP over HTTP."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

SECONDS = 5.0  # timeout of a push; that of the SDK's exporter restarts with each byte


class Exporter(MetricExporter):
    """Pushes to `url`, and logs when the result changes.

    It reads only the status of a response, and calls `done` after each success.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, done: Callable[[], None]) -> None:
        super().__init__()
        self.url, self.session, self.done, self.logged = url, session, done, ""
        self.loop = asyncio.get_running_loop()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = SECONDS * 1000, **kwargs: Any
    ) -> MetricExportResult:
        """Push, in the reader's thread."""
        del timeout_millis, kwargs
        try:
            raw = encode_metrics(metrics_data).SerializeToString()
            pushing = asyncio.run_coroutine_threadsafe(self.push(raw), self.loop)
            result = pushing.result()
        except Exception as error:  # any would end the reader's thread
            result = type(error).__name__
        if result != self.logged:
            print(f"push of metrics: {result}")
        self.logged = result
        return MetricExportResult[result.upper() if result == "success" else "FAILURE"]

    async def push(self, raw: bytes) -> str:
        """Push, and return `success` or the status."""
        headers = {"Content-Type": "application/x-protobuf"}
        limit = aiohttp.ClientTimeout(total=SECONDS)
        async with self.session.post(
            self.url, data=raw, headers=headers, timeout=limit, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                return f"HTTP {answer.status}"
        self.done()
        return "success"

    def force_flush(self, timeout_millis: float = 0) -> bool:
        """Return at once: nothing is buffered."""
        del timeout_millis
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Do nothing: the gateway closes the session."""
