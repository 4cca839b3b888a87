"""Network policies, by kube-network-policies."""

from pathlib import Path

from sandbox.real.node import Node

PODS = "10.1.0.0/16"
QUEUE = "100"
"""What `network-policies` listens to."""


def enforce(node: Node, program: Path, kubeconfig: Path) -> None:
    """Put each new connection of a pod to `network-policies`; where it is not, none gets through.

    The program's own rules are for nftables' `queue`, which not every kernel has.
    """
    for rule in (
        "-N POLICIES",
        "-A POLICIES -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
        f"-A POLICIES -s {PODS} -j NFQUEUE --queue-num {QUEUE}",
        f"-A POLICIES -d {PODS} -j NFQUEUE --queue-num {QUEUE}",
        # A kubelet's probes are never refused.
        "-A POSTROUTING -m owner --uid-owner 0 -j ACCEPT",
        "-A POSTROUTING -j POLICIES",
        # What a pod sends to the node itself, the API server included, passes no POSTROUTING.
        f"-A INPUT -s {PODS} -j POLICIES",
    ):
        node.run("iptables", "-w", "-t", "mangle", *rule.split())
    node.service("network-policies", [program, kubeconfig, node.name])
