"""`make status` asks the real Prometheus what the real gateway and node-exporter have sent."""

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from harness import read, stack_config
from real_house import House, ask
from waiting import eventually

from ops import status_metrics
from ops.cluster import UnreadableError
from ops.status_cluster import Line

MODEL = "llama3.2:3b"


def test_what_prometheus_has_is_what_is_shown(house: House) -> None:
    def asked(path: str, **query: str) -> Any:
        url = f"{house.demo.prometheus}{path.partition('/proxy')[2]}?{urlencode(query)}"
        code, text = ask("GET", url)
        assert code == 200, text
        return json.loads(text)

    cluster: Any = SimpleNamespace(read=asked)
    settings = read(stack_config("sandbox"))

    def facts(look: Any) -> dict[Any, dict[str, Any]]:
        """What a section knows, by its first key."""
        found = list[Line]()
        # Nothing is known before the first push.
        with suppress(UnreadableError):
            found = look(cluster, settings)
        return {line.fact[next(iter(line.fact))]: line.fact for line in found}

    house.chat(MODEL, "Once more.")

    loaded = eventually(lambda: facts(status_metrics.models).get(MODEL))
    assert loaded["bytes"] > 0
    assert loaded["on_gpu"] == 0
    assert loaded["until"]
    speed = eventually(lambda: facts(status_metrics.tokens_per_second).get(MODEL))
    assert speed["tokens_per_second"] > 0
    # Here the machine's own disk has this name.
    (disk,) = (line.fact for line in status_metrics.disks(cluster, settings))
    assert disk["mount"] == "/mnt/evo4t"
    assert 0 < disk["used"] < disk["bytes"]
    # It raises where the answer is of another shape.
    status_metrics.alerts(cluster, settings)
