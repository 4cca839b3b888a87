"""A home network of network namespaces: a switch, the node, a client on it, and the tailnet.

A namespace lives as long as the process that holds it, so nothing has to be taken down.
"""

import subprocess
from collections.abc import Mapping

ROUTER = "192.168.1.1"
CLIENT = "192.168.1.50"
NODE = "192.168.1.100"
REGISTRY = "203.0.113.10"
"""For documentation (RFC 5737), so it is nobody's, and no private one, which policies refuse."""
TAILNET, NODE_ON_TAILNET = "100.64.0.2", "100.102.114.95"


def connect(holders: Mapping[str, int]) -> None:
    """Connect the namespaces of these processes: `lan`, `node`, `client` and `tailnet`."""
    for pid in holders.values():
        _ip(pid, "link set lo up")
    lan = holders["lan"]
    _ip(lan, "link add br0 type bridge")
    _ip(lan, f"address add {ROUTER}/24 dev br0")
    _ip(lan, "link set br0 up")
    _ip(lan, f"address add {REGISTRY}/32 dev lo")
    for name, address in {"node": NODE, "client": CLIENT}.items():
        pid = holders[name]
        _ip(lan, f"link add {name} type veth peer name eth0 netns {pid}")
        _ip(lan, f"link set {name} master br0 up")
        _ip(pid, f"address add {address}/24 dev eth0")
        _ip(pid, "link set eth0 up")
        # Without it the node's own connections to addresses of Services have no route either.
        _ip(pid, f"route add default via {ROUTER}")
    tailnet, node = holders["tailnet"], holders["node"]
    _ip(tailnet, f"link add eth0 type veth peer name tailscale0 netns {node}")
    for pid, device, address in (
        (tailnet, "eth0", TAILNET),
        (node, "tailscale0", NODE_ON_TAILNET),
    ):
        _ip(pid, f"address add {address}/10 dev {device}")
        _ip(pid, f"link set {device} up")
    forward = ["sysctl", "-qw", "net.ipv4.ip_forward=1"]
    subprocess.run(["nsenter", "-t", str(node), "-n", *forward], check=True)


def _ip(pid: int, command: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *command.split()], check=True)
