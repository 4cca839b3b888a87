"""The canary on a scripted house: each planted regression is red, and only a regression is."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from harness import ROOT, deploy_program, read, stack_config

from ops import canary, doctor
from ops.canary import Measured
from ops.canary_page import BadAnswerError, Page
from ops.cluster import UnreadableError
from ops.doctor import House
from ops.stacks import Stack

MODEL = "llama3.2:3b"
GIB = 2**30
COUNTED = ", ".join(map(str, range(1, 21)))


@dataclass
class Script:
    """What the house answers; times are what it says, and nothing here is slow."""

    answer: str = COUNTED
    durations: list[float] = field(default_factory=lambda: [9, 3, 2.5, 2, 2.2, 2.1])
    """Seconds that it says each answer of 50 tokens took, the one that loads first."""
    status: int = 200
    last: dict[str, Any] = field(default_factory=lambda: {"done": True, "eval_count": 50})
    cut: bool = False
    """Whether the connection ends in the middle of an answer."""
    digest: str = "d" * 64
    loaded: dict[str, int] = field(default_factory=lambda: {"size": 3 * GIB, "size_vram": 0})
    password: str = "secret"
    version: str = "0.40.16"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def reply(self, path: str, body: dict[str, Any], token: str) -> tuple[int, object]:
        """Status and JSON, or text, for a request."""
        if path == "/api/v1/auths/signin":
            good = body == {"email": "me@example.com", "password": self.password}
            return (200, {"token": "t"}) if good else (400, {"detail": "no"})
        if path == "/health":
            return 200, {"status": True}
        if token != "Bearer t":
            return 401, {"detail": "Not authenticated"}
        if path == "/ollama/api/version":
            return 200, {"version": self.version}
        if path == "/ollama/api/tags":
            return 200, {"models": [{"model": MODEL, "digest": self.digest, "size": 2 * 10**9}]}
        if path == "/ollama/api/ps":
            return 200, {"models": [{"model": MODEL, **self.loaded}]}
        assert path == "/ollama/api/generate"
        self.asked.append(body)
        if self.status != 200:
            return self.status, {"detail": "model failed to load"}
        seconds = self.durations[len(self.asked) - 1]
        pieces = [{"response": piece} for piece in (self.answer[:9], self.answer[9:])]
        lines = [*pieces, {"response": "", "eval_duration": int(seconds * 1e9), **self.last}]
        return 200, "".join(json.dumps(line) + "\n" for line in lines)


@contextmanager
def page(script: Script) -> Iterator[str]:
    """Serve what `script` says; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "")
            status, found = script.reply(self.path, json.loads(sent or "{}"), token)
            body = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response_only(status)
            cut = script.cut and self.path.endswith("generate")
            self.send_header("Content-Length", str(len(body) + cut))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Keep silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def house_with(memory_bandwidth: float | None) -> House:
    """The house, whose memory has this bandwidth in GB/s."""
    raw = stack_config("home")
    raw["nodes"]["evo4t"]["memory_bandwidth"] = memory_bandwidth
    raw["webui"]["admin_email"] = "me@example.com"
    told = CompletedProcess[str]([], 0, "secret\n", "")
    return House(
        stack=Stack(name="home", cli=lambda *_: told, kubeconfig=None, simulated=False),
        stack_file=ROOT / "Pulumi.home.yaml",
        settings=read(raw),
        program=deploy_program("home", raw),
        exported=told,
    )


@pytest.fixture(scope="module")
def house() -> House:
    """The house, the bandwidth of its memory known."""
    return house_with(89.6)


def seen(script: Script, house: House) -> Measured:
    with page(script) as address:
        reached = Page([address], "me@example.com", "secret")
        return canary.measure(reached, house, canary.PROMPT, canary.EXPECT)


@pytest.fixture(scope="module")
def baseline(house: House) -> Measured:
    """What was seen before the upgrade."""
    return seen(Script(), house)


def test_a_look_tells_what_was_measured_and_how(house: House) -> None:
    script = Script()
    found = seen(script, house)

    # Of 50 tokens in 3, 2.5, 2, 2.2 and 2.1 s; the answer that loads the model does not count.
    assert found.tokens_per_second == 22.73
    assert found.spread == 0.367
    # 89.6 GB/s for 2 GB.
    assert found.ceiling_share == 0.507
    assert (found.model, found.digest, found.device) == (MODEL, "d" * 64, "cpu")
    assert found.machine["node"] == "evo4t"
    assert len(script.asked) == 6
    (asked,) = {json.dumps(one) for one in script.asked}
    assert json.loads(asked)["options"] == {"temperature": 0, "seed": 1, "num_predict": 100}
    assert seen(Script(), house_with(None)).ceiling_share is None


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (Script(answer="GGGGGGGGGGGGGGGGGGGG"), "answers 'GGGGG"),
        (Script(answer="1, 2, 3, 4, 5, 6, 8, 7, 9"), "must have '1, 2, 3"),
        (Script(status=500), "500 .*model failed to load"),
        (Script(last={"error": "llama runner process has terminated"}), "has terminated"),
        (Script(last={"done": False}), "ends early, after 3 pieces"),
        (Script(cut=True), "breaks off: IncompleteRead"),
        (Script(last={"done": True, "eval_count": 0}), "has no tokens"),
        (Script(durations=[0] * 6), "has no tokens, or does not say"),
    ],
    ids=["garbage", "wrong", "status", "error", "early", "cut", "empty", "timeless"],
)
def test_a_bad_answer_is_red(house: House, script: Script, why: str) -> None:
    with pytest.raises(BadAnswerError, match=why):
        seen(script, house)


def test_one_bad_answer_of_six_is_red(house: House) -> None:
    class Once(Script):
        def reply(self, path: str, body: dict[str, Any], token: str) -> tuple[int, object]:
            self.answer = "###" if len(self.asked) == 5 else COUNTED
            return super().reply(path, body, token)

    with pytest.raises(BadAnswerError, match="'###'"):
        seen(Once(), house)


def test_spaces_are_no_mistake(house: House) -> None:
    assert seen(Script(answer=COUNTED.replace(" ", "\n")), house)


@pytest.mark.parametrize(
    ("factor", "slower", "level"),
    [
        (1, 10, "ok"),
        (0.5, 10, "ok"),
        (1.1, 10, "ok"),
        (1.12, 10, "red"),
        (1.12, 15, "ok"),
        (3, 15, "red"),
    ],
)
def test_slower_than_allowed_is_red(
    house: House, baseline: Measured, factor: float, slower: float, level: str
) -> None:
    durations = [seconds * factor for seconds in Script().durations]
    rows = canary.compare(seen(Script(durations=durations), house), baseline, "cpu", slower)

    assert {row.what: row.level for row in rows} == {
        "completion": "ok",
        "device": "ok",
        "tokens/s": level,
        "Ollama": "ok",
    }
    assert ("slower than the baseline" in canary.table(rows)) == (level == "red")


@pytest.mark.parametrize(
    ("in_gpu", "wanted", "level"),
    [(0, "cpu", "ok"), (3, "gpu", "ok"), (0, "gpu", "red"), (3, "cpu", "red"), (2, "gpu", "red")],
)
def test_another_device_is_red(
    house: House, baseline: Measured, in_gpu: int, wanted: str, level: str
) -> None:
    loaded = {"size": 3 * GIB, "size_vram": in_gpu * GIB}
    rows = canary.compare(seen(Script(loaded=loaded), house), baseline, wanted, 10)

    assert [row.level for row in rows if row.what == "device"] == [level]


@pytest.mark.parametrize("what", ["model", "digest", "machine", "device"])
def test_what_cannot_be_compared_is_no_pass(baseline: Measured, what: str) -> None:
    other: Any = {"node": "other"} if what == "machine" else "other"
    rows = canary.compare(baseline, replace(baseline, **{what: other}), "cpu", 10)

    assert [(row.what, row.why) for row in rows if row.level == "not comparable"] == [
        ("tokens/s", f"another {what}")
    ]


def test_device_and_ceiling_are_what_the_program_sets() -> None:
    program = deploy_program("home")
    (pod,) = (
        made.inputs["spec"]["template"]["spec"]
        for made in program.of_kind("Deployment")
        if made.inputs["metadata"]["name"] == "ollama"
    )

    def put(name: str, value: str) -> None:
        for container in (*pod["initContainers"], *pod["containers"]):
            kept = [one for one in container["env"] if one["name"] != name]
            container["env"] = [*kept, {"name": name, "value": value}]

    assert canary.expected_device(program) == "cpu"
    put("OLLAMA_LLM_LIBRARY", "vulkan")
    assert canary.expected_device(program) == "gpu"
    put("GATEWAY_BANDWIDTH", "8e10")
    put("GATEWAY_READ_BYTES", "a:1b=1e9,b:1b=2e9")
    assert canary.ceiling(program, "b:1b", 9e9) == 40
    assert canary.ceiling(program, "c:1b", 8e9) == 10


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "there is no baseline; RECORD=1 makes one"),
        ("{", "is no baseline: JSONDecodeError"),
        ("[]", "is no baseline: TypeError"),
        ('{"model": "m"}', "is no baseline: KeyError.'digest'"),
        ("still", "tokens_per_second must be more than 0"),
    ],
)
def test_a_baseline_that_is_none_is_told(
    tmp_path: Path, baseline: Measured, text: str | None, why: str
) -> None:
    file = tmp_path / "home.json"
    still = json.dumps({**asdict(baseline), "tokens_per_second": 0})
    if text:
        file.write_text(still if text == "still" else text)

    with pytest.raises(UnreadableError, match=f"home.json: .*{why}"):
        canary.read(file)


@pytest.fixture
def look(
    house: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run the whole program on a script; give exit code, output and the last line of errors."""
    outputs = house.program.outputs
    monkeypatch.setattr(canary, "BASELINES", tmp_path / "baselines")
    monkeypatch.setattr(doctor, "find", lambda _: house)

    def run(script: Script, *more: str) -> tuple[int, str, str]:
        with page(script) as address:
            monkeypatch.setitem(outputs, "open_webui_urls", ["http://127.0.0.1:9", address])
            monkeypatch.setattr(sys, "argv", ["canary", "--stack", "home", *more])
            code = canary.main()
        out, err = capsys.readouterr()
        return code, out, err.splitlines()[-1]

    return run


def test_the_exit_code_tells_a_pass_from_a_regression_and_from_no_verdict(
    look: Any, tmp_path: Path
) -> None:
    on_gpu = {"size": 3 * GIB, "size_vram": 3 * GIB}
    file = tmp_path / "baselines/home.json"

    assert look(Script())[::2] == (
        1,
        "error: no verdict: home.json: there is no baseline; RECORD=1 makes one",
    )
    assert look(Script(loaded=on_gpu), "--record")[0] == canary.RED
    assert look(Script(answer="no"), "--record")[0] == canary.RED
    assert not file.exists()
    code, text, _ = look(Script(), "--record")
    assert (code, text) == (
        0,
        "baselines/home.json: llama3.2:3b on cpu, 22.73 (spread 37%, 51% of the ceiling)"
        " tokens/s\n",
    )
    recorded = file.read_text()
    assert "secret" not in recorded

    code, text, _ = look(Script(version="0.41.0"))
    assert code == 0
    assert "| Ollama | 0.40.16 | 0.41.0 | ok |" in text
    assert text.endswith("\nThe canary is well.\n")

    code, text, error = look(Script(durations=[2] * 6, loaded=on_gpu))
    assert code == canary.RED
    assert "| **red**: the model ran on gpu, not on cpu |" in text
    assert error == "error: the canary is red: device: the model ran on gpu, not on cpu"
    assert "well" not in text

    assert look(Script(durations=[2.5] * 6))[0] == canary.RED
    assert look(Script(durations=[2.5] * 6), "--slower", "15")[0] == 0

    code, _, error = look(Script(digest="e" * 64))
    assert (code, error) == (1, "error: no verdict: tokens/s: another digest")
    # Red goes before what cannot be compared.
    assert look(Script(digest="e" * 64, loaded=on_gpu))[0] == canary.RED
    assert look(Script(password="changed"))[0] == 1
    assert look(Script(loaded={}))[0] == 1
    assert file.read_text() == recorded


def test_a_baseline_keeps_its_own_question(look: Any, tmp_path: Path) -> None:
    look(Script(), "--record")
    file = tmp_path / "baselines/home.json"
    question = {"prompt": "Say x.", "expect": "x"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **question}))
    script = Script(answer="xyz")

    assert look(script)[0] == 0
    assert script.asked[0]["prompt"] == "Say x."
    assert look(Script(answer="Say y."))[0] == canary.RED
