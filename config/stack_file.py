"""Reads a stack file without Pulumi."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.errors import PREFIX, SECRET, SettingsError


class _Loader(yaml.SafeLoader):
    """Loads as Pulumi does: rejects duplicate keys, and keeps dates as strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if names.count(key.value) > 1:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value}: duplicate key")
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def read_config(file: Path) -> dict[str, Any]:
    """Return the object below `config`; raises SettingsError of one line."""
    try:
        document = yaml.load(file.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SettingsError(f"{file.name}: cannot be read: {line}") from error
    keys = document.get("config") if isinstance(document, dict) else None
    if not isinstance(keys, dict):
        raise SettingsError(f"{file.name}: config: missing, want an object with the {PREFIX} keys")
    return {str(key): value for key, value in keys.items()}


def project_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return this project's keys without the prefix; a key without any prefix is also its own."""
    keys = [key for key in config if key.startswith(PREFIX) or ":" not in key]
    return {(name := key.removeprefix(PREFIX)): parse_value(name, config[key]) for key in keys}


def parse_value(name: str, value: object) -> object:
    """Return a key's value; the engine passes JSON, and `pulumi config set` writes strings."""
    if not isinstance(value, str) or name in ("context", "notifySecret"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def without_secrets(value: Any, placeholder: str, path: str = "") -> tuple[Any, list[str]]:
    """Return `value` with `placeholder` for each `{secure: …}`, and the paths of these."""
    if not isinstance(value, dict | list):
        return value, []
    if isinstance(value, dict) and [*value] == ["secure"]:
        # The pattern of notifySecret is not checked where its value is SECRET.
        return SECRET if path == "notifySecret" else placeholder, [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    inner = {
        key: without_secrets(item, placeholder, f"{path}.{key}".lstrip(".")) for key, item in pairs
    }
    paths = [path for _, paths in inner.values() for path in paths]
    if isinstance(value, list):
        return [item for item, _ in inner.values()], paths
    return {key: item for key, (item, _) in inner.items()}, paths
