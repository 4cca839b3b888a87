"""`make status` asks the real Prometheus what the real gateway and node-exporter have sent."""

from contextlib import suppress
from typing import Any

import pytest
from harness import read
from real_lab import Server
from waiting import eventually

from ops import status_metrics
from ops.cluster import UnreadableError
from ops.status_cluster import Line

pytestmark = pytest.mark.faults

MODEL = "llama3.2:3b"


def test_what_prometheus_has_is_what_is_shown(metrics: Server) -> None:
    cluster, settings = metrics.live(), read(metrics.config)

    def facts(look: Any) -> dict[Any, dict[str, Any]]:
        """What a section knows of each model."""
        lines = list[Line]()
        # Nothing is known before the first push.
        with suppress(UnreadableError):
            lines = look(cluster, settings)
        return {line.fact["model"]: line.fact for line in lines if "model" in line.fact}

    metrics.chat(MODEL, "Once more.", metrics.token())

    loaded = eventually(lambda: facts(status_metrics.models).get(MODEL))
    assert loaded["bytes"] > 0
    assert loaded["on_gpu"] == 0
    assert loaded["until"]
    speed = eventually(lambda: facts(status_metrics.tokens_per_second).get(MODEL))
    assert speed["tokens_per_second"] > 0

    def data_disk() -> dict[str, Any] | None:
        # Node-exporter is scraped twice a minute.
        with suppress(UnreadableError):
            lines = status_metrics.disks(cluster, settings)
            return next(line.fact for line in lines if line.fact["mount"] == "/mnt/evo4t")
        return None

    disk = eventually(data_disk)
    assert 0 < disk["used"] < disk["bytes"]
    # It raises where the answer is of another shape.
    status_metrics.alerts(cluster, settings)
