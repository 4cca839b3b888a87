"""Project files agree with the program: declared keys, pinned versions, links of the docs."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from harness import ROOT

from config.settings import Settings

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
OWN = [
    ROOT / name
    for pattern in ("*.py", "Makefile", "Pulumi*.yaml", ".github/workflows/*", "config/**/*.json")
    for name in ROOT.glob(pattern)
] + [
    file
    for folder in ("components", "config", "ops", "sandbox", "tests")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
"""Files that may link to a page."""


def test_pulumi_yaml_declares_every_key() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    own = {
        name.removeprefix("homelab:"): declaration
        for name, declaration in declared.items()
        if "homelab:" in name
    }

    assert set(own) == {*Settings.model_fields}
    assert [
        name
        for name, declaration in own.items()
        if not (declaration["type"] and declaration["description"])
    ] == []


@pytest.mark.parametrize("stack", ["home", "sandbox", "example-two-nodes"])
def test_no_secret_is_in_a_stack_file(stack: str) -> None:
    text = (ROOT / f"Pulumi.{stack}.yaml").read_text()

    assert not re.search(r"password|token|secret_key", text, re.IGNORECASE)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_is_pinned_and_installed_as_pinned(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement and not requirement.startswith("-r"):
            package, _, pinned = requirement.partition(";")[0].partition("==")
            assert version(package) == pinned


def test_the_required_cli_is_the_version_of_the_sdk() -> None:
    needed = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["requiredPulumiVersion"]

    assert needed == f">={version('pulumi')}"


def texts(file: Path) -> list[str]:
    """Return the constants of a Python module, or the scalars of a YAML file."""
    if file.suffix == ".py":
        values = [node.value for node in ast.parse(file.read_text()).body if hasattr(node, "value")]
        return [str(value.value) for value in values if isinstance(value, ast.Constant)]
    events = yaml.parse(file.read_text())
    return [event.value for event in events if isinstance(event, yaml.ScalarEvent)]


def test_renovate_matches_every_pinned_version() -> None:
    """In Python and YAML files; requirements, go.mod and workflows need no pattern."""
    (manager,) = json.loads((ROOT / "renovate.json").read_text())["customManagers"]
    (pattern,) = manager["matchStrings"]
    # JavaScript writes named groups without the P.
    pattern = pattern.replace("(?<", "(?P<")
    looked_at = [
        re.compile(files_pattern.strip("/")) for files_pattern in manager["managerFilePatterns"]
    ]
    pinned, matched = [], []
    folders = ("components", "config", "ops", "sandbox")
    for file in [
        *(file for folder in folders for file in (ROOT / folder).rglob("*.py")),
        *ROOT.glob("Pulumi*.yaml"),
    ]:
        name = str(file.relative_to(ROOT))
        for text in texts(file):
            if version := re.search(r"(?:^|[:=])(v?\d+\.\d+\.\d+)(?:@sha256:\w+)?$", text):
                pinned.append((name, version[1]))
        if any(files_pattern.search(name) for files_pattern in looked_at):
            matches = re.finditer(pattern, file.read_text())
            matched += [(name, match["currentValue"]) for match in matches]

    assert sorted(matched) == sorted(pinned)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def dead(page: Path, anchor: str) -> bool:
    """Return whether a page does not exist, or has no such heading."""
    return not page.exists() or (bool(anchor) and anchor not in anchors(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_has_a_target(page: Path) -> None:
    links = re.findall(r"(?:\]\(|src=\")([^)#\"]*)#?([^)\"]*)[)\"]", page.read_text())
    own = [(target, anchor) for target, anchor in links if not target.startswith("http")]

    assert [link for link in own if dead(page.parent / link[0] if link[0] else page, link[1])] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_of_a_page_has_a_head(page: Path) -> None:
    tables = re.findall(r"(?<=\n\n)(?:\|.*\n)+", page.read_text())

    assert [table for table in tables if not re.match(r"\|.*\n\| ?-", table)] == []


def test_every_page_that_the_code_links_to_exists() -> None:
    named = [
        (file.name, *link)
        for file in OWN
        for link in re.findall(r"(docs/[a-z-]+\.md)(?:#([a-z0-9-]+))?", file.read_text())
    ]

    assert len(named) > 20
    assert [link for link in named if dead(ROOT / link[1], link[2])] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_that_a_page_names_is_a_setting(page: Path) -> None:
    table = (ROOT / "docs/settings.md").read_text()
    keys = {key.replace("[]", "") for key in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)}
    section = r"(?!webui\.db)(?:nodes\.<name>|network|ollama|webui|observability)"

    named = re.findall(rf"`({section}\.[a-z_.]*[a-z])(?:: [^`]+)?`", page.read_text())
    assert [key for key in named if key not in keys] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    rules = re.findall(r"^([a-z./ -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}

    named = re.findall(
        r"(?:`|^    (?:sudo )?|`sudo )make ([a-z./-]+)", page.read_text(), re.MULTILINE
    )
    assert set(named) <= targets


def test_make_runs_or_names_the_pulumi_command_for_a_server(tmp_path: Path) -> None:
    pulumi = tmp_path / "pulumi"
    urls = """'["http://a:1","http://b:1"]'"""
    pulumi.write_text(
        f'#!/bin/sh\ncase $1 in stack) echo {urls};; *) echo "asked for: $*";; esac\n'
    )
    pulumi.chmod(0o755)

    def make(path: str, *words: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            # -o: as if up to date, so that nothing is installed.
            ["make", "-o", ".venv/ready", "-o", ".venv/dev", *words],
            cwd=ROOT,
            env={"PATH": path},
            input=answer,
            capture_output=True,
            text=True,
            check=False,
        )

    with_pulumi, without = f"{tmp_path}:/usr/bin:/bin", "/usr/bin:/bin"
    preview = "asked for: preview {} --stack home\n"
    assert make(with_pulumi, "preview", "STACK=home").stdout == preview.format("--diff")
    preview = f"{preview.format('--suppress-outputs')}Update home? [y/N] "
    for answer in ("", "n\n"):
        refused = make(with_pulumi, "up", "STACK=home", answer=answer)
        assert (refused.returncode, refused.stdout) == (2, preview)
    confirmed = make(with_pulumi, "up", "STACK=home", answer="y\n").stdout
    update = "asked for: up --yes --skip-preview --non-interactive --suppress-outputs --stack home"
    assert confirmed.startswith(f"{preview}{update}\nchat page: http://a:1 http://b:1\n")
    assert confirmed.endswith("make doctor STACK=home\n")
    assert make(without, "up", "STACK=home").stderr.startswith("error: pulumi: not on PATH")
    want = "for a server: pulumi destroy --stack home\n"
    assert want in make(with_pulumi, "down", "STACK=home").stderr
    assert make(with_pulumi, "preview").stderr.startswith("error: make preview is for a server")
    status = make(without, "status", "STACK=home", "KUBECONFIG=/nowhere")
    assert status.stderr.startswith(
        "error: kubeconfig: got '/nowhere', want the context 'homelab': "
    )


def test_make_shows_the_progress_of_pip(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    wheel = "one-1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / wheel, "w") as file:
        metadata = "Metadata-Version: 2.1\nName: one\nVersion: 1\n"
        file.writestr("one-1.dist-info/METADATA", metadata)
        file.writestr("one-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        file.writestr("one-1.dist-info/RECORD", "")
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "requirements-dev.txt").write_text(f"./{wheel}\n")

    def make(target: str) -> str:
        command = ["make", target, f"PYTHON={sys.executable}"]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert wheel not in make(".venv/ready")
    assert f"Processing ./{wheel}" in make(".venv/dev")
    assert "up to date" in make(".venv/dev")
