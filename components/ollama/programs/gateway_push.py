"""Pushes what is measured to an OTLP receiver."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

SECONDS = 5.0  # for a whole push; the SDK's own exporter limits only the pause between two bytes


class Exporter(MetricExporter):
    """Pushes to `url`, and says so only when that begins to fail or to work.

    No answer ends it: of one only the status is read. `done` is called after each success.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, done: Callable[[], None]) -> None:
        super().__init__()
        self.url, self.session, self.done, self.said = url, session, done, ""
        self.loop = asyncio.get_running_loop()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = SECONDS * 1000, **kwargs: Any
    ) -> MetricExportResult:
        """Push, in the thread of the reader."""
        del timeout_millis, kwargs
        try:
            raw = encode_metrics(metrics_data).SerializeToString()
            pushing = asyncio.run_coroutine_threadsafe(self.push(raw), self.loop)
            result = pushing.result()
        except Exception as error:  # any would end the reader's thread for ever
            result = type(error).__name__
        if result != self.said:
            print(f"push of metrics: {result}")
        self.said = result
        return MetricExportResult[result.upper() if result == "success" else "FAILURE"]

    async def push(self, raw: bytes) -> str:
        """Push once, and return `success` or the status."""
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
        """Return at once: nothing is kept."""
        del timeout_millis
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Do nothing: the session is the gateway's."""
