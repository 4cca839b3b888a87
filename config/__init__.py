"""The house as its owner describes it: read and checked once, before any resource."""

import json
from collections.abc import Mapping
from pathlib import Path

import pulumi
import yaml
from pulumi.runtime.config import CONFIG, get_config_env

from config import capacity, rules
from config.capacity_table import table
from config.catalogue import read_bytes
from config.declaration import told
from config.ide import API_PATHS, ide_config
from config.quantities import requested
from config.sections import SettingsError
from config.settings import Memory, Observability, Ollama, Settings, WebUI
from config.stack_file import PREFIX
from config.storage import Volume

Part = Ollama | WebUI | Observability

__all__ = [
    "API_PATHS",
    "Memory",
    "Ollama",
    "Part",
    "Settings",
    "SettingsError",
    "Volume",
    "WebUI",
    "ide_config",
    "load",
    "plan",
    "read",
    "read_bytes",
    "table",
    "told",
]


def chart_values() -> dict[str, object]:
    values: dict[str, object] = yaml.load(
        (Path(__file__).parent.parent / "components/observability/values.yaml").read_text(),
        yaml.CSafeLoader,
    )
    return values


def read(raw: Mapping[str, object]) -> Settings:
    """Check a stack file's `homelab:` keys, given without the prefix; raises SettingsError."""
    settings = Settings.parse(PREFIX, raw)
    rules.check(settings, requested(chart_values()))
    return settings


def plan(settings: Settings) -> capacity.Plan:
    """Plan what the house takes of its machines; pure, and the same in every run."""
    return capacity.plan(settings, requested(chart_values()), settings.gpu_memory)


def load() -> Settings:
    """Read the settings of the stack that is being run; raises RunError with one clear line."""
    # Not pulumi.Config: it has no list of the keys there are, and would overlook a misspelt one.
    stack = {**get_config_env(), **CONFIG.get()}
    own = {key.removeprefix(PREFIX): stack[key] for key in stack if key.startswith(PREFIX)}
    try:
        return read({key: _plain(key, text) for key, text in own.items()})
    except SettingsError as error:
        raise pulumi.RunError(str(error)) from None


def _plain(key: str, text: str) -> object:
    """The value of a key, which the engine hands over as text, or as JSON where it is not one."""
    try:
        return text if key == "context" else json.loads(text)
    except json.JSONDecodeError:
        return text
