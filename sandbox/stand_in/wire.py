"""The engine's wire format: structs, secrets, unknown values."""

import base64
import binascii
import re
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value  # type: ignore[import-untyped]

# Source of the marks: sdk/go/common/resource/{properties,sig}.go in pulumi/pulumi.
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"
UNKNOWNS = frozenset(
    {
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    }
)
# A shorter text hides nothing and would black out half of every message.
SHORTEST_SECRET = 4


def read(struct: Struct) -> dict[str, Any]:
    """Turn `struct` into plain data, secrets still sealed, whole floats as integers."""
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return read(value.struct_value)
        case "list_value":
            return [_value(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None


def write(data: dict[str, Any]) -> Struct:
    """Turn `data` into a struct."""
    struct = Struct()
    struct.update(data)
    return struct


def is_secret(value: Any) -> bool:
    """Tell whether `value` is a sealed secret."""
    return isinstance(value, dict) and value.get(SIGNATURE) == SECRET


def seal(value: Any) -> Any:
    """Make `value` a secret."""
    return value if is_secret(value) else {SIGNATURE: SECRET, "value": value}


def plain(value: Any) -> Any:
    """Open every secret in `value`."""
    if is_secret(value):
        return plain(value["value"])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def reseal(value: Any, like: Any) -> Any:
    """Put a seal on `value` wherever `like` has one."""
    if is_secret(like):
        return seal(value)
    if isinstance(value, dict) and isinstance(like, dict):
        return {key: reseal(item, like.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(like, list):
        rest = [None] * (len(value) - len(like))
        return [reseal(item, old) for item, old in zip(value, [*like, *rest], strict=False)]
    return value


def has_unknown(value: Any) -> bool:
    """Tell whether any part of `value` is only known after an update."""
    if isinstance(value, dict):
        return any(has_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(has_unknown(item) for item in value)
    return isinstance(value, str) and value in UNKNOWNS


def hide(message: str, sealed: Any) -> str:
    """Black out any text that is secret in `sealed`, in clear or in base64."""
    texts = {text for text in _secrets(sealed, inside=False) if len(text) >= SHORTEST_SECRET}
    for text in sorted(texts, key=len, reverse=True):
        message = message.replace(text, "[secret]")
    return message


def _secrets(value: Any, *, inside: bool) -> set[str]:
    if is_secret(value):
        return _secrets(value["value"], inside=True)
    if isinstance(value, dict):
        # Of a Secret everything is secret, whether the program said so or not.
        whole = {"data", "stringData"} if value.get("kind") == "Secret" else set()
        return {
            text
            for key, item in value.items()
            for text in _secrets(item, inside=inside or key in whole)
        }
    if isinstance(value, list):
        return {text for item in value for text in _secrets(item, inside=inside)}
    if not inside or not isinstance(value, str):
        return set()
    return {value, base64.b64encode(value.encode()).decode(), *_decoded(value), *value.split("\n")}


def _decoded(text: str) -> set[str]:
    try:
        return {base64.b64decode(text, validate=True).decode()}
    except (binascii.Error, UnicodeDecodeError):
        return set()


def one_line(message: str) -> str:
    """Put `message` on one line."""
    return re.sub(r"\s+", " ", message).strip()
