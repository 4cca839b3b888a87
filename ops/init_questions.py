"""Questions of `make init`, and the checks of their answers."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from config.errors import wanted
from config.settings import Notify

BANDWIDTHS = {
    "DDR4-3200": 51.2,
    "DDR5-4800": 76.8,
    "DDR5-5600": 89.6,
    "LPDDR5X-7500": 120.0,
    "LPDDR5X-8000 with 256 bits": 256.0,
}
"""GB/s of all channels by type of memory: transfers/s times 16 bytes, or 32."""
RECEIVERS = "ntfy, ntfy=URL, pushover=USER_KEY, telegram=CHAT_ID, webhook=text or none"
QUESTIONS = {
    "missing-nodes": "drop or keep nodes of the file that left the cluster; default: drop",
    "disk": "mount point of a new node's data disk; default: of its largest disk",
    "disk-size": "size of that disk, such as 931Gi; default: as the Job measures it",
    "memory-kind": f"type of a new node's memory, for tokens/s: {', '.join(BANDWIDTHS)}"
    " or unknown; default: unknown",
    "profile": "where a node with a GPU runs models: its profile, such as hx370, or cpu;"
    " default: the profile",
    "lan": "the home network, such as 192.168.1.0/24; default: the node's",
    "pool": "two neighbouring addresses outside the router's DHCP range, for the chat page and"
    " Grafana, such as 192.168.1.101-192.168.1.102; default: the first two after the node's that"
    " do not answer",
    "email": "your e-mail address, to sign in to the chat page; default: admin@homelab.home.arpa",
    "backup-disk": "mount point of the disk for backups of the chats, or none; default: of the"
    " second largest disk",
    "alerts": f"who gets the alerts: {RECEIVERS}; default: none",
    "timezone": "your time zone, such as Europe/Berlin: warnings are sent from 8:00 to 22:00;"
    " default: this computer's",
    "models": "models to pull, separated by commas, the first for new chats; default: the first"
    " three that fit",
}
"""Options, each the answer to a question, and their help."""


class Prompt:
    """Asks questions, answered by flags, by the stack file, by the owner or by the defaults."""

    def __init__(self, flags: Mapping[str, str | None], yes: bool) -> None:
        """Use `flags` by name of a question; with `yes`, the defaults answer the other ones."""
        self.flags, self.yes = flags, yes

    def __call__(
        self,
        key: str,
        question: str,
        default: str,
        check: Callable[[str], object] = str,
        old: str | None = None,
    ) -> str:
        """Return the flag, or `old` if it is not None, or an answer for which `check` is silent.

        Raises ValueError for an invalid flag, and if nobody can be asked.
        """
        name, flag = f"--{key.replace('_', '-')}", self.flags.get(key)
        if flag is None and old is not None:
            return old
        if flag is not None or (self.yes and default):
            answer = default if flag is None else flag
            try:
                check(answer)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            return answer
        if self.yes or not sys.stdin.isatty():
            raise ValueError(f"{name}: missing; {question}")
        while True:
            answer = input(f"{question} [{default}] " if default else f"{question} ").strip()
            answer = answer or default
            try:
                check(answer)
            except ValueError as error:
                print(f"  {error}")
                continue
            return answer

    def confirm(self, question: str, job: Mapping[str, Any] | None = None) -> bool:
        """Return the answer to a yes-or-no question; "show" prints the `job` and asks again."""
        choices = "Y/n/show" if job else "Y/n"
        while not self.yes:
            if not sys.stdin.isatty():
                return False
            answer = input(f"{question} [{choices}] ").strip().lower()
            if not (job and answer in ("s", "show")):
                return answer in ("", "y", "yes")
            YAML().dump(dict(job), sys.stdout)
        return True


def of(type_: Any) -> Callable[[str], None]:
    """Return a check that raises ValueError for anything but a value of a type of the settings."""

    def check(text: str) -> None:
        try:
            TypeAdapter(type_).validate_python(text)
        except ValidationError:
            raise ValueError(f"got {text!r}, want {wanted(type_)}") from None

    return check


def choice(*choices: str) -> Callable[[str], None]:
    """Return a check that raises ValueError for anything but one of two or more `choices`."""

    def check(text: str) -> None:
        if text not in choices:
            raise ValueError(f"got {text!r}, want {', '.join(choices[:-1])} or {choices[-1]}")

    return check


def local_time_zone() -> str:
    """Return the name of this computer's time zone; UTC if unknown."""
    # A link into the database, on Linux and macOS.
    name = os.environ.get("TZ") or str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    return name if name in available_timezones() else "UTC"


def first_two(pool: str) -> tuple[str, str]:
    """Return the first two addresses of a range; raises ValueError."""
    with contextlib.suppress(ValueError):
        first, last = map(IPv4Address, pool.split("-"))
        if last > first:
            return str(first), str(first + 1)
    want = "two consecutive addresses, such as 192.168.1.101-192.168.1.102"
    raise ValueError(f"got {pool!r}, want {want}")


def receiver(text: str) -> dict[str, Any]:
    """Return `observability.notify` of an answer; raises ValueError."""
    name, _, value = text.partition("=")
    if name == "none":
        return {}
    try:
        keys = {name: int(value) if name == "telegram" else value or "https://ntfy.sh"}
        Notify.model_validate(keys)
    except (ValidationError, ValueError):
        raise ValueError(f"got {text!r}, want {RECEIVERS}") from None
    return keys
