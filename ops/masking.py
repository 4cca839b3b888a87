"""Takes out of a value what is, or looks like, a secret."""

import re
from collections.abc import Collection
from typing import Any

NAMES = re.compile(r"passw(or)?d|passphrase|token|secret|credential|(api|private)_?key", re.I)
# Keys of charts and of Kubernetes whose value is only a name.
REFERENCES = frozenset({"existingSecret", "passwordKey", "secretName"})
# Private keys, tokens of well-known services, a JSON web token, a URL with a password.
SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:gh[opsu]_|github_pat_|glpat-|pul-|sk-|tskey-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_.-]+"
    r"|(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)"
)
HARMLESS = frozenset({"", "true", "false", "on", "off"})
MASK = "[secret]"


def masked(value: Any, secrets: Collection[str] = (), path: str = "", name: str = "") -> Any:
    """Copy `value` with `[secret]` in place of each secret: nothing of it is left, nor of its hash.

    Secret is what lies at or below the dotted paths `secrets`, what is named like a secret, and
    what is shaped like one.
    """
    if path in secrets:
        secrets, path = {""}, ""
    if isinstance(value, dict):
        # An environment variable is an object with its name beside its value.
        own = value["name"] if isinstance(value.get("name"), str) and "value" in value else ""
        return {
            key: masked(
                item,
                secrets,
                "" if "" in secrets else f"{path}.{key}" if path else str(key),
                own if own and key == "value" else str(key),
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            masked(item, secrets, "" if "" in secrets else f"{path}[{index}]", name)
            for index, item in enumerate(value)
        ]
    if "" in secrets or _named(name, value):
        return MASK
    return SHAPES.sub(MASK, value) if isinstance(value, str) else value


def _named(name: str, value: Any) -> bool:
    return (
        isinstance(value, str)
        and value.lower() not in HARMLESS
        and name not in REFERENCES
        and bool(NAMES.search(name))
    )
