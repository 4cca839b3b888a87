"""`python -m config.schema` writes schema.json for editors, and docs/settings.md for people."""

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

Written by `python -m config.schema` from [config/settings.py](../config/settings.py). All keys are
below `{PREFIX}` in the stack file; a wrong value is answered by a line that says what is right.

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
    """Give the JSON schema of a whole stack file, with what Pulumi itself writes there."""
    settings = _object(Settings.model_json_schema(ref_template="#/definitions/{model}"))
    definitions = {name: _object(one) for name, one in settings["$defs"].items()}
    # `pulumi config set` writes texts.
    settings["properties"]["protect"]["anyOf"].append({"enum": ["true", "false"]})
    config = {
        "type": "object",
        "properties": {PREFIX + key: one for key, one in settings["properties"].items()},
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


def _object(one: dict[str, Any]) -> dict[str, Any]:
    """Let `{secure: …}` stand for each value inside, and leave out pydantic's titles."""
    made = {key: value for key, value in one.items() if key != "title"}
    for key in {"items", "additionalProperties"} & {*made}:
        made[key] = made[key] and _value(made[key])
    if "patternProperties" in made:
        made["additionalProperties"] = False
    for key in {"properties", "patternProperties"} & {*made}:
        made[key] = {name: _value(inner) for name, inner in made[key].items()}
    return made


def _value(one: dict[str, Any]) -> dict[str, Any]:
    said = {key: one[key] for key in ("description", "default") if one.get(key) is not None}
    rest = {key: value for key, value in one.items() if key not in ("description", "default")}
    kinds = [_object(kind) for kind in rest.get("anyOf", [rest])]
    return {**said, "anyOf": [*kinds, {"$ref": "#/definitions/Encrypted"}]}


def page() -> str:
    """Give docs/settings.md: a row for each key, with its default and meaning."""
    schema = Settings.model_json_schema()

    def rows(section: dict[str, Any], path: str) -> Iterator[str]:
        for name, value in section["properties"].items():
            default = json.dumps(value.get("default")).strip('"')
            default = "none" if default == "null" else f"`{default}`"
            default = "required" if name in section.get("required", []) else default
            meaning = value.get("description", "")
            key = f"{path}{name}"
            # An object, a list of them, or one by each name.
            names = re.findall(r"#/\$defs/(\w+)", json.dumps(value))
            key += "[]" if names and "items" in value else ""
            key += ".<name>" if names and "patternProperties" in value else ""
            below = schema["$defs"][names[0]] if names else {}
            meaning = (meaning or below.get("description", "")).partition("\n")[0]
            yield f"| `{key}` | {default} | {meaning} |"
            if below:
                yield from rows(below, f"{key}.")

    return HEAD + "\n".join(rows(schema, "")) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    FILE.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n")
