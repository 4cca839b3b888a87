"""`python -m sandbox.stand_in kubernetes|random --kubeconfig FILE ENGINE`: one plugin process."""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from pulumi.runtime.proto.provider_pb2_grpc import add_ResourceProviderServicer_to_server

from sandbox.stand_in.base import UNLIMITED, StandIn

# More than the engine ever has under way: each waiting Deployment holds one thread.
THREADS = 64
# Seconds between two looks at the parent process.
HEARTBEAT = 0.5


def main() -> None:
    """Serve one plugin until the engine that started it is gone."""
    parser = argparse.ArgumentParser(prog="sandbox.stand_in")
    parser.add_argument("plugin", choices=["kubernetes", "random"])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("engine", nargs="?", default="")
    options, _ = parser.parse_known_args()

    server = grpc.server(ThreadPoolExecutor(THREADS), options=UNLIMITED)
    add_ResourceProviderServicer_to_server(_plugin(options), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)

    # An engine killed outright says no goodbye, but it stops being the parent.
    while os.getppid() == options.parent:
        time.sleep(HEARTBEAT)
    os._exit(0)


def _plugin(options: argparse.Namespace) -> StandIn:
    if options.plugin == "random":
        from sandbox.stand_in.random import Random

        return Random(options.engine)
    # Imported only where needed: the Kubernetes client costs half a second.
    from sandbox.stand_in.kubernetes import Kubernetes

    return Kubernetes(options.engine, options.kubeconfig)


if __name__ == "__main__":
    main()
