"""Bodies of requests: read within a budget, and written anew as Ollama gets them."""

import json
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from aiohttp import StreamReader
from gateway_rules import RefusalError
from gateway_schema import check

# Matches wherever it begins and never turns back: the largest body is scanned in 20 ms, in 250 if
# it is all escaped quotes, and in 5 if it has too many tokens, for then the scan ends early.
TOKEN = re.compile(
    rb'[^",\[{]{1,300}+|"[^"]*+(?<!\\)"|"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{]', re.DOTALL
)
MOST_TOKENS = 30_000  # a message is a dozen; all others wait while these are parsed, 1 ms
LONG_STRING = 300  # no name of a model; so 9 MB at most are left to parse, 36 MB once decoded
SMALL_BODY = 2**16  # free of the budget, so that chats go on while others fill it

# Ollama's `Options` (api/types.go) without its `Runner`, a change of which loads the model anew.
SAMPLING = {
    *("num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n"),
    *("temperature", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop"),
}
RUNNER = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"}
# A template that calls itself fills any memory; no client of ours writes one.
PLANNED = {"keep_alive", "template"}
MOST_REPEATED = 2**16  # tokens; the sampler allocates as many as `repeat_last_n` says

# Stands for the long string of that number; nobody outside knows it, so nobody can write it.
NAME = secrets.token_hex(16)
NAMED = re.compile(rb'"%s(\d+)"' % NAME.encode())

Pieces = Sequence[bytes | memoryview]


class Asked(NamedTuple):
    """A request as it was read."""

    value: dict[str, Any]
    dropped: list[str]
    """What was left out, as it may be counted: Ollama's own names, `case` and `other`."""
    pieces: Pieces
    """The body to send."""


class Budget:
    """Bytes that the bodies under way hold together, and may hold."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0


class Body:
    """The body of one request, which is charged to the budget until `charge(0)`."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.charged, self.raw = budget, 0, bytearray()

    def charge(self, size: int) -> None:
        """Hold `size` bytes from now on; raises RefusalError when all bodies would be too many."""
        more = max(0, size - SMALL_BODY) - self.charged
        if more > 0 and self.budget.held + more > self.budget.limit:
            raise RefusalError(503, "busy: too many large requests", "bodies")
        self.budget.held += more
        self.charged += more

    async def read(self, content: StreamReader, limit: int) -> None:
        """Read all of it; raises RefusalError beyond `limit` bytes."""
        while piece := await content.readany():
            size = len(self.raw) + len(piece)
            if size > limit:
                raise RefusalError(413, f"larger than {limit} bytes", "body")
            self.charge(size)
            self.raw += piece

    def parse(self) -> Asked:
        """Read it as JSON; raises RefusalError if it is no object, or wider or deeper than any."""
        outline, strings = outlined(self.raw)
        try:
            value = json.loads(outline.decode(errors="replace"))  # as Go reads what is no UTF-8
            if not isinstance(value, dict):
                raise RefusalError(400, "not a JSON object", "json")
            check(value)
            dropped = drop(value)
            text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:
            raise RefusalError(400, "not a JSON object", "json") from error
        except RecursionError as error:
            raise RefusalError(413, "JSON too deep", "tokens") from error
        self.charge(len(self.raw) + len(text))
        parts = NAMED.split(text)
        pieces = [strings[int(part)] if n % 2 else part for n, part in enumerate(parts)]
        return Asked(value, dropped, pieces)

    async def sent(self, pieces: Pieces) -> AsyncIterator[bytes | memoryview]:
        """Yield the pieces; when the last one is sent, nothing is held any more."""
        for piece in pieces:
            yield piece
        self.raw = bytearray()
        self.charge(0)


def outlined(body: bytes | bytearray) -> tuple[bytes, list[memoryview]]:
    """Return JSON with its long strings replaced by names, and these strings as they stand there.

    Raises RefusalError when it has too many tokens to read.
    """
    view, strings, short = memoryview(body), list[memoryview](), list[bytes]()
    for one in islice(TOKEN.finditer(body), MOST_TOKENS + 1):
        if one.end() - one.start() > LONG_STRING:
            short.append(b'"%s%d"' % (NAME.encode(), len(strings)))
            strings.append(view[one.start() : one.end()])
        else:
            short.append(one[0])
    if len(short) > MOST_TOKENS:
        raise RefusalError(413, f"more than {MOST_TOKENS} JSON tokens", "tokens")
    return b"".join(short), strings


def drop(asked: dict[str, Any]) -> list[str]:
    """Take out of a request all by which Ollama would leave the plan, and return the names."""
    dropped = []
    for key in list(asked):
        # Ollama's names are in lower case, and Go takes a key in any case for one of them.
        if key in PLANNED or key != key.casefold():
            dropped.append(key if key in PLANNED else "case")
            del asked[key]
    options = asked.get("options")
    if not isinstance(options, dict):
        return dropped
    for key, value in list(options.items()):
        huge = isinstance(value, int | float) and value > MOST_REPEATED
        if key not in SAMPLING or (key == "repeat_last_n" and huge):
            dropped.append(key if key in SAMPLING | RUNNER else "other")
            del options[key]
    return dropped
