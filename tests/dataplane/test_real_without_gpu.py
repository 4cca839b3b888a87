"""A house that expects a GPU where there is none: Ollama falls back silently, and is found out.

Runs last: it changes the house.
"""

import json
from typing import Any

import pytest
from harness import gpu_config
from real_house import House, ask, impatient
from waiting import eventually

POD = "ollama-stack/ollama"
DEFAULT = "llama3.2:3b"
ALERT = "ModelOnCPU"


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

    # It starts as if nothing were wrong, and answers.
    assert house.chat(DEFAULT, "Say something.")["text"]
    assert DEFAULT in {one["name"] for one in running(house)}
    assert eventually(lambda: house.alerts().get(ALERT) == "firing"), house.alerts()
    assert house.value(f"ollama_model_loaded_gpu_size_bytes{labels}") == 0
