"""Provider host of the package `homelab`: the components for programs in TypeScript, Go or YAML.

Runs as a plugin; the engine starts it.
"""

import sys
from pathlib import Path

from pulumi.provider.experimental import component_provider_host

# A plugin is run by its folder, which is this package.
sys.path[0] = str(Path(__file__).parent.parent)

import components  # noqa: E402

COMPONENTS = [
    components.LocalStorage,
    components.MetalLBPool,
    components.ObservabilityStack,
    components.OllamaStack,
    components.OpenWebUI,
    components.OpenWebUIBackup,
]

if __name__ == "__main__":
    component_provider_host(COMPONENTS, "homelab")
