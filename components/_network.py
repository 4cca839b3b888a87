"""Who may reach whom: network policies inside the cluster, addresses on the home network."""

from collections.abc import Sequence

from pulumi import Input, Resource, ResourceOptions
from pulumi_kubernetes.core.v1 import Service, ServiceSpecArgsDict
from pulumi_kubernetes.networking.v1 import (
    NetworkPolicy,
    NetworkPolicyEgressRuleArgsDict,
    NetworkPolicyIngressRuleArgsDict,
    NetworkPolicyPeerArgsDict,
    NetworkPolicySpecArgsDict,
)

from components._objects import UNAWAITED, labels

DNS: NetworkPolicyEgressRuleArgsDict = {
    "to": [
        {
            "namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": "kube-system"}},
            "pod_selector": {"match_labels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}
"""Egress rule that lets a pod ask the cluster's DNS."""

INTERNET: NetworkPolicyEgressRuleArgsDict = {
    "to": [
        {
            "ip_block": {
                "cidr": "0.0.0.0/0",
                # Private, shared and link-local ranges: RFC 1918, 6598, 3927.
                "except_": [
                    "10.0.0.0/8",
                    "100.64.0.0/10",
                    "169.254.0.0/16",
                    "172.16.0.0/12",
                    "192.168.0.0/16",
                ],
            }
        }
    ],
    "ports": [{"protocol": "TCP", "port": 443}],
}
"""Egress rule that lets a pod reach HTTPS servers outside the house, and none inside."""


def from_pods(
    matching: dict[str, str], port: int, *namespaces: Input[str]
) -> NetworkPolicyIngressRuleArgsDict:
    """Ingress rule for pods of these namespaces, or of the same one."""
    return {
        "from_": _peers(matching, namespaces),
        "ports": [{"protocol": "TCP", "port": port}],
    }


def to_pods(
    matching: dict[str, str], port: int, *namespaces: Input[str]
) -> NetworkPolicyEgressRuleArgsDict:
    """Egress rule to pods of these namespaces, or of the same one."""
    return {
        "to": _peers(matching, namespaces),
        "ports": [{"protocol": "TCP", "port": port}],
    }


def _peers(
    matching: dict[str, str], namespaces: Sequence[Input[str]]
) -> list[NetworkPolicyPeerArgsDict]:
    pods: NetworkPolicyPeerArgsDict = {"pod_selector": {"match_labels": matching}}
    named = "kubernetes.io/metadata.name"
    return [
        {**pods, "namespace_selector": {"match_labels": {named: namespace}}}
        for namespace in namespaces
    ] or [pods]


def policy(
    name: str,
    namespace: Input[str],
    matching: dict[str, str],
    parent: Resource,
    *,
    ingress: Sequence[NetworkPolicyIngressRuleArgsDict] | None = None,
    egress: Sequence[NetworkPolicyEgressRuleArgsDict] | None = None,
) -> NetworkPolicy:
    """Cut the pods with the labels `matching` off, but for the rules given.

    A direction without rules is closed, one that is None stays as other policies leave it.
    """
    spec: NetworkPolicySpecArgsDict = {
        "pod_selector": {"match_labels": matching} if matching else {},
        "policy_types": [
            *(["Ingress"] if ingress is not None else []),
            *(["Egress"] if egress is not None else []),
        ],
    }
    if ingress:
        spec["ingress"] = ingress
    if egress:
        spec["egress"] = egress
    return NetworkPolicy(
        f"{name}-policy",
        metadata={"name": name, "namespace": namespace, "labels": labels(name)},
        spec=spec,
        opts=ResourceOptions(parent=parent),
    )


def service(
    logical_name: str,
    name: str,
    namespace: Input[str],
    matching: dict[str, str],
    ports: tuple[int, str],
    parent: Resource,
    *,
    address: str | None = None,
    pool: Input[str] = "",
) -> Service:
    """A Service inside the cluster or, given an address of MetalLB's `pool`, on the home network.

    `ports` are its own and the name of the pods' one.
    """
    port, target_port = ports
    asked: dict[str, Input[str]] = {
        "metallb.io/loadBalancerIPs": address or "",
        "metallb.io/address-pool": pool,
    }
    spec: ServiceSpecArgsDict = {
        "type": "LoadBalancer" if address else "ClusterIP",
        "selector": matching,
        "ports": [{"name": "http", "port": port, "target_port": target_port}],
    }
    if address:
        # MetalLB needs no node port, and one would be open on every address of the node.
        spec["allocate_load_balancer_node_ports"] = False
        # The pod sees who calls instead of the node.
        spec["external_traffic_policy"] = "Local"
    return Service(
        logical_name,
        metadata={
            "name": name,
            "namespace": namespace,
            "labels": labels(name),
            # Its pods may have images to pull first, and what depends on it needs its name only.
            "annotations": {**UNAWAITED, **(asked if address else {})},
        },
        spec=spec,
        opts=ResourceOptions(parent=parent),
    )
