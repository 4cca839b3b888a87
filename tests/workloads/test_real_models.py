"""The model Job's program on the real Ollama, with a registry that fails in every known way."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from model_lab import (
    Before,
    Lab,
    Registry,
    garbled,
    half,
    lab,
    registry,
    slow,
    small_volume,
    status,
)

from sandbox.model_registry import FILES
from sandbox.programs import install

TOO_NEW = (
    "\n\nThe model you are attempting to pull requires a newer version of Ollama that may be in"
    " pre-release.\n\nPlease see https://github.com/ollama/ollama/releases for more details.\n\n"
)
VARIANT = {
    "name": "mine:1b",
    "base": "a:1b",
    "system": "Be short.",
    "template": "{{ .System }} {{ .Prompt }}",
    "parameters": {"num_ctx": 1024, "temperature": 0.5, "stop": ["END", "FIN"]},
}


@pytest.fixture(scope="module")
def ollama() -> Path:
    """The real program."""
    return install().ollama


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Registry]:
    """The registry, which fails as a test tells it to."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with registry(folder) as source:
        yield source


@pytest.fixture
def house(ollama: Path, source: Registry, tmp_path: Path) -> Iterator[Lab]:
    """A server without models."""
    with lab(ollama, tmp_path / "house", source.environment) as house:
        yield house


def works(house: Lab, model: str) -> bool:
    """Say whether a model answers."""
    wanted = {"model": model, "prompt": "Hello", "stream": False, "options": {"num_predict": 2}}
    return bool(house.ask("POST", "/api/generate", wanted)["eval_count"])


def test_a_second_run_changes_no_file(house: Lab) -> None:
    models = ({"name": "a:1b", "load": True, "keep_alive": "-1"}, "b:1b", VARIANT)
    first = house.run(*models)
    assert first.code == 0, first.lines
    assert first.plan == [
        "pull a:1b: not there",
        "pull b:1b: not there",
        "make mine:1b from a:1b: not there",
        "load a:1b",
    ]
    before = house.files()

    second = house.run(*models)

    assert (second.code, second.plan) == (0, ["load a:1b"]), second.lines
    assert second.lines[-1] == "as declared: 3 models; nothing was to be changed"
    assert house.files() == before
    (loaded,) = house.ask("GET", "/api/ps")["models"]
    assert loaded["name"] == "a:1b"
    # For ever is some centuries.
    assert int(loaded["expires_at"][:4]) > 2200


def test_a_variant_has_its_lines_and_is_made_again_when_they_change(house: Lab) -> None:
    assert house.run("a:1b", VARIANT).code == 0
    shown = house.ask("POST", "/api/show", {"model": "mine:1b"})
    assert (shown["system"], shown["template"]) == (VARIANT["system"], VARIANT["template"])
    lines = {" ".join(line.split()) for line in shown["parameters"].splitlines()}
    assert {"num_ctx 1024", "temperature 0.5", 'stop "END"', 'stop "FIN"'} <= lines
    assert works(house, "mine:1b")
    (loaded,) = house.ask("GET", "/api/ps")["models"]
    assert loaded["context_length"] == 1024

    changed = house.run("a:1b", VARIANT | {"system": "Be long."})
    assert changed.plan == ["make mine:1b from a:1b: is declared otherwise now"]
    assert house.ask("POST", "/api/show", {"model": "mine:1b"})["system"] == "Be long."

    bad = house.run("a:1b", VARIANT | {"template": "{{ .Nowhere"})
    assert bad.code == 1
    assert "mine:1b - " in bad.lines[-1]
    assert house.ask("POST", "/api/show", {"model": "mine:1b"})["system"] == "Be long."
    assert house.run("a:1b").code == 0
    assert [*house.digests()] == ["a:1b"]


def test_only_what_the_program_added_is_deleted(house: Lab) -> None:
    house.by_hand("pull", "hand:1b")
    house.by_hand("cp", "hand:1b", "copy:1b")
    assert house.run("a:1b", "hand:1b", "b:1b", VARIANT).code == 0
    house.by_hand("pull", "b:1b")

    told = house.run("a:1b")

    assert told.code == 0, told.lines
    assert set(house.digests()) == {"a:1b", "b:1b", "copy:1b", "hand:1b"}
    assert all(works(house, model) for model in house.digests())


def test_a_dry_run_changes_no_file(house: Lab) -> None:
    house.run("a:1b", "b:1b")
    before = house.files()

    told = house.run("b:1b", "c:1b", options=["--dry-run"])

    assert told.code == 0
    assert told.plan == [
        "pull c:1b: not there",
        "delete a:1b: was added by this program, is declared no longer",
    ]
    assert house.files() == before


def test_a_digest_is_verified_and_another_content_comes_only_if_it_is_the_declared_one(
    house: Lab, source: Registry
) -> None:
    assert house.run("a:1b", "b:1b").code == 0
    old = house.digests()["a:1b"]
    assert house.run({"name": "a:1b", "digest": old}, "b:1b").plan == []

    source.contents["a"] = "another"
    wrong = house.run({"name": "a:1b", "digest": "0" * 64})
    assert wrong.code == 1
    assert f", declared is {'0' * 64}" in wrong.lines[-1]
    assert house.digests() == {"a:1b": old, "b:1b": house.digests()["b:1b"]}
    assert works(house, "a:1b")

    house.by_hand("pull", "other/a:1b")
    new = house.digests()["other/a:1b"]
    assert new != old
    right = house.run({"name": "a:1b", "digest": new})
    assert right.code == 0, right.lines
    assert right.plan[0] == f"pull a:1b: is {old}, declared is {new}"
    assert house.digests() == {"a:1b": new, "other/a:1b": new}
    assert works(house, "a:1b")


def test_a_model_with_a_wrong_digest_stays_and_fails_until_the_line_is_mended(house: Lab) -> None:
    wrong = house.run({"name": "a:1b", "digest": "0" * 64})
    assert wrong.code == 1
    digest = house.digests()["a:1b"]
    assert wrong.lines[-1].endswith(f"a:1b - the registry has {digest}, declared is {'0' * 64}")

    assert house.run({"name": "a:1b", "digest": digest}).lines[-1] == (
        "as declared: 1 models; nothing was to be changed"
    )


PASSING = {
    "429": ("/manifests/", status(429, "slow down")),
    "500": ("/manifests/", status(500, "oops")),
    "503 for a file": ("/blobs/", status(503, "busy")),
    "half a file": (FILES, half),
    "other bytes": (FILES, garbled),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_may_pass_is_tried_again(house: Lab, source: Registry, case: str) -> None:
    assert house.run("old:1b").code == 0
    source.faults.append(PASSING[case])

    told = house.run("a:1b")

    assert source.faults == []
    assert told.code == 0, told.lines
    assert [*house.digests()] == ["a:1b"]
    assert works(house, "a:1b")


FINAL: dict[str, tuple[Before, str]] = {
    "412": (status(412, TOO_NEW), "needs a newer Ollama: raise the ollama image"),
    "404": (status(404, "MANIFEST_UNKNOWN"), "no such model in the registry"),
    "429": (status(429, "slow down"), "pull model manifest: 429: slow down"),
    "500": (status(500, "oops"), "pull model manifest: 500: oops"),
}


@pytest.mark.parametrize("case", FINAL)
def test_what_does_not_pass_is_a_clear_line_and_loses_nothing(
    house: Lab, source: Registry, case: str
) -> None:
    fault, reason = FINAL[case]
    assert house.run("a:1b", "old:1b").code == 0
    before = house.digests()
    source.always["/new/manifests/"] = fault

    told = house.run("a:1b", "new:1b")

    assert told.code == 1
    assert told.lines[-1].startswith(f"failed on Ollama 0.24.0: new:1b - {reason}")
    assert house.digests() == before
    # What is declared no longer goes once the other has come.
    source.always.clear()
    assert house.run("a:1b", "new:1b").code == 0
    assert set(house.digests()) == {"a:1b", "new:1b"}


def test_a_file_that_is_never_right_is_a_clear_line(house: Lab, source: Registry) -> None:
    source.always[FILES] = garbled

    told = house.run("a:1b")

    assert told.code == 1
    assert "a:1b - digest mismatch, file must be downloaded again" in told.lines[-1]
    assert house.digests() == {}
    source.always.clear()
    assert house.run("a:1b").code == 0
    assert works(house, "a:1b")


@pytest.fixture
def small(ollama: Path, source: Registry, tmp_path: Path) -> Iterator[Lab]:
    """A server with room for one model and a half."""
    tried = [*small_volume(tmp_path, "4k"), "true"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a volume of his own (unshare --map-root-user)")
    with lab(ollama, tmp_path / "small", source.environment, "700k") as house:
        yield house


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_full_disk_is_a_clear_line_and_loses_nothing(
    small: Lab, source: Registry, tmp_path: Path, is_asked: bool
) -> None:
    # Where the program cannot see how much is free, Ollama runs into it.
    ledger = {} if is_asked else {"LEDGER_FOLDER": str(tmp_path)}
    assert small.run("a:1b", **ledger).code == 0
    before = small.digests()
    # Its first word of a file comes after 60 ms, and this one is small.
    source.always[FILES] = slow

    told = small.run("b:1b", **ledger)

    assert told.code == 1
    reason = r"0\.\d\d GB more do not fit into 0\.00 GB" if is_asked else "no space left on device"
    line = rf"failed on Ollama 0\.24\.0: b:1b - the volume for models is full.*{reason}.*"
    assert re.fullmatch(line, told.lines[-1])
    assert "a:1b: not deleted, because something failed" in told.lines
    assert small.digests() == before
    assert works(small, "a:1b")

    small.by_hand("rm", "a:1b")
    assert small.run("b:1b", **ledger).code == 0
    assert [*small.digests()] == ["b:1b"]
    assert works(small, "b:1b")


def test_it_goes_on_after_a_kill_at_any_moment(house: Lab, source: Registry) -> None:
    house.by_hand("pull", "hand:1b")
    assert house.run("a:1b", "b:1b", VARIANT).code == 0
    hand = house.digests()["hand:1b"]
    source.contents["b"] = "another"
    house.by_hand("pull", "other/b:1b")
    new = house.digests()["other/b:1b"]
    models = ({"name": "b:1b", "digest": new}, "c:1b", "d:1b", VARIANT | {"base": "b:1b"})
    source.always["/v2/"] = slow
    random, codes = Random(6), []
    for turn in range(15):
        process = house.begin(*models)
        time.sleep(random.uniform(0.1, 1.2))
        process.kill()
        process.communicate()
        codes.append(process.returncode)
        if turn % 3 == 2:
            house.kill()
            house.start()
        assert house.digests()["hand:1b"] == hand
        assert {"b:1b", "mine:1b"} <= set(house.digests())

    source.always.clear()
    told = house.run(*models)

    assert -9 in codes
    assert told.code == 0, told.lines
    wanted = {"b:1b", "c:1b", "d:1b", "mine:1b", "hand:1b", "other/b:1b"}
    assert set(house.digests()) == wanted
    assert house.digests()["b:1b"] == new
    assert all(works(house, model) for model in wanted)
    again = house.run(*models)
    assert again.lines[-1] == "as declared: 4 models; nothing was to be changed"
