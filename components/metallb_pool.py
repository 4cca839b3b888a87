"""MetalLB's address pool on the home network, and its layer-2 advertisement."""

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
    """Inputs of a `MetalLBPool`."""

    addresses: list[str]
    """Ranges or CIDRs on the home network, outside the router's DHCP range."""
    namespaces: list[str]
    """Namespaces whose Services may use the pool."""
    chart_version: NotRequired[str | None]
    """Version of MetalLB's chart to install. Default: MetalLB is already installed."""
    chart: NotRequired[str | None]
    """A directory, a `.tgz`, `oci://…` or `https://…`. Default: the public chart."""


class MetalLBPool(ComponentResource):
    """A layer-2 address pool, announced from every node, for Services that request it."""

    release_namespaces: dict[str, Input[str]]
    """Namespace of MetalLB's Helm release, by logical name; empty if it is not installed here."""
    pool_name: Output[str]
    """Value of a Service's `metallb.io/address-pool` annotation, once the pool is announced."""

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
                    # An interrupted wait leaves the release in `pending-install`, which blocks
                    # every further upgrade.
                    skip_await=True,
                    values={
                        # The webhook is not up when the controller is ready, and a rejected pool
                        # is not retried; the controller validates it as well.
                        "crds": {"validationFailurePolicy": "Ignore"},
                        # Layer 2 on one node needs neither BGP nor memberlist; MicroK8s may label
                        # the only node as excluded from load balancers.
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
                # With autoAssign, any Service could take the chat page's address.
                "autoAssign": False,
                "serviceAllocation": {"namespaces": args["namespaces"]},
            },
            opts=ResourceOptions(parent=self, depends_on=metallb),
        )
        # Without an advertisement, assigned addresses are not reachable.
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
