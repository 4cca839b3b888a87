"""What the gateway costs: the same scripted upstream, direct and through it, in one run."""

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

STAMP = re.compile(rb'"created_at":"(\d+)"')
FINAL = b'{"model":"m","message":{"content":""},"done":true,"total_duration":2,"eval_count":1}\n'
TICK = os.sysconf("SC_CLK_TCK")


def line() -> bytes:
    """Write a token as Ollama does, with the moment it was written."""
    text = (
        b'{"model":"llama3.2:3b","created_at":"%d","message":{"role":"assistant","content":" to"},'
    )
    return text % time.monotonic_ns() + b'"done":false}\n'


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stream as many tokens at such a pace as the path says: `?tokens,per_second`."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            start = await reader.readuntil(b"\r\n\r\n")
            target = start.split(b" ")[1].partition(b"?")[2] or b"1,0"
            tokens, pace = (float(part) for part in target.split(b","))
            if length := re.search(rb"(?i)content-length: (\d+)", start):
                await reader.readexactly(int(length[1]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n")
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
            begin = time.monotonic()
            for number in range(int(tokens)):
                if pace and (rest := begin + number / pace - time.monotonic()) > 0:
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
    """What a client saw."""

    first: float
    seconds: float
    delays: list[float]


async def one(port: int, tokens: int, pace: float) -> Stream:
    """Ask for one answer and read it to the end."""
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
        found = (STAMP.search(one) for one in lines)
        delays += ((now - int(stamp[1])) / 1e6 for stamp in found if stamp)
        first = first or time.monotonic() - begin
    writer.close()
    assert len(delays) == tokens, f"{len(delays)} of {tokens} arrived"
    return Stream(first, time.monotonic() - begin, delays)


def used(pid: int) -> tuple[float, float, float]:
    """Read CPU seconds, memory now and at most in MB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(re.findall(rf"{key}:\s+(\d+)", status)[0]) / 1e3 for key in ("VmRSS", "VmHWM"))
    return (int(fields[11]) + int(fields[12])) / TICK, now, peak


def at(values: list[float], part: float) -> float:
    """Give a percentile."""
    return sorted(values)[int(part * (len(values) - 1))]


@contextmanager
def program(*command: str, **settings: str) -> Iterator[tuple[int, int]]:
    """Run a program that prints its port, and give that and its process."""
    environment = {**os.environ, **settings}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = (re.search(r"^(?:port )?(\d+)\b", text) for text in process.stdout)
            yield next(int(one[1]) for one in found if one), process.pid
        finally:
            process.kill()


async def measure(name: str, port: int, pid: int, streams: int, seconds: float) -> None:
    """Print one row for each kind of load."""
    await asyncio.gather(*(one(port, 5, 0) for _ in range(20)))
    single = await one(port, 400, 200)
    fast = await one(port, 20_000, 0)
    firsts = [(await one(port, 1, 0)).first * 1e3 for _ in range(500)]
    print(f"{name:8} one stream at 200/s: {400 / single.seconds:7.2f} tokens/s")
    print(f"{name:8} one stream, no pace: {20_000 / fast.seconds:7.0f} tokens/s")
    print(f"{name:8} first token: p50 {at(firsts, 0.5):.2f} ms, p99 {at(firsts, 0.99):.2f} ms")
    before, begin = used(pid)[0], time.monotonic()
    tokens = int(seconds * 20)

    async def later(number: int) -> Stream:
        await asyncio.sleep(number / streams / 20)  # models do not speak in chorus
        return await one(port, tokens, 20)

    many = await asyncio.gather(*map(later, range(streams)))
    took = time.monotonic() - begin
    delays = [delay for stream in many for delay in stream.delays]
    cpu, now, peak = used(pid)
    print(
        f"{name:8} {streams} streams at 20/s: delay p50 {at(delays, 0.5):.2f} ms, "
        f"p99 {at(delays, 0.99):.2f} ms, {len(delays)} tokens; process: "
        f"{(cpu - before) / took:.2f} cores, {(cpu - before) / len(delays) * 1e6:.0f} us a token, "
        f"{now:.0f} MB, at most {peak:.0f} MB"
    )


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", action="store_true", help="be the scripted upstream")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(upstream())
        return
    with program(sys.executable, __file__, "--upstream") as (direct, pid):
        settings = {"GATEWAY_LISTEN": "127.0.0.1:0"}
        settings["GATEWAY_UPSTREAM"] = f"http://127.0.0.1:{direct}"
        settings["GATEWAY_OTLP_URL"] = "http://127.0.0.1:1/"  # pushes, in vain
        script = str(Path(gateway.__file__))
        asyncio.run(measure("direct", direct, pid, options.streams, options.seconds))
        with program(sys.executable, "-u", script, **settings) as (port, process):
            asyncio.run(measure("gateway", port, process, options.streams, options.seconds))


if __name__ == "__main__":
    main()
