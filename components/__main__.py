"""Provider host of the package `homelab`: the components for programs in TypeScript, Go or YAML.

Runs as a plugin; the engine starts it.
"""

import sys
from pathlib import Path

from pulumi.provider.experimental import component_provider_host

# A plugin is run by its folder, which is this package.
sys.path[0] = str(Path(__file__).parent.parent)

from components import (  # noqa: E402
    LocalStorage,
    MetalLBPool,
    ObservabilityStack,
    OllamaStack,
    OpenWebUI,
    OpenWebUIBackup,
)

COMPONENTS = [
    LocalStorage,
    MetalLBPool,
    ObservabilityStack,
    OllamaStack,
    OpenWebUI,
    OpenWebUIBackup,
]

if __name__ == "__main__":
    component_provider_host(COMPONENTS, "homelab")
