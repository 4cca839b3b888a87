"""Peak memory of the gateway under attack, in MB; its pod has 512 MiB."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

MB = 1_000_000
HEAD = b"POST /api/chat?%s HTTP/1.1\r\nHost: a\r\n"
EMOJI = "😀".encode()
PICTURE = b'{"images":["iVBORw0KGgoAAAANSUhEUgAAAAkAAAAJ'  # 9 x 9 pixels, so it is passed on
AHEAD = b"GET /api/tags HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 4000 + b"\r\n") * 30 + b"\r\n"


def chat(value: bytes, size: int = 0, asked: bytes = b"1,0", missing: int = 0) -> bytes:
    """Return a request of `size` bytes with this JSON value, without its last `missing` bytes.

    `asked` is what the bench's Ollama answers: tokens and their pace, below zero a pause before.
    """
    start, end = b'{"model":"llama3.2:3b","x":', b"}"
    begin, _, fill = value.partition(b"|")
    closing = {b"[": b"0]", b'"': b'"', b"{": b'"]}'}[begin[:1]]
    value = begin + fill * ((size - len(begin)) // len(fill)) + closing if fill else value
    body = start + value + end
    head = HEAD % asked + b"Content-Length: %d\r\n\r\n" % len(body)
    return head + body[: len(body) - missing]


async def ask(port: int, raw: bytes, hold: float = 0) -> str:
    """Send bytes, and return the status after `hold` seconds without reading further."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return "reset"
    try:
        async with asyncio.timeout(20):
            with suppress(ConnectionError):  # refused before all was sent
                for start in range(0, len(raw), MB):
                    writer.write(raw[start : start + MB])
                    await writer.drain()
            status = (await reader.read(12))[9:].decode() or "closed"
        await asyncio.sleep(hold)
    except TimeoutError:
        return "silent"
    except OSError:
        return "reset"
    finally:
        writer.transport.abort()
    return status


async def many(port: int, clients: int, raw: bytes, hold: float = 0) -> Counter[str]:
    """Send from many clients at once, and return the number of each status."""
    return Counter(await asyncio.gather(*(ask(port, raw, hold) for _ in range(clients))))


async def over_and_over(port: int, clients: int, raw: bytes, times: int) -> Counter[str]:
    """Let each client ask so often."""
    return sum([await many(port, clients, raw) for _ in range(times)], Counter())


Attack = Callable[[int], Coroutine[Any, Any, Counter[str]]]
ATTACKS: dict[str, Attack] = {
    "a body of 67 MB of empty lists": lambda port: many(port, 1, chat(b"[|[],", 67 * MB)),
    "a body of 67 MB, a picture": lambda port: many(port, 1, chat(PICTURE + b"|aBcD", 67 * MB)),
    "a body of 67 MB, a text with an emoji": lambda port: many(
        port, 1, chat(b'"' + EMOJI + b"|aBcD", 67 * MB)
    ),
    "10 bodies of 60 MB, Ollama waits": lambda port: many(
        port, 10, chat(PICTURE + b"|aBcD", 60 * MB, b"1,-5")
    ),
    "20 bodies of 4 MB in short strings of emoji": lambda port: many(
        port, 20, chat(b'[|"' + EMOJI * 70 + b'",', 4 * MB)
    ),
    "12 bodies of 67 MB, the last one not sent": lambda port: many(
        port, 12, chat(PICTURE + b"|aBcD", 67 * MB, missing=MB)
    ),
    "10 bodies of 60 MB of pictures without a size": lambda port: many(
        port, 10, chat(b'{"images":["/9j/|/wD/', 60 * MB)
    ),
    "300 bodies of 64 kB, the last byte not sent": lambda port: many(
        port, 300, chat(b'"|aBcD', 65_000, missing=1)
    ),
    "300 heads of 120 kB, not ended": lambda port: many(port, 300, AHEAD[:-2]),
    "300 heads of 2 MB": lambda port: many(port, 300, AHEAD[:-2] * 16),
    "2000 connections that say nothing": lambda port: many(port, 2000, b""),
    "256 answers of 10 MB, not taken": lambda port: many(
        port, 256, chat(b"[0]", asked=b"65000,0"), hold=15
    ),
    "256 of these, 3 heads of 120 kB behind each": lambda port: many(
        port, 256, chat(b"[0]", asked=b"65000,0") + AHEAD * 3, hold=15
    ),
    "256 answers that wait at Ollama": lambda port: many(
        port, 256, chat(b'"|aBcD', 30_000, b"1,-10")
    ),
    "20 clients, 2 MB of empty lists, 10 times each": lambda port: over_and_over(
        port, 20, chat(b"[|[],", 2 * MB), 10
    ),
    "40 clients, a path that is not there, 50 times": lambda port: over_and_over(
        port, 40, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 50
    ),
}


async def at_once(port: int) -> Counter[str]:
    """Fill the budget of bodies, and the other connections with unread responses."""
    bodies = (name for name in ATTACKS if "bodies" in name and "MB" in name)
    filling = [asyncio.create_task(ATTACKS[name](port)) for name in bodies]
    await asyncio.sleep(2)
    asked = chat(b"[0]", asked=b"65000,0") + AHEAD * 3
    return sum(await asyncio.gather(many(port, 256, asked, hold=15), *filling), Counter())


ATTACKS["all of the largest at once"] = at_once
