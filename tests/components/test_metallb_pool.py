"""What the address pool promises."""

import pytest
from harness import deploy, deployed

from components import MetalLBPool

RELEASE = "kubernetes:helm.sh/v3:Release::home-metallb"


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
