"""Each component can be used from another language: the SDK's own analyzer reads its types."""

import json

import pulumi
from pulumi.provider.experimental.component import ComponentProvider

import components


def test_the_inputs_of_every_component_are_few_and_have_a_schema() -> None:
    kinds = [getattr(components, name) for name in components.__all__]
    made = [
        kind
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, pulumi.ComponentResource)
    ]
    assert len(made) == 6

    schema = json.loads(ComponentProvider(made, "homelab").schema or "")

    for kind in made:
        inputs = schema["resources"][f"homelab:index:{kind.__name__}"]["inputProperties"]
        assert 1 < len(inputs) <= 10, kind.__name__
