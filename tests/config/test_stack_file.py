"""Reading a stack file, and its JSON schema for editors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import ROOT, read, stack_config
from jsonschema import Draft7Validator
from settings_lab import changed, every_key, paths

from config import SettingsError, schema
from config.stack_file import project_keys, read_config

VALIDATOR = Draft7Validator(
    json.loads(schema.FILE.read_text()), format_checker=Draft7Validator.FORMAT_CHECKER
)
STACKS = ("home", "sandbox", "example-two-nodes")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "Pulumi.other.yaml"
    file.write_text(text)
    return file


def whole(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a stack file with these keys, and keys that Pulumi writes."""
    keys = {f"homelab:{key}": value for key, value in raw.items()}
    others = {"kubernetes:context": "other", "pulumi:tags": {"a": "b"}}
    return {
        "secretsprovider": "passphrase",
        "encryptionsalt": "v1:abc=:v1:def:ghi==",
        "config": keys | others,
    }


def test_a_date_is_read_as_a_string_and_a_string_of_the_cli_as_its_value(tmp_path: Path) -> None:
    # `pulumi config set protect false` writes a string.
    text = 'config: {"homelab:protect": "false", "homelab:context": "5", ollama: {a: 2026-12-01}}'

    assert project_keys(read_config(written(tmp_path, text))) == {
        "protect": False,
        "context": "5",
        "ollama": {"a": "2026-12-01"},
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("encryptionsalt: x", "config: missing, want an object with the homelab: keys"),
        ("config: [", "cannot be read: while parsing"),
        ("config: {b: {c: 1, c: 2}}", "cannot be read: line 1: c: duplicate key"),
    ],
)
def test_an_invalid_stack_file_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_config(written(tmp_path, text))

    assert str(caught.value).startswith(f"Pulumi.other.yaml: {line}")
    assert "\n" not in str(caught.value)


def test_reading_a_stack_file_does_not_import_pulumi() -> None:
    code = "import config, config.stack_file, sys; sys.exit('pulumi' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_schema_and_settings_page_are_up_to_date() -> None:
    assert json.loads(schema.FILE.read_text()) == schema.schema(), "run python -m config.schema"
    Draft7Validator.check_schema(schema.schema())
    assert schema.PAGE.read_text() == schema.page(), "run python -m config.schema"


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_file_names_the_schema_and_is_valid(stack: str) -> None:
    text = (ROOT / f"Pulumi.{stack}.yaml").read_text()
    named = text.partition("\n")[0].removeprefix("# yaml-language-server: $schema=")

    assert (ROOT / named).samefile(schema.FILE)
    VALIDATOR.validate(yaml.safe_load(text))


def test_the_schema_accepts_every_key() -> None:
    VALIDATOR.validate(whole(every_key()))
    # As `pulumi config set` writes them.
    written = {"protect": "false", "copies_kept": "true"}
    VALIDATOR.validate(whole(stack_config("home") | written))


PATHS = [path for path, _ in paths(every_key())]


@pytest.mark.parametrize("path", PATHS)
def test_any_value_may_be_encrypted(path: str) -> None:
    VALIDATOR.validate(whole(changed(path, {"secure": "v1:abc:def=="}, every_key())))


@pytest.mark.parametrize("path", PATHS)
def test_no_value_may_be_of_another_type(path: str) -> None:
    raw = changed(path, {"secure": 7}, every_key())

    assert not VALIDATOR.is_valid(whole(raw))
    with pytest.raises(SettingsError):
        read(raw)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ollama/modles", []),
        ("webuii", {}),
        ("network/lan", ...),
        ("webui", ...),
        ("nodes", {}),
        ("nodes/Evo_4T", stack_config("home")["nodes"]["evo4t"]),
        ("nodes/evo4t/address", "fe80::1"),
        ("nodes/evo4t/profile", "hx380"),
        ("ollama/models", ["llama3.2"]),
        ("ollama/models", [{"name": "a:1b", "parameters": {"num_ctx": 1}}]),
        ("ollama/parallel", 0),
        ("ollama/volume/size", "100"),
        ("ollama/keep_alive", "-1h"),
        ("ollama/kv_cache", "q5"),
        ("ollama/image", "ollama/ollama:latest"),
        ("webui/origins", ["*"]),
        ("webui/volume/path", "/mnt/../x"),
    ],
)
def test_the_schema_rejects_what_the_program_rejects(path: str, value: object) -> None:
    raw = changed(path, value)

    assert not VALIDATOR.is_valid(whole(raw))
    with pytest.raises(SettingsError):
        read(raw)


@pytest.mark.parametrize("key", ["confg", "homelab:context"])
def test_the_schema_rejects_unknown_keys_of_pulumi(key: str) -> None:
    assert not VALIDATOR.is_valid(whole(stack_config("home")) | {key: "x"})


def test_every_key_has_a_description() -> None:
    bare = [
        f"{name}.{key}"
        for name, section in schema.schema()["definitions"].items()
        for key, definition in section.get("properties", {}).items()
        # Not Ollama's own parameters, and not sections, which have a description themselves.
        if name not in ("Parameters", "Encrypted")
        and "description" not in definition
        and not any(
            "$ref" in kind and "Encrypted" not in kind["$ref"] for kind in definition["anyOf"]
        )
    ]

    assert bare == []
