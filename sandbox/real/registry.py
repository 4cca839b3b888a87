"""The model registry on the home network's internet: tiny models under every name.

Run as a module: python -m sandbox.real.registry PID FOLDER, with the pid of a process in the
network namespace; FOLDER gets the certificate of its authority, registry.pem.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path

from sandbox.model_registry import HOST, model_registry
from sandbox.real.network import REGISTRY, enter, forward


async def serve(proxy: str) -> None:
    """Lead each connection to the `proxy`, a host and port, as one that asked it for the host."""
    ask = f"CONNECT {HOST}:443 HTTP/1.1\r\n\r\n".encode()
    await asyncio.start_server(partial(forward, proxy, first=ask), REGISTRY, 443)
    await asyncio.Event().wait()


if __name__ == "__main__":
    enter(sys.argv[1])
    with model_registry(Path(sys.argv[2])) as environment:
        asyncio.run(serve(environment["HTTPS_PROXY"].removeprefix("http://")))
