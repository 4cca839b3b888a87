"""What the owner wrote in a stack file: read and checked once, before any resource."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from config import checks, models
from config.capacity import Request, plan, requested
from config.capacity_table import table
from config.catalogue import read_bytes
from config.errors import PREFIX, Encrypted, SettingsError, in_words, lines, right_part
from config.ide import API_PATHS, ide_config
from config.models import told
from config.settings import Memory, Observability, Ollama, Settings, Volume, WebUI
from config.stack_file import value_of

Part = Ollama | WebUI | Observability

__all__ = [
    "API_PATHS",
    "Memory",
    "Ollama",
    "Part",
    "Request",
    "Settings",
    "SettingsError",
    "Volume",
    "WebUI",
    "ide_config",
    "load",
    "plan",
    "read",
    "read_bytes",
    "requested",
    "table",
    "told",
]


def read(raw: Mapping[str, Any], reserved: Request, secret: Collection[str] = ()) -> Settings:
    """Check a stack file's `homelab:` keys, given without the prefix; raises SettingsError.

    `reserved` is what the monitoring chart requests; the values of the keys in `secret` are in no
    error.
    """
    raw, wrong = _readable(raw), []
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        wrong = [*in_words(Settings, error)]
    for check in (
        *(checks.nodes, checks.addresses, checks.access, checks.hosts),
        *(models.declared, models.known, models.runnable, models.used),
        *(checks.volumes, checks.disks, partial(checks.memory, reserved=reserved)),
    ):
        if wrong:
            settings = right_part(Settings, raw, {problem.at for problem in wrong})
        try:
            wrong += check(settings)
        except (AttributeError, KeyError, TypeError):
            # What it needs is wrong itself, and left out.
            if not wrong:
                raise
    if wrong:
        raise SettingsError(lines(wrong, {key: raw.get(key) for key in secret}))
    return settings


def _readable(value: Any) -> Any:
    """Put a stand-in for each `{secure: …}`, and have texts for keys, as the engine does."""
    if isinstance(value, Mapping):
        inner = {str(key): _readable(one) for key, one in value.items()}
        return Encrypted() if list(inner) == ["secure"] else inner
    return [*map(_readable, value)] if isinstance(value, list) else value


def load(reserved: Request) -> Settings:
    """Read the settings of the stack that is being run; raises RunError, one line for each key."""
    # Not above: who reads a stack file without it need not wait for it.
    import pulumi
    from pulumi.runtime import config as run

    # Not pulumi.Config: it has no list of the keys there are, and would overlook a misspelt one.
    stack = {**run.get_config_env(), **run.CONFIG.get()}
    own = {key.removeprefix(PREFIX): stack[key] for key in stack if key.startswith(PREFIX)}
    secret = {*run.get_config_secret_keys_env(), *filter(run.is_config_secret, stack)}
    try:
        raw = {key: value_of(key, text) for key, text in own.items()}
        return read(raw, reserved, [key for key in own if f"{PREFIX}{key}" in secret])
    except SettingsError as error:
        raise pulumi.RunError(str(error)) from None
