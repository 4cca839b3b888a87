"""Bodies of requests: read within a memory budget, parsed, filtered and serialized again."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from aiohttp import StreamReader
from gateway_pictures import MOST_PICTURES, is_picture, pictures
from gateway_routes import RefusalError
from gateway_schema import LONG, check

# Possessive, so it never backtracks: the largest body is scanned in 20 ms, in 250 ms if all quotes
# are escaped, and in 5 ms if it has too many tokens, which ends the scan early.
TOKEN = re.compile(
    rb'[^",\[{]{1,300}+|"[^"]*+(?<!\\)"|"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{]', re.DOTALL
)
MOST_TOKENS = 30_000  # a message has a dozen; parsing blocks the event loop, here for 1 ms
LONG_STRING = 300  # longer than a model's name; leaves at most 9 MB to parse, 36 MB decoded
# Bytes not charged, so that chats continue while large requests fill the budgets.
SMALL_BODY, SMALL_TEXT = 2**16, 2**14

# Ollama's `Options` (api/types.go) without `Runner`, whose changes reload the model.
SAMPLING = {
    *("num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n"),
    *("temperature", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop"),
}
RUNNER = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"}
# `keep_alive` pins a model or unloads it; a recursive template fills any memory.
DROPPED = {"keep_alive", "template"}
MOST_REPEATED = 2**16  # tokens; the sampler allocates `repeat_last_n` of them

NAMED = re.compile(rb'"%s(\d+)"' % LONG.encode())

Pieces = Sequence[bytes | memoryview]


class Parsed(NamedTuple):
    """A parsed request."""

    value: dict[str, Any]
    dropped: list[str]
    """Labels of the dropped keys: Ollama's own names, `case` and `other`."""
    pieces: Pieces
    """The body for Ollama."""


class Budget:
    """Bytes of all requests in memory, and their limit."""

    def __init__(self, name: str, limit: int, free: int) -> None:
        self.name, self.limit, self.free, self.held = name, limit, free, 0


class Charge:
    """The bytes of one request that are charged to a budget, beyond the budget's `free`."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.charged = budget, 0

    def set(self, size: int) -> None:
        """Charge `size` bytes instead of those before; raises RefusalError beyond the limit."""
        more = max(0, size - self.budget.free) - self.charged
        if more > 0 and self.budget.held + more > self.budget.limit:
            raise RefusalError(503, "busy: too many large requests", self.budget.name)
        self.budget.held += more
        self.charged += more


class Body:
    """The body of a request: charged until Ollama has it, its text until Ollama answers."""

    def __init__(self, bodies: Budget, texts: Budget, text_bytes: int) -> None:
        self.memory, self.text, self.text_bytes = Charge(bodies), Charge(texts), text_bytes
        self.raw = bytearray()

    def release(self) -> None:
        """Charge nothing more."""
        self.memory.set(0)
        self.text.set(0)

    async def read(self, content: StreamReader, limit: int) -> None:
        """Read the body; raises RefusalError beyond `limit` bytes."""
        while piece := await content.readany():
            size = len(self.raw) + len(piece)
            if size > limit:
                raise RefusalError(413, f"larger than {limit} bytes", "body")
            self.memory.set(size)
            self.raw += piece

    def parse(self) -> Parsed:
        """Parse and filter a JSON object; raises RefusalError if it is invalid or too complex."""
        outline, strings = without_long_strings(self.raw)
        try:
            value = json.loads(outline.decode(errors="replace"))  # as Go decodes invalid UTF-8
            if not isinstance(value, dict):
                raise RefusalError(400, "not a JSON object", "json")
            check(value)
            self.limit_content(value, strings)
            dropped = drop(value)
            text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:
            raise RefusalError(400, "not a JSON object", "json") from error
        except RecursionError as error:
            raise RefusalError(413, "JSON too deep", "tokens") from error
        self.memory.set(len(self.raw) + len(text))
        parts = NAMED.split(text)
        pieces = [strings[int(part)] if n % 2 else part for n, part in enumerate(parts)]
        return Parsed(value, dropped, pieces)

    def limit_content(self, value: dict[str, Any], strings: Sequence[memoryview]) -> None:
        """Charge the text; raises RefusalError for too much of it, or too large pictures."""
        text, count = len(self.raw), 0
        for name in pictures(value):
            written = (
                strings[int(name.removeprefix(LONG))]
                if name.startswith(LONG)
                else memoryview(json.dumps(name).encode())
            )
            if is_picture(written[1:-1]):
                text, count = text - len(written), count + 1
        if count > MOST_PICTURES:
            raise RefusalError(413, f"more than {MOST_PICTURES} pictures", "pictures")
        if text > self.text_bytes:
            raise RefusalError(413, f"more than {self.text_bytes} bytes of text", "text")
        self.text.set(text)

    async def sent(self, pieces: Pieces) -> AsyncIterator[bytes | memoryview]:
        """Yield the pieces, and release the body after the last one."""
        for piece in pieces:
            yield piece
        self.raw = bytearray()
        self.memory.set(0)


def without_long_strings(body: bytes | bytearray) -> tuple[bytes, list[memoryview]]:
    """Return JSON with placeholders for its long strings, and these strings as they are written.

    Raises RefusalError if it has too many tokens.
    """
    view, strings, short = memoryview(body), list[memoryview](), list[bytes]()
    for token in islice(TOKEN.finditer(body), MOST_TOKENS + 1):
        if token.end() - token.start() > LONG_STRING:
            short.append(b'"%s%d"' % (LONG.encode(), len(strings)))
            strings.append(view[token.start() : token.end()])
        else:
            short.append(token[0])
    if len(short) > MOST_TOKENS:
        raise RefusalError(413, f"more than {MOST_TOKENS} JSON tokens", "tokens")
    return b"".join(short), strings


def drop(request: dict[str, Any]) -> list[str]:
    """Drop the keys that would reload a model or exceed the plan, and return their labels."""
    dropped = []
    for key in list(request):
        # Go matches keys in any case with Ollama's names, which are in lower case.
        if key in DROPPED or key != key.casefold():
            dropped.append(key if key in DROPPED else "case")
            del request[key]
    options = request.get("options")
    if not isinstance(options, dict):
        return dropped
    for key, value in list(options.items()):
        is_huge = isinstance(value, int | float) and value > MOST_REPEATED
        if key not in SAMPLING or (key == "repeat_last_n" and is_huge):
            dropped.append(key if key in SAMPLING | RUNNER else "other")
            del options[key]
    return dropped
