"""The stack file's settings, read and validated once, before any resource is declared."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from config import checks, models
from config.capacity import Request, plan, requested
from config.capacity_table import table
from config.catalogue import prefixes, read_bytes
from config.errors import (
    PREFIX,
    SECRET,
    Encrypted,
    NoValue,
    Problem,
    SettingsError,
    format_problems,
    validation_problems,
    without_invalid,
)
from config.ide import API_PATHS, ide_config
from config.models import model_job_entries
from config.settings import Memory, Observability, Ollama, Settings, Volume, WebUI
from config.stack_file import parse_value

Workload = Ollama | WebUI | Observability
"""A section whose pods run on one node and keep data there."""

__all__ = [
    "API_PATHS",
    "Memory",
    "Ollama",
    "Request",
    "Settings",
    "SettingsError",
    "Volume",
    "WebUI",
    "Workload",
    "ide_config",
    "load",
    "model_job_entries",
    "plan",
    "prefixes",
    "read",
    "read_bytes",
    "requested",
    "table",
]


def read(raw: Mapping[str, Any], reserved: Request, secret: Collection[str] = ()) -> Settings:
    """Validate a stack file's `homelab:` keys, given without the prefix; raises SettingsError.

    `reserved` is the sum of the monitoring chart's requests; no error shows the value of a key in
    `secret`, the keys that Pulumi has decrypted.
    """
    raw, problems = _normalize(raw), list[Problem]()
    own = raw.get("servers")
    raw = {**raw, **_inherited(raw)}
    token = raw.get("notifySecret")
    if isinstance(token, Encrypted):
        # Meant to be encrypted, and only Pulumi needs its value.
        raw = {**raw, "notifySecret": SECRET}
    elif token not in (None, "", SECRET) and "notifySecret" not in secret:
        raw = {**raw, "notifySecret": SECRET}
        want = "pulumi config set --secret homelab:notifySecret"
        problems.append(Problem(("notifySecret",), NoValue.CLEAR, want))
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        problems += validation_problems(Settings, error)
    for check in (
        *(checks.nodes, checks.addresses, checks.access, checks.notify, checks.hosts),
        *(models.check_names, models.check_sizes, models.check_versions, models.check_uses),
        *(checks.volumes, checks.disks, partial(checks.memory, reserved=reserved)),
    ):
        if problems:
            settings = without_invalid(Settings, raw, {problem.path for problem in problems})
        try:
            problems += check(settings)
        except (AttributeError, KeyError, TypeError):
            # The check needs a key that is invalid, and so left out.
            if not problems:
                raise
    problems = [it for it in problems if not _is_repeated(it, own, problems)]
    if problems:
        raise SettingsError(format_problems(problems, {key: raw.get(key) for key in secret}))
    return settings


def _inherited(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key `servers`, if it is an object, with the keys of `ollama` in each server."""
    servers, ollama = raw.get("servers"), raw.get("ollama")
    if not isinstance(servers, Mapping) or not isinstance(ollama, Mapping):
        return {}
    return {
        "servers": {
            name: {**ollama, **server} if isinstance(server, Mapping) else server
            for name, server in servers.items()
        }
    }


def _is_repeated(problem: Problem, servers: Any, problems: Collection[Problem]) -> bool:
    """Return whether a server has an invalid value from `ollama`, which has its own line."""
    if problem.path[0] != "servers" or len(problem.path) < 3:
        return False
    _, name, *rest = problem.path
    inherited = {("ollama",), ("ollama", *rest)}
    return rest[0] not in servers[name] and not inherited.isdisjoint(it.path for it in problems)


def _normalize(value: Any) -> Any:
    """Return `value` with Encrypted for each `{secure: …}` and strings as keys, as Pulumi has."""
    if isinstance(value, Mapping):
        inner = {str(key): _normalize(item) for key, item in value.items()}
        is_secret = list(inner) == ["secure"] and isinstance(inner["secure"], str)
        return Encrypted() if is_secret else inner
    return [*map(_normalize, value)] if isinstance(value, list) else value


def load(reserved: Request) -> Settings:
    """Read the settings of the stack being run; raises RunError with one line for each key."""
    # Imported here: it is slow, and reading a stack file does not need it.
    import pulumi
    from pulumi.runtime import config as run

    # pulumi.Config cannot list keys, so it would overlook a misspelt one.
    stack = {**run.get_config_env(), **run.CONFIG.get()}
    own = {key.removeprefix(PREFIX): stack[key] for key in stack if key.startswith(PREFIX)}
    secret = {*run.get_config_secret_keys_env(), *filter(run.is_config_secret, stack)}
    try:
        raw = {key: parse_value(key, value) for key, value in own.items()}
        return read(raw, reserved, [key for key in own if f"{PREFIX}{key}" in secret])
    except SettingsError as error:
        raise pulumi.RunError(str(error)) from None
