"""The images of the demo's pods."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox import images, oci
from sandbox.engine import OWN_CHART
from sandbox.processes import SandboxError


def test_every_image_of_the_own_chart_can_be_made() -> None:
    templates = [file.read_text() for file in (OWN_CHART / "templates").glob("*.yaml")]
    wanted = re.findall(r'image: "?([^\s",]+)', "".join(templates))
    assert len(wanted) == 5
    assert set(wanted) <= set(images.NAMES)


def test_an_import_that_ends_early_says_why(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    layer = tmp_path / "layer"
    layer.write_bytes(bytes(1 << 20))
    command = ["sh", "-c", "echo no space left >&2; exit 1"]
    node: Any = SimpleNamespace(folder=tmp_path, inside=lambda *_: command)
    with pytest.raises(SandboxError, match="imported none: no space left"):
        oci.load(node, [oci.Image("debian", [layer])])
