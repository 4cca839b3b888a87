"""Each component can be used from another language: the SDK's own analyzer reads its types."""

import json
import re
import subprocess
import sys

from harness import ROOT

# In a process of its own: the SDK's provider server and OpenTelemetry bring google.rpc.Status both.
PROGRAM = """
import inspect
import json

import components
import pulumi
from components.__main__ import COMPONENTS
from pulumi.provider.experimental.component import ComponentProvider

kinds = [getattr(components, name) for name in components.__all__]
kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, pulumi.Resource)]
assert kinds == COMPONENTS, "the package has all components"
args = {
    kind.__name__: [*inspect.get_annotations(kind.__init__)["args"].__annotations__]
    for kind in kinds
}
print(json.dumps([json.loads(ComponentProvider(kinds, "homelab").schema), args]))
"""


def test_the_inputs_of_every_component_are_few_and_have_a_schema() -> None:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    schema, documented = json.loads(process.stdout)
    resources = schema["resources"]

    assert {name.rpartition(":")[2] for name in resources} == {
        "LocalStorage",
        "MetalLBPool",
        "ObservabilityStack",
        "OllamaStack",
        "OpenWebUI",
        "OpenWebUIBackup",
    }
    assert all(1 < len(kind["inputProperties"]) <= 10 for kind in resources.values())
    for name, arguments in documented.items():
        names = [re.sub("_(.)", lambda match: match[1].upper(), it) for it in arguments]
        assert [*resources[f"homelab:index:{name}"]["inputProperties"]] == names
