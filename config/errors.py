"""What is wrong with a stack file, one line for each key: `key: got X, want Y`."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import GroupedMetadata, Predicate
from pydantic import BaseModel, Field, ValidationError

PREFIX = "homelab:"
"""Namespace of this project's keys."""
SECRET = "[secret]"

# Types in YAML's words.
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
WORDS |= {list: "a list", dict: "an object"}

Path = tuple[str | int, ...]
"""Names of keys and numbers of list items that lead to a value."""


class SettingsError(ValueError):
    """A stack file that is refused: one line for each wrong key."""


@dataclass(frozen=True)
class Want(GroupedMetadata):
    """Says in `Annotated` what the values of a type must be, and checks it."""

    text: str
    pattern: str | None = None
    check: Callable[[Any], object] | None = None
    """Gives something false, or raises ValueError, for a value that is wrong."""

    def __iter__(self) -> Iterator[object]:
        if self.pattern:
            yield Field(pattern=self.pattern)
        if self.check:
            yield Predicate(self._holds)

    def _holds(self, value: object) -> bool:
        try:
            return bool(self.check and self.check(value))
        except ValueError:
            return False


class NoValue(Enum):
    """What is wrong with a key that has no value to show."""

    MISSING = "missing, want"
    UNKNOWN = "unknown key,"


class Encrypted:
    """Stands for `{secure: …}`, which only Pulumi decrypts."""

    def __repr__(self) -> str:
        return SECRET


class Problem(NamedTuple):
    """A value that is refused, and what it must be."""

    at: Path
    got: object
    want: str


def lines(problems: Iterable[Problem], hidden: Mapping[str, object]) -> str:
    """Write one line for each wrong key, with no text that is a value in `hidden`."""
    texts = "|".join(re.escape(text) for text in _texts(hidden) if text)
    said: dict[str, str] = {}
    for at, got, want in problems:
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)[1:]
        if isinstance(got, NoValue):
            start = got.value
        else:
            word = "nothing" if got is None else repr(got)[:100]
            word = word.lower() if isinstance(got, bool) else word
            start = f"got {SECRET if at[0] in hidden else word}, want"
            # A model may be written as its name alone.
            key = re.sub(r"\]\.name$", "]", key)
        if texts:
            want = re.sub(rf"(?<!\w)({texts})(?!\w)", SECRET, want)
        line = f"{PREFIX}{key}: {start} {want}"
        said.setdefault(key, "".join(c if c.isprintable() else "?" for c in line))
    return "\n".join(said.values())


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def in_words(kind: type[BaseModel], error: ValidationError) -> Iterator[Problem]:
    """Put into words what pydantic found wrong with a `kind`."""
    for found in error.errors(include_url=False):
        at, got = found["loc"], found["input"]
        if at[-1] == "[key]":
            names = get_args(_bare(reduce(_inner, at[:-2], kind))[0])[0]
            yield Problem(at[:-1], got, _wanted(names))
            continue
        holder = reduce(_inner, at[:-1], kind)
        if found["type"] in ("extra_forbidden", "invalid_key"):
            known = list(_bare(holder)[0].model_fields)
            close = difflib.get_close_matches(str(at[-1]), known, 1)
            advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            yield Problem(at, NoValue.UNKNOWN, advice)
        elif isinstance(got, Encrypted):
            yield Problem(at, got, "a value that is not encrypted: only pulumi itself can read it")
        elif found["type"] == "value_error":
            yield Problem(at, got, str(found["ctx"]["error"]))
        else:
            got = NoValue.MISSING if found["type"] == "missing" else got
            yield Problem(at, got, _wanted(_inner(holder, at[-1])))


def right_part(kind: Any, raw: Any, wrong: Collection[Path], at: Path = ()) -> Any:
    """Give `raw` as a `kind`, unchecked, and without what is `wrong`.

    To use what is left out is an AttributeError, by which a check that needs it is passed over.
    """
    if at in wrong:
        return None
    bare = _bare(kind)[0]
    if isinstance(bare, type) and issubclass(bare, BaseModel) and raw is not None:
        raw = {"name": raw} if isinstance(raw, str) else raw
        part = bare.model_construct()
        for name in bare.model_fields:
            if (*at, name) in wrong:
                part.__dict__.pop(name, None)
            elif name in raw:
                value = right_part(_inner(bare, name), raw[name], wrong, (*at, name))
                part.__dict__[name] = value
        return part
    if isinstance(raw, Mapping):
        return {key: right_part(_inner(bare, key), raw[key], wrong, (*at, key)) for key in raw}
    if isinstance(raw, list):
        return [right_part(_inner(bare, i), one, wrong, (*at, i)) for i, one in enumerate(raw)]
    return raw


def _bare(kind: Any) -> tuple[Any, str]:
    """A type without `| None` and `Annotated`, and what the outermost `Want` says of it."""
    want = ""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind, *more = get_args(kind)
        want = want or next((one.text for one in more[::-1] if isinstance(one, Want)), "")
    return kind, want


def _inner(kind: Any, step: str | int) -> Any:
    """The type of what is at `step` of a `kind`."""
    bare = _bare(kind)[0]
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return get_type_hints(bare, include_extras=True)[str(step)]
    return get_args(bare)[-1]


def _wanted(kind: Any) -> str:
    bare, want = _bare(kind)
    if get_origin(bare) is Literal:
        *most, last = map(str, get_args(bare))
        return f"{', '.join(most)} or {last}"
    if not want and issubclass(get_origin(bare) or bare, BaseModel):
        return f"an object with the keys {', '.join(bare.model_fields)}"
    return want or WORDS[get_origin(bare) or bare]
