"""What the address pool promises."""

import pytest
from harness import deploy, deployed

from components import MetalLBPool

POOL = "kubernetes:metallb.io/v1beta1:IPAddressPool::home-pool"
ADVERTISEMENT = "kubernetes:metallb.io/v1beta1:L2Advertisement::home-advertisement"
RELEASE = "kubernetes:helm.sh/v3:Release::home-metallb"


def bare() -> None:
    MetalLBPool("home", {"addresses": ["10.0.0.8-10.0.0.9"], "namespaces": ["a"]})


def installed() -> None:
    MetalLBPool(
        "home",
        {"addresses": ["10.0.0.8-10.0.0.9"], "namespaces": ["a"], "chart_version": "1.2.3"},
    )


def test_the_advertisement_names_the_pool() -> None:
    deployment = deploy(bare)

    assert deployment[ADVERTISEMENT].inputs["spec"]["ipAddressPools"] == [
        deployment[POOL].inputs["metadata"]["name"]
    ]


def test_metallb_is_installed_only_where_a_version_is_given() -> None:
    assert RELEASE not in deploy(bare).resources

    deployment = deploy(installed)
    assert deployment[RELEASE].inputs["version"] == "1.2.3"
    assert deployment[POOL].dependencies >= {"home-metallb"}
    # The webhook is not there yet when the pool comes.
    assert deployment[RELEASE].inputs["values"]["crds"]["validationFailurePolicy"] == "Ignore"


@pytest.mark.parametrize(
    ("where", "chart", "version", "repository"),
    [
        (None, "metallb", "1.2.3", "https://metallb.github.io/metallb"),
        ("https://mirror.example/charts", "metallb", "1.2.3", "https://mirror.example/charts"),
        ("oci://mirror.example/metallb", "oci://mirror.example/metallb", "1.2.3", None),
        ("https://mirror.example/m.tgz", "https://mirror.example/m.tgz", None, None),
        ("./charts/metallb", "./charts/metallb", None, None),
    ],
)
def test_the_chart_may_be_elsewhere(
    where: str | None, chart: str, version: str | None, repository: str | None
) -> None:
    def elsewhere() -> None:
        MetalLBPool(
            "home",
            {
                "addresses": ["10.0.0.8-10.0.0.9"],
                "namespaces": ["a"],
                "chart_version": "1.2.3",
                "chart": where,
            },
        )

    inputs = deploy(elsewhere)[RELEASE].inputs
    assert inputs["chart"] == chart
    assert inputs.get("version") == version
    assert (inputs.get("repositoryOpts") or {}).get("repo") == repository


def test_services_wait_until_their_address_is_announced() -> None:
    home = deployed()

    for service in home.of_kind("Service"):
        if service.inputs["spec"].get("type") == "LoadBalancer":
            assert "homelab-advertisement" in service.dependencies
