"""Writes schema.json, for editors, and docs/settings.md: `python -m config.schema`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.errors import PREFIX
from config.settings import Settings

FILE = Path(__file__).with_name("schema.json")
PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = f"""# Settings

Written by `python -m config.schema` from [config/settings.py](../config/settings.py). All keys
begin with `{PREFIX}` in the stack file; an invalid value fails with one line, `key: got X, want Y`.

| key | default | meaning |
| --- | --- | --- |
"""

ENCRYPTED = {
    "type": "object",
    "properties": {"secure": {"type": "string"}},
    "required": ["secure"],
    "additionalProperties": False,
}


def schema() -> dict[str, Any]:
    """Return the JSON schema of a whole stack file, with the keys that Pulumi writes."""
    settings = _object(Settings.model_json_schema(ref_template="#/definitions/{model}"))
    definitions = {name: _object(definition) for name, definition in settings["$defs"].items()}
    # `pulumi config set` writes strings.
    for key in ("protect", "copies_kept"):
        settings["properties"][key]["anyOf"].append({"enum": ["true", "false"]})
    config = {
        "type": "object",
        "properties": {PREFIX + key: value for key, value in settings["properties"].items()},
        "patternProperties": {f"^(?!{PREFIX})[^:]+:": {}},
        "required": [PREFIX + key for key in settings["required"]],
        "additionalProperties": False,
    }
    others = ("encryptionsalt", "encryptedkey", "secretsprovider", "environment")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"config": config, **{key: {} for key in others}},
        "required": ["config"],
        "additionalProperties": False,
        "definitions": {**definitions, "Encrypted": ENCRYPTED},
    }


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with `{secure: …}` allowed for each value, without pydantic's titles."""
    copy = {key: value for key, value in schema.items() if key != "title"}
    for key in {"items", "additionalProperties"} & {*copy}:
        copy[key] = copy[key] and _value(copy[key])
    if "patternProperties" in copy:
        copy["additionalProperties"] = False
    for key in {"properties", "patternProperties"} & {*copy}:
        copy[key] = {name: _value(inner) for name, inner in copy[key].items()}
    return copy


def _value(schema: dict[str, Any]) -> dict[str, Any]:
    notes = {key: schema[key] for key in ("description", "default") if schema.get(key) is not None}
    rest = {key: value for key, value in schema.items() if key not in ("description", "default")}
    types = [_object(type_) for type_ in rest.get("anyOf", [rest])]
    return {**notes, "anyOf": [*types, {"$ref": "#/definitions/Encrypted"}]}


def page() -> str:
    """Return docs/settings.md: a row for each key, with its default and meaning."""
    schema = Settings.model_json_schema()

    def rows(section: dict[str, Any], path: str) -> Iterator[str]:
        for name, value in section["properties"].items():
            default = json.dumps(value.get("default")).strip('"')
            default = "none" if default in ("null", "", "{}") else f"`{default}`"
            default = "required" if name in section.get("required", []) else default
            meaning = value.get("description", "")
            key = f"{path}{name}"
            # The section below: an object, a list of objects, or objects by name.
            names = re.findall(r"#/\$defs/(\w+)", json.dumps(value))
            key += "[]" if names and "items" in value else ""
            key += ".<name>" if names and "patternProperties" in value else ""
            below = schema["$defs"][names[0]] if names else {}
            meaning = (meaning or below.get("description", "")).partition("\n")[0]
            yield f"| `{key}` | {default} | {meaning} |"
            # A server has the keys of `ollama`.
            if below and name != "servers":
                yield from rows(below, f"{key}.")

    return HEAD + "\n".join(rows(schema, "")) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    FILE.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n")
