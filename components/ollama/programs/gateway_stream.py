"""Parser of Ollama's responses while they stream."""

import json
import re
import time
from contextlib import suppress
from typing import Any, ClassVar


def has_output(event: dict[str, Any]) -> bool:
    """Return whether the event has text, thinking or a tool call."""
    parts = (event, event.get("message"))
    keys = ("content", "response", "thinking", "tool_calls")
    values = (part.get(key) for part in parts if isinstance(part, dict) for key in keys)
    return any(isinstance(text, str | list) and text for text in values)


class StreamParser:
    """Finds the first token, errors and counts in a response, fed in chunks.

    Of a line of more than `limit` bytes only the last `TAIL` are kept, which have Ollama's counts.
    """

    # JSON escapes quotes in strings, so a match is a key, or a whole string.
    MARKS: ClassVar = (b'"error"', b'"done":true', b'_duration"')
    COUNT = re.compile(rb'"(\w+_(?:count|duration))":(\d{1,19})\b')
    TAIL = 4096

    def __init__(self, limit: int) -> None:
        self.limit, self.part, self.long = limit, bytearray(), False
        self.first: float | None = None
        self.output_lines = 0
        """Lines with output; Ollama writes one for each token."""
        self.error = False
        self.final: dict[str, Any] = {}

    def feed(self, chunk: bytes) -> None:
        """Parse the next chunk, which may end anywhere in a line."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self.append(line)
            self.end()
        self.append(rest)

    def append(self, piece: bytes) -> None:
        """Add to the current line, and drop the beginning of a long one."""
        self.part += piece
        if len(self.part) > self.limit:
            self.long = True
            del self.part[: -self.TAIL]

    def end(self) -> None:
        """Parse the current line, which may lack its line feed."""
        line = bytes(self.part).strip()
        long, self.long = self.long, False
        self.part.clear()
        marked = any(mark in line for mark in self.MARKS)
        if long:
            self.first = self.first or time.monotonic()
            for key, count in self.COUNT.findall(line):
                self.final[key.decode()] = number(int(count))
        # After the first token only lines with a mark are parsed, to save CPU.
        elif self.first is None or marked:
            with suppress(ValueError, TypeError, AttributeError, LookupError, RecursionError):
                self.handle_event(json.loads(line))
        if self.first is not None and line.startswith(b"{") and not marked:
            self.output_lines += 1

    def handle_event(self, event: Any) -> None:
        """Record an event's error, output and counts."""
        self.error = self.error or bool(event.get("error"))
        if self.first is None and has_output(event):
            self.first = time.monotonic()
        if event.get("done") is True or "total_duration" in event:
            keys = {key for key in event if key.endswith(("_duration", "_count"))}
            self.final = {key: number(event[key]) for key in keys}
            self.final["done_reason"] = event.get("done_reason")


def number(value: object) -> int:
    """Return a count or a duration: 0 if Ollama omits it, and at most 2**53, for exact sums."""
    return min(max(0, value), 2**53) if type(value) is int else 0
