"""Each component can be used from another language: the SDK's own analyzer reads its types."""

import json
import subprocess
import sys

from harness import ROOT

# In a process of its own: the SDK's provider server and OpenTelemetry bring google.rpc.Status both.
PROGRAM = """
import components
import pulumi
from pulumi.provider.experimental.component import ComponentProvider

kinds = [getattr(components, name) for name in components.__all__]
kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, pulumi.Resource)]
print(ComponentProvider(kinds, "homelab").schema)
"""


def test_the_inputs_of_every_component_are_few_and_have_a_schema() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    resources = json.loads(done.stdout)["resources"]

    assert {name.rpartition(":")[2] for name in resources} == {
        "LocalStorage",
        "MetalLBPool",
        "ObservabilityStack",
        "OllamaStack",
        "OpenWebUI",
        "OpenWebUIBackup",
    }
    assert all(1 < len(kind["inputProperties"]) <= 10 for kind in resources.values())
