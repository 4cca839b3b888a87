"""`python -m config.schema` writes schema.json, by which an editor completes a stack file."""

import json
from pathlib import Path
from typing import Any

from config.errors import PREFIX
from config.settings import Settings

FILE = Path(__file__).with_name("schema.json")

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


if __name__ == "__main__":
    FILE.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n")
