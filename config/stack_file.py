"""The stack file as it lies on the disk, for whoever reads it without Pulumi."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.sections import SettingsError

PREFIX = "homelab:"


class _Once(yaml.SafeLoader):
    """Refuses a key that is there twice, as Pulumi's own reader does; PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if names.count(key.value) > 1:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value}: is there twice")
        return super().construct_mapping(node, deep)


# `refreshed: 2026-12-01` is a text to whoever writes it.
_Once.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


def config_of(file: Path) -> dict[str, Any]:
    """Give what is below `config`, by key as written; raises SettingsError in one line."""
    try:
        document = yaml.load(file.read_text(), _Once)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SettingsError(f"{file.name}: cannot be read: {line}") from error
    keys = document.get("config") if isinstance(document, dict) else None
    if not isinstance(keys, dict):
        raise SettingsError(f"{file.name}: must be an object named config with the {PREFIX} keys")
    return {str(key): value for key, value in keys.items()}


def own(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give this project's keys without the prefix; to Pulumi, one without any is the project's."""
    ours = [key for key in config if key.startswith(PREFIX) or ":" not in key]
    return {key.removeprefix(PREFIX): config[key] for key in ours}
