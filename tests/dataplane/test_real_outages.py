"""What happens, and what is seen of it, when programs end: by accident, and as they are told."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from real_house import House, ask, impatient
from waiting import eventually

POD = "ollama-stack/ollama"
DOWN = "OllamaDown"
LOADED = "ollama_model_loaded_size_bytes"


def test_ollama_killed_is_alerted_and_its_gauges_end_at_once(house: House) -> None:
    house.reload(impatient(house.demo.rules(), DOWN))
    house.chat("llama3.2:3b", "Be loaded.")
    assert eventually(lambda: house.series(LOADED))
    ollama = house.demo.kubelet.containers(POD)["ollama"]

    ollama.kill()
    states = [""]

    def fires() -> bool:
        states.append(house.alerts().get(DOWN, ""))
        return states[-1] == "firing"

    eventually(fires)
    assert list(dict.fromkeys(states)) == ["", "pending", "firing"]
    # Marked as ended: what is only no longer pushed stays in sight for five minutes.
    assert house.series(f"{LOADED}[2m]")
    assert house.series(LOADED) == []
    assert house.value("ollama_up") == 0

    ollama.start()
    ollama.wait("startupProbe")
    assert eventually(lambda: DOWN not in house.alerts())
    assert house.value("ollama_up") == 1
    house.reload(house.demo.rules())


def test_running_answers_are_finished_when_the_pod_is_told_to_end(house: House) -> None:
    gateway = house.demo.kubelet.containers(POD)["gateway"]
    pause = gateway.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
    told = time.monotonic()

    def generate(seed: int) -> list[tuple[bool, float]]:
        """Ask again and again until shortly before the gateway itself is told to end."""
        options = {"num_predict": 500, "temperature": 1, "seed": seed}
        wanted = {"model": "gemma3:4b", "prompt": "x", "options": options}
        answers = []
        while time.monotonic() < told + pause - 0.5:
            _, text = ask("POST", f"{house.gateway}/api/generate", wanted, timeout=120)
            answers.append((json.loads(text.splitlines()[-1]).get("done"), time.monotonic()))
        return answers

    # One at a time is answered, in a tenth of a second or more, and the others wait.
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(generate, seed) for seed in range(40)]
        house.demo.kubelet.stop(POD)
        answers = [answer for asker in asked for answer in asker.result()]
    house.demo.kubelet.start()

    assert {done for done, _ in answers} == {True}
    # Otherwise all was over before the gateway was told to end.
    assert len([moment for _, moment in answers if moment > told + pause]) > 1
