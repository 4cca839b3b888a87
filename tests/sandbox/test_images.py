"""The images of the demo's pods."""

import re

from sandbox import images
from sandbox.engine import OWN_CHART


def test_every_image_of_the_own_chart_can_be_made() -> None:
    templates = [file.read_text() for file in (OWN_CHART / "templates").glob("*.yaml")]
    wanted = re.findall(r'image: "?([^\s",]+)', "".join(templates))
    assert len(wanted) == 5
    assert set(wanted) <= set(images.NAMES)
