"""The stack file as it lies on the disk, for whoever reads it without Pulumi."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.errors import PREFIX, SettingsError


class _Loader(yaml.SafeLoader):
    """Reads as Pulumi does: no key twice, where PyYAML takes the last, and a date is a text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if names.count(key.value) > 1:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value}: is there twice")
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def config_of(file: Path) -> dict[str, Any]:
    """Give what is below `config`, by key as written; raises SettingsError in one line."""
    try:
        document = yaml.load(file.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SettingsError(f"{file.name}: cannot be read: {line}") from error
    keys = document.get("config") if isinstance(document, dict) else None
    if not isinstance(keys, dict):
        raise SettingsError(f"{file.name}: config: missing, want an object with the {PREFIX} keys")
    return {str(key): value for key, value in keys.items()}


def own(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give this project's keys without the prefix; to Pulumi, one without any is the project's."""
    ours = [key for key in config if key.startswith(PREFIX) or ":" not in key]
    return {(name := key.removeprefix(PREFIX)): value_of(name, config[key]) for key in ours}


def value_of(name: str, value: object) -> object:
    """The value of a key: the engine hands it over as text, and `pulumi config set` writes one."""
    if not isinstance(value, str) or name == "context":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def replaced(value: Any, placeholder: str, at: str = "") -> tuple[Any, list[str]]:
    """Give `value` with `placeholder` for each `{secure: …}` in it, and where these were."""
    if not isinstance(value, dict | list):
        return value, []
    if isinstance(value, dict) and [*value] == ["secure"]:
        return placeholder, [at]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    inside = {key: replaced(item, placeholder, f"{at}.{key}".lstrip(".")) for key, item in pairs}
    found = [path for _, paths in inside.values() for path in paths]
    if isinstance(value, list):
        return [item for item, _ in inside.values()], found
    return {key: item for key, (item, _) in inside.items()}, found
