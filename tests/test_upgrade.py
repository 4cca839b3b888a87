"""The upgrade gate on planted upgrades: open or closed, and what it tells."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import deploy_program, stack_config
from hypothesis import given
from hypothesis import strategies as st

from config import versions as pins
from ops import render, upgrade, versions
from ops.changes import Difference, Made, load
from ops.products import PRODUCTS
from ops.versions import Bump

Folder = dict[str, Made]
WEBUI, OLLAMA, CHART = pins.OPEN_WEBUI_IMAGE, pins.OLLAMA_IMAGE, pins.KUBE_PROMETHEUS_STACK
PAGE = WEBUI.partition(":")[0]
NEW = "@sha256:" + "a" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The house as it is, rendered."""
    out, config = tmp_path_factory.mktemp("base"), stack_config("home")
    render.write(out, render.render(deploy_program("home", config), config))
    return out


@pytest.fixture(scope="module")
def base(folder: Path) -> Folder:
    """The same, read back."""
    return load(folder)


def with_other(base: Folder, old: str, new: str) -> Folder:
    """`base` with another text wherever `old` is one of its values."""
    texts = {key: json.dumps(made.properties) for key, made in base.items()}
    assert any(f'"{old}"' in text for text in texts.values())
    return {
        key: replace(made, properties=json.loads(texts[key].replace(f'"{old}"', f'"{new}"')))
        for key, made in base.items()
    }


def told(base: Folder, *changes: tuple[str, str]) -> tuple[list[str], list[str]]:
    """The rows of the report, each with its cells joined again, and why the gate is closed."""
    head = base
    for old, new in changes:
        head = with_other(head, old, new)
    text, closed = upgrade.report(Difference(base, head))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(row.count(" | ") == 4 for row in rows)
    assert (f"**Gate {'closed' if closed else 'open'}.**" in text) == bool(rows)
    return rows[2:], closed


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            OLLAMA,
            f"ollama/ollama:0.40.17{NEW}",
            [
                "Ollama `0.40.16 @910d0d81` → `0.40.17 @aaaaaaaa`",
                "[0.40.17](https://github.com/ollama/ollama/releases/tag/v0.40.17)",
                "[all since](https://github.com/ollama/ollama/compare/v0.40.16...v0.40.17)",
                "| no | no | nothing |",
            ],
        ),
        (OLLAMA, f"ollama/ollama:0.43.0{NEW}", ["| skips 2 minor versions |"]),
        (OLLAMA, f"ollama/ollama:1.0.0{NEW}", ["| **major version**: read the notes of each |"]),
        (OLLAMA, f"ollama/ollama:0.41.0-rc1{NEW}", ["releases/tag/v0.41.0-rc1)", "not a final"]),
        (OLLAMA, f"ollama/ollama:0.40.16-rocm{NEW}", ["**another variant of the image**"]),
        (OLLAMA, f"ollama/ollama:0.40.16{NEW}", ["**the same version with other contents**"]),
        (OLLAMA, f"ollama/ollama:0.39.0{NEW}", ["| no | no | **older than before**"]),
        (
            WEBUI,
            f"{PAGE}:v0.13.0",
            [
                "Open WebUI `0.12.4` → `0.13.0`",
                "(https://github.com/open-webui/open-webui/releases/tag/v0.13.0)",
                "| **yes**: accounts, chats and files | **yes**: the first start migrates",
                "| no digest: the tag can be moved |",
            ],
        ),
        # 0.12.1 of Open WebUI was one that said to back up first.
        (WEBUI, f"{PAGE}:v0.12.5", ["| **yes**: accounts, chats and files | **yes**: the first"]),
        (WEBUI, f"{WEBUI}{NEW}", ["Open WebUI `0.12.4` → `0.12.4 @aaaaaaaa`", "| nothing |"]),
        (
            CHART,
            "89.0.0",
            [
                "releases/tag/kube-prometheus-stack-89.0.0)",
                "compare/kube-prometheus-stack-88.5.3...kube-prometheus-stack-89.0.0)",
                "| no | **yes**: Helm does not update the operator's definitions (CRDs)",
                "| **major version**: read the notes of each |",
            ],
        ),
        (CHART, "88.6.0", ["| no | no | nothing |"]),
        (pins.METALLB, "0.16.2", ["metallb/metallb/releases/tag/v0.16.2)", "| no | no |"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_be_applied_is_told_with_what_it_means(
    base: Folder, old: str, new: str, parts: list[str]
) -> None:
    (row,), closed = told(base, (old, new))

    assert closed == []
    assert [part for part in parts if part not in row] == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (WEBUI, f"{PAGE}:v0.12.3", "Open WebUI: 0.12.3 is older than 0.12.4: the first start"),
        (WEBUI, f"{PAGE}:v0.12.4-rc1", "Open WebUI: 0.12.4-rc1 is older than 0.12.4"),
        (WEBUI, f"{PAGE}:main", f"Open WebUI: `{PAGE}:main` names no full version"),
        (WEBUI, f"{PAGE}:v0.13", f"Open WebUI: `{PAGE}:v0.13` names no full version"),
        (WEBUI, PAGE, f"Open WebUI: `{PAGE}` names no full version"),
        (OLLAMA, "ollama/ollama:0.41.0", "Ollama: `ollama/ollama:0.41.0` has no digest any more"),
        (OLLAMA, f"ollama/ollama{NEW}", f"Ollama: `ollama/ollama{NEW}` names no full version"),
        (OLLAMA, f"example.org:5000/ollama:1.0.0{NEW}", "`example.org:5000/ollama` is not in"),
        (CHART, "88.5.2", "kube-prometheus-stack: 88.5.2 is older than 88.5.3: Helm does not"),
    ],
)
def test_what_may_not_be_applied_is_told_in_one_line(
    base: Folder, old: str, new: str, why: str
) -> None:
    (_,), closed = told(base, (old, new))

    assert len(closed) == 1
    assert why in closed[0]
    assert "\n" not in closed[0]


def test_each_upgrade_of_several_is_judged(base: Folder) -> None:
    rows, closed = told(base, (OLLAMA, f"ollama/ollama:0.41.0{NEW}"), (WEBUI, f"{PAGE}:v0.1.0"))

    assert len(rows) == 2
    assert [line.partition(":")[0] for line in closed] == ["Open WebUI"]


def test_another_change_is_no_upgrade(base: Folder) -> None:
    assert told(base) == ([], [])
    assert told(base, ("8192", "4096")) == ([], [])


def test_a_models_other_digest_is_one(base: Folder) -> None:
    def declared(model: str, digest: str) -> Folder:
        told: dict[str, Any] = {"models": ["gemma:7b", model]}
        digests = {"model_digests": {model: f"sha256:{digest * 64}"} if digest else {}}
        return {**base, versions.MODELS: replace(base[versions.MODELS], properties=told | digests)}

    def seen(was: tuple[str, str], now: tuple[str, str]) -> str:
        return upgrade.report(Difference(declared(*was), declared(*now)))[0]

    pinned = ("codellama:7b", "1")
    text = seen(pinned, ("codellama:7b", "2"))

    assert "`codellama:7b` `11111111` → `22222222`" in text
    assert "https://ollama.com/library/codellama/tags" in text
    assert "record a baseline for the canary anew" in text
    assert "**Gate open.** In this order, each with `STACK`: `make up`" in text
    assert "`11111111` → `no digest`" in seen(pinned, ("codellama:7b", ""))
    assert "**no longer pinned by digest**" in seen(pinned, ("codellama:7b", ""))
    assert seen(pinned, pinned) == upgrade.NOTHING
    # Another model is none that is upgraded.
    assert seen(pinned, ("codellama:13b", "2")) == upgrade.NOTHING


NUMBERS = st.tuples(*[st.integers(0, 30)] * 3)


@given(old=NUMBERS, new=NUMBERS)
def test_the_gate_is_closed_to_exactly_what_is_older(
    old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    was, now = (f"{PAGE}:v{'.'.join(map(str, numbers))}" for numbers in (old, new))
    closed = [*upgrade.refusals(Bump("image", PAGE, was, now, ("open-webui",)))]

    assert bool(closed) == (new < old)


def test_every_pin_of_the_program_is_a_product_with_sources() -> None:
    images = {name.partition(":")[0] for name in (OLLAMA, WEBUI)}

    assert images | {"kube-prometheus-stack", "metallb"} <= PRODUCTS.keys()
    for product in PRODUCTS.values():
        assert product.sources
        assert all(url.startswith("https://") for url in (*product.sources, product.notes))
        assert product.notes.count("{}") == 1
        assert product.compare.count("{}") == 2
        assert bool(product.one_way) == bool(product.why)


def test_the_exit_code_tells_the_gate(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(image: str) -> tuple[int, str, str]:
        head = tmp_path / "head"
        head.mkdir(exist_ok=True)
        for file in folder.iterdir():
            (head / file.name).write_text(file.read_text().replace(WEBUI, image))
        monkeypatch.setattr(sys, "argv", ["upgrade", str(folder), str(head)])
        return upgrade.main(), *capsys.readouterr()

    assert run(WEBUI) == (0, upgrade.NOTHING, "")
    code, text, error = run(f"{PAGE}:v0.13.0")
    assert (code, error) == (0, "")
    assert text.startswith("| upgrade |")
    code, text, error = run(f"{PAGE}:latest")
    assert code == upgrade.CLOSED
    assert "**Gate closed.**" in text
    assert error.startswith("error: gate closed: Open WebUI: ")
    assert error.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["upgrade", str(tmp_path / "none"), str(folder)])
    assert upgrade.main() == 1
    assert capsys.readouterr().err.startswith("error: ")
