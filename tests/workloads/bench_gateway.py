"""Cost of the gateway: a scripted upstream, direct and through it.

Then what it holds at most under each attack of `bench_gateway_attacks.py`.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import gateway
from bench_gateway_attacks import ATTACKS

STAMP = re.compile(rb'"created_at":"(\d+)"')
FINAL = b'{"model":"m","message":{"content":""},"done":true,"total_duration":2,"eval_count":1}\n'
TICK = os.sysconf("SC_CLK_TCK")


def line() -> bytes:
    """Return a token as Ollama's NDJSON, with its time."""
    text = (
        b'{"model":"llama3.2:3b","created_at":"%d","message":{"role":"assistant","content":" to"},'
    )
    return text % time.monotonic_ns() + b'"done":false}\n'


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stream tokens at the pace of the path, `?tokens,per_second`.

    A pace below zero is a pause before the answer, in seconds.
    """
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            start = await reader.readuntil(b"\r\n\r\n")
            target = start.split(b" ")[1].partition(b"?")[2] or b"1,0"
            tokens, pace = (float(part) for part in target.split(b","))
            if length := re.search(rb"(?i)content-length: (\d+)", start):
                await reader.readexactly(int(length[1]))
            await asyncio.sleep(max(0, -pace))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n")
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
            begin = time.monotonic()
            for number in range(int(tokens)):
                if pace > 0 and (rest := begin + number / pace - time.monotonic()) > 0:
                    await asyncio.sleep(rest)
                raw = line()
                writer.write(b"%x\r\n%b\r\n" % (len(raw), raw))
                await writer.drain()
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(FINAL), FINAL))
            await writer.drain()
    writer.close()


async def upstream() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Stream(NamedTuple):
    """A stream as a client received it."""

    first: float
    seconds: float
    delays: list[float]


async def stream_once(port: int, tokens: int, pace: float) -> Stream:
    """Return a stream, read to its end."""
    body = b'{"model":"llama3.2:3b"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begin, first, delays, rest = time.monotonic(), 0.0, list[float](), b""
    start = b"POST /api/chat?%d,%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    writer.write(start % (tokens, pace, len(body)) + body)
    await reader.readuntil(b"\r\n\r\n")
    while size := int(await reader.readline(), 16):
        rest += (await reader.readexactly(size + 2))[:-2]  # a chunk may end anywhere in a line
        now = time.monotonic_ns()
        *lines, rest = rest.split(b"\n")
        stamps = (STAMP.search(it) for it in lines)
        delays += ((now - int(stamp[1])) / 1e6 for stamp in stamps if stamp)
        first = first or time.monotonic() - begin
    writer.close()
    assert len(delays) == tokens, f"{len(delays)} of {tokens} arrived"
    return Stream(first, time.monotonic() - begin, delays)


def used(pid: int) -> tuple[float, float, float]:
    """Return a process's CPU seconds, and its memory now and at most, in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(re.findall(rf"{key}:\s+(\d+)", status)[0]) / 1e3 for key in ("VmRSS", "VmHWM"))
    return (int(fields[11]) + int(fields[12])) / TICK, now, peak


def at(values: list[float], part: float) -> float:
    """Return a percentile."""
    return sorted(values)[int(part * (len(values) - 1))]


@contextmanager
def program(*command: str, **settings: str) -> Iterator[tuple[int, int]]:
    """Yield port and process ID of a program that prints its port."""
    environment = {**os.environ, **settings}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            stamps = (re.search(r"^(?:port )?(\d+)\b", text) for text in process.stdout)
            yield next(int(it[1]) for it in stamps if it), process.pid
        finally:
            process.kill()


class Measured(NamedTuple):
    """The cells of a column."""

    paced: float
    unpaced: float
    first_p50: float
    first_p99: float
    delay_p50: float
    delay_p99: float
    cores: float
    each: float
    memory: float


async def measure(port: int, pid: int, streams: int, seconds: float) -> Measured:
    """Return the results of each load; fails if a token is lost."""
    await asyncio.gather(*(stream_once(port, 5, 0) for _ in range(20)))
    single = await stream_once(port, 400, 200)
    fast = await stream_once(port, 20_000, 0)
    firsts = [(await stream_once(port, 1, 0)).first * 1e3 for _ in range(500)]
    before, begin = used(pid)[0], time.monotonic()
    tokens = int(seconds * 20)

    async def later(number: int) -> Stream:
        await asyncio.sleep(number / streams / 20)  # models do not speak in chorus
        return await stream_once(port, tokens, 20)

    many = await asyncio.gather(*map(later, range(streams)))
    took = time.monotonic() - begin
    delays = [delay for stream in many for delay in stream.delays]
    cpu, _, peak = used(pid)
    return Measured(
        400 / single.seconds,
        20_000 / fast.seconds,
        at(firsts, 0.5),
        at(firsts, 0.99),
        at(delays, 0.5),
        at(delays, 0.99),
        (cpu - before) / took,
        (cpu - before) / len(delays) * 1e6,
        peak,
    )


def show(streams: int, columns: dict[str, Measured]) -> None:
    """Print the table; compare each column with `direct`."""
    many = f"{streams} streams at 20/s"
    rows = {
        "one stream at 200/s, tokens/s": "{0.paced:.1f}",
        "one stream, no pace, tokens/s": "{0.unpaced:.0f}",
        "first token, p50 and p99 of 500, ms": "{0.first_p50:.2f}, {0.first_p99:.2f}",
        f"{many}, delay p50 and p99, ms": "{0.delay_p50:.2f}, {0.delay_p99:.2f}",
        f"{many}, cores": "{0.cores:.2f}",
        f"{many}, CPU for each token, us": "{0.each:.0f}",
        "memory at most, MB": "{0.memory:.0f}",
    }
    heads = [name if name != "direct" else "direct (the upstream's own)" for name in columns]
    print(f"| {'gateway':<46} |" + "".join(f" {head:>27} |" for head in heads))
    print(f"| {'-' * 46} |" + f" {'-' * 27} |" * len(heads))
    for what, form in rows.items():
        cells = (form.format(column) for column in columns.values())
        print(f"| {what:<46} |" + "".join(f" {cell:>27} |" for cell in cells), flush=True)


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", action="store_true", help="be the scripted upstream")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(upstream())
        return

    def measured(port: int, process: int) -> Measured:
        return asyncio.run(measure(port, process, options.streams, options.seconds))

    with program(sys.executable, __file__, "--upstream") as (direct, pid):
        columns = {"direct": measured(direct, pid)}
        settings = {"GATEWAY_LISTEN": "127.0.0.1:0"}
        settings["GATEWAY_UPSTREAM"] = f"http://127.0.0.1:{direct}"
        settings["GATEWAY_OTLP_URL"] = "http://127.0.0.1:1/"  # pushes, in vain
        script = str(Path(gateway.__file__))
        with program(sys.executable, "-u", script, **settings) as (port, process):
            columns["gateway"] = measured(port, process)
        show(options.streams, columns)
        print(f"\n| {'attack':<50} | memory at most, MB | statuses |\n| --- | --- | --- |")
        for name, attack in ATTACKS.items():
            with program(sys.executable, "-u", script, **settings) as (port, process):
                statuses = asyncio.run(attack(port))
                peak = used(process)[2]
            counts = ", ".join(f"{status} x {count}" for status, count in statuses.items())
            print(f"| {name:<50} | {peak:>18.0f} | {counts} |", flush=True)


if __name__ == "__main__":
    main()
