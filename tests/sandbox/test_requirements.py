"""What `make demo` requires of the machine."""

import os
from pathlib import Path

import pytest

from sandbox import requirements
from sandbox.processes import SandboxError
from sandbox.pull import reference


def test_without_root_the_error_names_make_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="sudo make demo; without root: make up"):
        requirements.missing()


def test_missing_packages_are_listed_and_not_installed_without_consent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("YES", raising=False)
    for name in ("apt-get", "runc", "ip"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    packages = {"runc": "runc", "iproute2": "ip", "nftables": "nft", "containerd": "ctr"}
    monkeypatch.setitem(requirements.TABLE, "packages", packages)
    with pytest.raises(SandboxError, match="YES=1"):
        requirements.install(tmp_path)
    assert "missing containerd nftables\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("restic/restic:0.19.1", "docker.io/restic/restic:0.19.1"),
        ("ollama/ollama:0.40.16@sha256:910d", "docker.io/ollama/ollama@sha256:910d"),
        ("registry.k8s.io/pause:3.10.1", "registry.k8s.io/pause:3.10.1"),
        ("localhost:5000/a:1@sha256:910d", "localhost:5000/a@sha256:910d"),
    ],
)
def test_an_image_is_pulled_from_the_registry_that_a_pod_means(image: str, name: str) -> None:
    assert reference(image) == name
