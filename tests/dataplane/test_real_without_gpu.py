"""A house that expects a GPU where there is none: Ollama falls back silently, and is found out.

Runs last: it changes the house.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest
from gateway_check import Check
from gateway_lab import Lab, lab, wait_for
from harness import gpu_config
from real_house import House, ask, eventually, impatient

POD = "ollama-stack/ollama"
DEFAULT = "llama3.2:3b"
ALERT = "ModelOnCPU"


def runners(house: House) -> set[int]:
    """The processes in which Ollama has its models."""
    ollama = house.demo.kubelet.containers(POD)["ollama"].process
    assert ollama
    return {one.pid for one in ollama.children() if one.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture
def upstream(house: House) -> Iterator[Lab]:
    """Another gateway before the house's own Ollama."""
    gateway = house.demo.kubelet.containers(POD)["gateway"]
    with lab(upstream=gateway.environment["GATEWAY_UPSTREAM"]) as one:
        yield one


def test_a_check_leaves_a_loaded_model_as_it_is(house: House, upstream: Lab) -> None:
    # 8192 is what it was trained for, and the house's own.
    for context in (2048, 8192):
        options = {"num_ctx": context, "num_predict": 1}
        wanted = {"model": "gemma3:4b", "prompt": "x", "options": options, "keep_alive": "7m"}
        status, _ = ask("POST", f"{house.gateway}/api/generate", wanted)
        assert status == 200
        # What other tests have left loaded would be asked first.
        for other in (one["name"] for one in running(house) if one["name"] != "gemma3:4b"):
            ask("POST", f"{house.gateway}/api/generate", {"model": other, "keep_alive": 0})
        assert eventually(lambda: len(running(house)) == 1)
        before = runners(house)
        gateway = upstream.gateway
        settings = replace(upstream.settings, check_model=DEFAULT)
        check = Check(settings, gateway.session, gateway.poller, gateway.meters)

        wait_for(lambda gateway=gateway: gateway.poller.known)  # type: ignore[misc]
        upstream.run(check.look())

        assert "gemma3:4b" in check.results
        loaded = {one["name"]: one for one in running(house)}
        assert loaded["gemma3:4b"]["context_length"] == context
        # Not loaded anew, and nothing beside it.
        assert runners(house) == before


def running(house: House) -> list[dict[str, Any]]:
    """What `/api/ps` says is loaded."""
    _, text = ask("GET", f"{house.gateway}/api/ps")
    models: list[dict[str, Any]] = json.loads(text)["models"]
    return models


@pytest.fixture
def expecting(house: House) -> House:
    """The same house with the profile of a machine whose GPU this one has not."""
    nodes = house.demo.machine._api.resources.get(api_version="v1", kind="Node")
    # As a kubelet does for a device plugin; otherwise the pod would wait for ever.
    offered = {"status": {key: {"amd.com/gpu": "1"} for key in ("capacity", "allocatable")}}
    about = {"body": offered, "content_type": "application/merge-patch+json"}
    nodes.subresources["status"].patch(name="evo4t", **about)
    wanted = gpu_config("sandbox")["nodes"]
    house.demo.edit(lambda keys: keys.update({"homelab:nodes": wanted}))
    house.demo.engine.up(lambda _: None)
    house.demo.kubelet.start()
    house.reload(impatient(house.demo.rules(), ALERT))
    return house


def test_a_silent_fall_to_the_processor_is_seen_and_alerted(expecting: House) -> None:
    house = expecting
    told = house.demo.kubelet.containers(POD)["ollama"].environment
    assert told["OLLAMA_LLM_LIBRARY"] == "vulkan"
    labels = f'{{gen_ai_request_model="{DEFAULT}"}}'

    # Nobody asks; the check alone loads the model, which starts as if nothing were wrong.
    assert eventually(lambda: house.series(f"ollama_check_gpu_ratio{labels}"))
    assert house.value(f"ollama_check_gpu_ratio{labels}") == 0
    # Noise, as of a GPU that miscalculates: these are random weights.
    assert house.value(f"ollama_check_correct{labels}") == 0
    assert 0 <= (house.value(f"time() - ollama_check_timestamp_seconds{labels}") or 0) < 300
    assert [one["name"] for one in running(house)] == [DEFAULT]
    alerts = {ALERT: "firing", "ModelAnswersWrong": "firing"}
    assert eventually(lambda: alerts.items() <= house.alerts().items()), house.alerts()
    assert "GPUNotChecked" not in house.alerts()
    log = house.demo.kubelet.containers(POD)["gateway"].log().read_text()
    assert f"check of {DEFAULT}: 0% on the GPU, wrong answer" in log
