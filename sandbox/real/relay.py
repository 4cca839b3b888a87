"""Ways from 127.0.0.1 into a network namespace.

Run as a script: relay.py PID PORT=ADDRESS:PORT…, with the pid of a process in the namespace.
"""

import asyncio
import ctypes
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path


async def relay(pid: str, ways: Sequence[str]) -> None:
    """Listen here, and connect there, until this process is ended."""
    listeners = []
    for way in ways:
        port, _, target = way.partition("=")
        listener = socket.create_server(("127.0.0.1", int(port)))
        listeners.append((listener, target))
    # A socket stays in the namespace that it was made in.
    enter(pid)
    for listener, target in listeners:
        await asyncio.start_server(partial(forward, target), sock=listener)
    await asyncio.Event().wait()


def enter(pid: str) -> None:
    """Make the next sockets in the network namespace of a process; raises OSError."""
    with Path(f"/proc/{pid}/ns/net").open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


async def forward(
    target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b""
) -> None:
    """Carry a connection to `target`, a host and port, where it begins with `first`.

    What `target` answers to `first`, up to an empty line, is kept back.
    """
    host, _, port = target.rpartition(":")
    with suppress(OSError, asyncio.IncompleteReadError):
        back, there = await asyncio.open_connection(host, int(port))
        if first:
            there.write(first)
            await back.readuntil(b"\r\n\r\n")
        await asyncio.gather(_pump(reader, there), _pump(back, writer))
    writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], sys.argv[2:]))
