"""The components as a Pulumi package, through their provider host."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from doctor_lab import connect

from sandbox.build import Tools
from sandbox.cluster import Cluster
from sandbox.engine import PROJECT, Engine

PROGRAM = """
import pulumi, pulumi_kubernetes

cluster = pulumi_kubernetes.Provider("cluster", context="homelab-sandbox", kubeconfig="")
pool = pulumi.ComponentResource(
    "homelab:index:MetalLBPool",
    "guests",
    {"addresses": ["192.168.1.120-192.168.1.121"], "namespaces": ["default"], "poolName": None},
    pulumi.ResourceOptions(providers=[cluster]),
    remote=True,
)
pulumi.export("pool", pool.poolName)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin on PATH that starts the provider host as the language host does."""
    file = tmp_path / "plugin" / "pulumi-resource-homelab"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROJECT}/components/__main__.py" "$@"\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")
    return file


def test_another_program_creates_an_address_pool_with_the_plugin(
    plugin: Path, cluster: Cluster, tools: Tools, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: guests\nruntime: python\n")
    (project / "Pulumi.sandbox.yaml").write_text("config: {}\n")
    (project / "__main__.py").write_text(PROGRAM)
    engine = Engine(cluster, tools, project)
    engine.up(lambda _: None)

    def read(kind: str) -> Any:
        resource = connect(cluster).resources.get(api_version="metallb.io/v1beta1", kind=kind)
        return resource.get(name="guests", namespace="metallb-system")

    assert read("IPAddressPool").spec.addresses == ["192.168.1.120-192.168.1.121"]
    assert read("L2Advertisement")
    assert engine.outputs()["pool"] == ("guests", False)

    schema = json.loads(engine.cli("package", "get-schema", str(plugin)).stdout)
    assert "homelab:index:OllamaStack" in schema["resources"]
    engine.destroy(lambda _: None)
