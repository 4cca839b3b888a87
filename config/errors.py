"""Errors of a stack file, one line for each key: `key: got X, want Y`."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, reduce
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import GroupedMetadata, Predicate
from pydantic import BaseModel, Field, ValidationError

PREFIX = "homelab:"
"""Namespace of this project's keys."""
SECRET = "[secret]"

TYPE_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
TYPE_NAMES |= {list: "a list", dict: "an object"}

KeyPath = tuple[str | int, ...]
"""Keys and list indices that lead to a value."""


class SettingsError(ValueError):
    """An invalid stack file: one line for each invalid key."""


@dataclass(frozen=True)
class Want(GroupedMetadata):
    """Metadata for `Annotated`: a validator, and the text of its errors after `want`."""

    text: str
    pattern: str | None = None
    check: Callable[[Any], object] | None = None
    """Returns a false value, or raises ValueError, for an invalid value."""

    def __iter__(self) -> Iterator[object]:
        if self.pattern:
            yield Field(pattern=self.pattern)
        if self.check:
            yield Predicate(self._is_valid)

    def _is_valid(self, value: object) -> bool:
        try:
            return bool(self.check and self.check(value))
        except ValueError:
            return False


class NoValue(Enum):
    """Errors of a key that has no value to show, as they begin."""

    MISSING = "missing, want"
    UNKNOWN = "unknown key,"
    CLEAR = "got a value in clear, want"


class Encrypted:
    """Placeholder of a `{secure: …}`, which only Pulumi decrypts."""

    def __repr__(self) -> str:
        return SECRET


class Problem(NamedTuple):
    """An invalid value, and the value wanted instead."""

    path: KeyPath
    got: object
    want: str


def format_problems(problems: Iterable[Problem], hidden: Mapping[str, object]) -> str:
    """Return one line for each invalid key, without any string that is a value in `hidden`."""
    strings = "|".join(re.escape(string) for string in _strings(hidden) if string)
    lines: dict[str, str] = {}
    for path, got, want in problems:
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]
        if isinstance(got, NoValue):
            start = got.value
        else:
            value = "nothing" if got is None else repr(got)[:100]
            value = value.lower() if isinstance(got, bool) else value
            start = f"got {SECRET if path[0] in hidden else value}, want"
            # A model may be written as its name alone.
            key = re.sub(r"\]\.name$", "]", key)
        if strings:
            want = re.sub(rf"(?<!\w)({strings})(?!\w)", SECRET, want)
        line = f"{PREFIX}{key}: {start} {want}"
        lines.setdefault(key, "".join(c if c.isprintable() else "?" for c in line))
    return "\n".join(lines.values())


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def validation_problems(model: type[BaseModel], error: ValidationError) -> Iterator[Problem]:
    """Yield a Problem for each of pydantic's errors in an object of type `model`."""
    for details in error.errors(include_url=False):
        path, got = details["loc"], details["input"]
        if path[-1] == "[key]":
            names = get_args(_unwrap(reduce(_type_at, path[:-2], model))[0])[0]
            yield Problem(path[:-1], got, wanted(names))
            continue
        parent = reduce(_type_at, path[:-1], model)
        if details["type"] in ("extra_forbidden", "invalid_key"):
            known = list(_unwrap(parent)[0].model_fields)
            close = difflib.get_close_matches(str(path[-1]), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
            yield Problem(path, NoValue.UNKNOWN, hint)
        elif isinstance(got, Encrypted):
            yield Problem(path, got, "a value that is not encrypted: only Pulumi can decrypt it")
        elif details["type"] == "value_error":
            yield Problem(path, got, str(details["ctx"]["error"]))
        else:
            got = NoValue.MISSING if details["type"] == "missing" else got
            yield Problem(path, got, wanted(_type_at(parent, path[-1])))


def without_invalid(type_: Any, raw: Any, invalid: Collection[KeyPath], path: KeyPath = ()) -> Any:
    """Return `raw` as a `type_`, unvalidated, without the values at the paths `invalid`.

    Reading a value that was left out raises AttributeError, so that a check that needs it is
    skipped.
    """
    if path in invalid:
        return None
    bare = _unwrap(type_)[0]
    if isinstance(bare, type) and issubclass(bare, BaseModel) and raw is not None:
        raw = {"name": raw} if isinstance(raw, str) else raw
        section = bare.model_construct()
        for name in bare.model_fields:
            if (*path, name) in invalid:
                section.__dict__.pop(name, None)
            elif name in raw:
                value = without_invalid(_type_at(bare, name), raw[name], invalid, (*path, name))
                section.__dict__[name] = value
        return section
    if isinstance(raw, Mapping | list):
        steps = raw if isinstance(raw, Mapping) else range(len(raw))
        items = {
            step: without_invalid(_type_at(bare, step), raw[step], invalid, (*path, step))
            for step in steps
        }
        return items if isinstance(raw, Mapping) else [*items.values()]
    return raw


def _unwrap(type_: Any) -> tuple[Any, str]:
    """Return the type without `| None` and `Annotated`, and the text of the outermost `Want`."""
    want = ""
    while get_origin(type_) in (Annotated, Union, UnionType):
        type_, *metadata = get_args(type_)
        want = want or next((item.text for item in metadata[::-1] if isinstance(item, Want)), "")
    return type_, want


@cache
def _field_types(model: type[BaseModel]) -> dict[str, Any]:
    return get_type_hints(model, include_extras=True)


def _type_at(type_: Any, step: str | int) -> Any:
    """Return the type of the field, value or item at `step`."""
    bare = _unwrap(type_)[0]
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return _field_types(bare)[str(step)]
    return get_args(bare)[-1]


def wanted(type_: Any) -> str:
    """Return the text after `want` in the error of an invalid value of this type."""
    bare, want = _unwrap(type_)
    if get_origin(bare) is Literal:
        *most, last = map(str, get_args(bare))
        return f"{', '.join(most)} or {last}"
    if not want and issubclass(get_origin(bare) or bare, BaseModel):
        return f"an object with the keys {', '.join(bare.model_fields)}"
    return want or TYPE_NAMES[get_origin(bare) or bare]
