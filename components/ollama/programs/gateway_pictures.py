"""Sizes of pictures in requests: a file of 1 MB may fill a gigabyte once Ollama decodes it."""

import binascii
import json
from collections.abc import Iterator
from typing import Any

from gateway_routes import RefusalError

# Never decoded: values of any form, in which a tool may have a key `images`.
OTHER = {"tools", "tool_calls", "arguments", "format", "options"}
BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")
# Of each picture the model's process keeps 10 MB (gemma3: 3 * 896 * 896 float32).
MOST_PICTURES = 32
MOST_PIXELS = 25_000_000  # 8 bytes each at most, and as many again while it is scaled
# Photographs may have megabytes of metadata before their size.
HEADS = (2**16, 2**24)
MOST_SEGMENTS = 2000  # before the size; a photograph has some hundred


def pictures(value: Any, key: str = "") -> Iterator[str]:
    """Yield the strings that Ollama may decode as pictures; raises RefusalError for numbers."""
    if isinstance(value, list):
        for part in value:
            yield from pictures(part, key)
    elif isinstance(value, dict):
        for name, part in value.items():
            # Go matches a key in any case.
            if (name := name.casefold()) not in OTHER:
                yield from pictures(part, name)
    elif key == "images" and isinstance(value, str):
        yield value
    elif key == "images" and isinstance(value, int | float):  # Go takes a list of them for bytes
        raise _unknown()


def is_picture(written: memoryview) -> bool:
    """Check a JSON string, without its quotes; raises RefusalError if it is too large a picture.

    Returns False if Ollama would not decode it.
    """
    for length in HEADS:
        head = bytes(written[:length])
        data = _unescape(head, is_cut=len(written) > length)
        if not BASE64.issuperset(data[:200]):
            return False
        data = data.replace("\n", "").replace("\r", "")
        try:
            raw = binascii.a2b_base64(data[: len(data) // 4 * 4])
        except ValueError:
            return False
        if size := _size(raw):
            break
    else:
        raise _unknown()
    if size[0] * size[1] > MOST_PIXELS:
        raise RefusalError(413, f"pictures: more than {MOST_PIXELS} pixels", "pictures")
    return True


def _unknown() -> RefusalError:
    return RefusalError(400, "pictures: must be PNG, JPEG or WebP, in base64", "pictures")


def _unescape(written: bytes, is_cut: bool) -> str:
    """Return the text of a JSON string; of one that is cut off, without a last escape."""
    if b"\\" not in written:
        return written.decode(errors="replace")
    end = written.rfind(b"\\", len(written) - 6) if is_cut else -1
    return str(json.loads(b'"%s"' % written[: end if end >= 0 else len(written)]))


def _size(raw: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels; None if unknown."""
    if raw.startswith(b"\x89PNG\r\n\x1a\n") and raw[12:16] == b"IHDR":
        return _number(raw, 16, 4), _number(raw, 20, 4)
    if raw.startswith(b"\xff\xd8"):
        return _jpeg(raw)
    if raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
        return _webp(raw)
    return None


def _jpeg(raw: bytes) -> tuple[int, int] | None:
    """Return the size in the first frame header, found as by Go's `image/jpeg`."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        at = raw.find(b"\xff", at)
        if at < 0 or at + 9 > len(raw):
            break
        marker = raw[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker == 0 or 0xD0 <= marker <= 0xD7:  # no segment
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _number(raw, at + 7, 2), _number(raw, at + 5, 2)
        else:
            at += 2 + _number(raw, at + 2, 2)
    return None


def _webp(raw: bytes) -> tuple[int, int] | None:
    """Return the largest of the sizes up to the picture's own, because one is for transparency."""
    at, width, height = 12, 0, 0
    for _ in range(MOST_SEGMENTS):
        if at + 18 > len(raw):
            break
        kind, start = raw[at : at + 4], at + 8
        if kind == b"VP8X":
            width = 1 + int.from_bytes(raw[start + 4 : start + 7], "little")
            height = 1 + int.from_bytes(raw[start + 7 : start + 10], "little")
        elif kind == b"VP8 ":
            sides = (int.from_bytes(raw[start + n : start + n + 2], "little") for n in (6, 8))
            own_width, own_height = (side & 0x3FFF for side in sides)
            return max(width, own_width), max(height, own_height)
        elif kind == b"VP8L":
            bits = int.from_bytes(raw[start + 1 : start + 5], "little")
            return max(width, 1 + (bits & 0x3FFF)), max(height, 1 + (bits >> 14 & 0x3FFF))
        length = int.from_bytes(raw[at + 4 : start], "little")
        at = start + length + length % 2
    return None


def _number(raw: bytes, start: int, length: int) -> int:
    return int.from_bytes(raw[start : start + length])
