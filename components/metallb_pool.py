"""Addresses that MetalLB hands out, and the announcement that makes them reachable."""

from typing import NotRequired, TypedDict

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.core.v1 import Namespace
from pulumi_kubernetes.helm.v3 import Release

from components._kubernetes import chart, labels, pod_security

METALLB = "metallb.io/v1beta1"
NAMESPACE = "metallb-system"
PUBLIC_CHART = "https://metallb.github.io/metallb"


class MetalLBPoolArgs(TypedDict):
    """What a pool needs to know."""

    addresses: list[str]
    """Ranges or CIDRs on the home network, outside the router's DHCP range."""
    namespaces: list[str]
    """The namespaces whose Services may take an address."""
    chart_version: NotRequired[str | None]
    """Version of MetalLB's chart to install. Default: none, MetalLB is there already."""
    chart: NotRequired[str | None]
    """Where it is: a folder, a `.tgz`, `oci://…` or `https://…`. Default: the public one."""


class MetalLBPool(ComponentResource):
    """A layer-2 address pool, announced from every node, given only to those who ask for it."""

    release_namespaces: dict[str, Input[str]]
    """Namespace of MetalLB's own release, by logical name; none if MetalLB was there already."""
    pool_name: Output[str]
    """Value for a Service's `metallb.io/address-pool` annotation, once addresses are announced."""

    def __init__(
        self, name: str, args: MetalLBPoolArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("homelab:index:MetalLBPool", name, {}, opts)

        self.release_namespaces = {}
        metallb: list[Release] = []
        if version := args.get("chart_version"):
            namespace = Namespace(
                f"{name}-namespace",
                # The speaker answers ARP from the host's network.
                metadata={
                    "name": NAMESPACE,
                    "labels": {**labels("metallb"), **pod_security("privileged")},
                },
                opts=ResourceOptions(parent=self),
            )
            self.release_namespaces = {"metallb": namespace.metadata["name"]}
            metallb = [
                Release(
                    f"{name}-metallb",
                    name="metallb",
                    namespace=namespace.metadata["name"],
                    **chart("metallb", version, args.get("chart") or PUBLIC_CHART),
                    max_history=5,
                    # A wait that is cut off leaves a release that Helm will not touch again.
                    skip_await=True,
                    values={
                        # The webhook answers only some time after the controller is ready, and a
                        # pool that it fails is not tried again; the controller checks it as well.
                        "crds": {"validationFailurePolicy": "Ignore"},
                        # Layer 2 on one node needs neither BGP nor a member list, and the node of
                        # a one-machine cluster may carry the label that excludes it.
                        "frrk8s": {"enabled": False},
                        "speaker": {
                            "frr": {"enabled": False},
                            "memberlist": {"enabled": False},
                            "ignoreExcludeLB": True,
                        },
                    },
                    opts=ResourceOptions(parent=self),
                )
            ]

        pool = CustomResource(
            f"{name}-pool",
            api_version=METALLB,
            kind="IPAddressPool",
            metadata={"name": name, "namespace": NAMESPACE, "labels": labels("metallb")},
            spec={
                "addresses": args["addresses"],
                # A stray Service must not take an address that another one is reached at.
                "autoAssign": False,
                "serviceAllocation": {"namespaces": args["namespaces"]},
            },
            opts=ResourceOptions(parent=self, depends_on=metallb),
        )
        # Without an advertisement the pool assigns addresses that nobody can reach.
        advertisement = CustomResource(
            f"{name}-advertisement",
            api_version=METALLB,
            kind="L2Advertisement",
            metadata={"name": name, "namespace": NAMESPACE, "labels": labels("metallb")},
            spec={"ipAddressPools": [name]},
            opts=ResourceOptions(parent=self, depends_on=[pool]),
        )

        self.pool_name = advertisement.id.apply(lambda _: name)
        self.register_outputs({"pool_name": self.pool_name})
