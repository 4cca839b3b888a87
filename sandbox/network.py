"""A home network of network namespaces, and forwarded ports.

A namespace ends with the process that holds it, so nothing has to be taken down.
"""

import subprocess
from collections.abc import Mapping

ROUTER = "192.168.1.1"
CLIENT = "192.168.1.50"
NODE = "192.168.1.100"
NODES = {"node": (NODE, "10.1.0.0/24"), "second": ("192.168.1.99", "10.1.1.0/24")}
"""Address, and range of its pods, of each node."""
REGISTRY = "203.0.113.10"
"""An address for documentation (RFC 5737); the stack's policies refuse private ones."""
TAILNET, NODE_ON_TAILNET = "100.64.0.2", "100.102.114.95"


def connect(holders: Mapping[str, int]) -> None:
    """Connect the network namespaces of the processes `lan`, `node`, `client` and `tailnet`."""
    lan = holders["lan"]
    _ip(lan, "link set lo up")
    _ip(lan, "link add br0 type bridge")
    _ip(lan, f"address add {ROUTER}/24 dev br0")
    _ip(lan, "link set br0 up")
    _ip(lan, f"address add {REGISTRY}/32 dev lo")
    for name in holders.keys() & {"client", *NODES}:
        join(holders, name)
    tailnet, node = holders["tailnet"], holders["node"]
    _ip(tailnet, f"link add eth0 type veth peer name tailscale0 netns {node}")
    for pid, device, address in (
        (tailnet, "eth0", TAILNET),
        (node, "tailscale0", NODE_ON_TAILNET),
    ):
        _ip(pid, f"address add {address}/10 dev {device}")
        _ip(pid, f"link set {device} up")


def join(holders: Mapping[str, int], name: str) -> None:
    """Connect the network namespace of `client`, or of one of NODES, to that of `lan`."""
    pid, lan = holders[name], holders["lan"]
    _ip(lan, f"link add {name} type veth peer name eth0 netns {pid}")
    _ip(lan, f"link set {name} master br0 up")
    _ip(pid, "link set lo up")
    address, _ = NODES.get(name, (CLIENT, ""))
    _ip(pid, f"address add {address}/24 dev eth0")
    _ip(pid, "link set eth0 up")
    # Without it, the node has no route to the addresses of Services.
    _ip(pid, f"route add default via {ROUTER}")
    if name in NODES:
        for other, pods in (NODES[key] for key in NODES if key != name):
            _ip(pid, f"route add {pods} via {other}")
        forward = ["sysctl", "-qw", "net.ipv4.ip_forward=1"]
        subprocess.run(["nsenter", "-t", str(pid), "-n", *forward], check=True)


def forwarding(pid: int, port: int, target: str) -> list[str]:
    """Return the command that forwards `port` of 127.0.0.1 to `target` in the namespace of `pid`.

    Each connection is a process of its own, which ends with the command.
    """
    alone = ["unshare", "--pid", "--fork", "--kill-child"]
    listener = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,backlog=128"
    # In a new pid namespace, because /proc still has the pids of the old one.
    there = f"nsenter --net=/proc/{pid}/ns/net socat STDIO TCP:{target}"
    return [*alone, "socat", listener, f'EXEC:"{there}"']


def _ip(pid: int, command: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *command.split()], check=True)
