"""Typed sections of a stack file: from a plain mapping to a frozen dataclass, or one clear line."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints


class SettingsError(ValueError):
    """One line that names the key, its value and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One object-valued key of the stack file, or an object inside one."""

    SHORT: ClassVar[str] = ""
    """The key that a plain text in place of the object is short for; empty: there is none."""

    @classmethod
    def parse(cls, key: str, raw: object) -> Self:
        """Build the section from `raw`; raises SettingsError that names the wrong key."""
        if cls.SHORT and isinstance(raw, str):
            raw = {cls.SHORT: raw}
        if not isinstance(raw, Mapping):
            text = "a text or " if cls.SHORT else ""
            wanted = f"must be {text}an object with the keys {_names(cls)}"
            raise SettingsError(f"{key}: {_shown(raw)} {wanted}")
        for name in raw:
            if name not in {field.name for field in fields(cls)}:
                raise SettingsError(f"{_below(key, name)}: unknown key; known are {_names(cls)}")
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in raw:
                values[field.name] = _typed(
                    _below(key, field.name), raw[field.name], hints[field.name]
                )
            elif field.default is MISSING:
                raise SettingsError(f"{_below(key, field.name)}: missing; it must be set")
        return cls(**values)


def _shown(value: object) -> str:
    """A value as a person would know it again; a key with nothing behind it is None to Python."""
    return "is empty and" if value is None else repr(value)


def _names(section: type[Section]) -> str:
    return ", ".join(field.name for field in fields(section))


def _below(key: str, name: object) -> str:
    """The path of `name` inside `key`; the project's own prefix ends in a colon."""
    return f"{key}{name}" if key.endswith(":") else f"{key}.{name}"


def _typed(key: str, value: object, hint: Any) -> Any:
    """Return `value` as the type `hint` says, parsing sections inside lists and mappings."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _typed(key, value, next(arg for arg in inner if arg is not type(None)))
    if hint is object:
        return value  # a rule looks at it
    if isinstance(hint, type) and issubclass(hint, Section):
        return hint.parse(key, value)
    if origin is list and isinstance(value, list):
        return [_typed(f"{key}[{index}]", item, inner[0]) for index, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {
            str(name): _typed(_below(key, name), item, inner[1]) for name, item in value.items()
        }
    # A YAML true is an int to Python, never to the person who wrote it.
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = {list: "a list", dict: "an object"}.get(origin) or {
        str: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }[hint]
    raise SettingsError(f"{key}: {_shown(value)} must be {wanted}")
