"""Components of the homelab stack; each takes plain values and other components' outputs."""

from components._kubernetes import Pod, Telemetry
from components.local_storage import LocalStorage, Volume
from components.metallb_pool import MetalLBPool
from components.observability import CHART_VALUES, PROMETHEUS_CLAIM, Notify, ObservabilityStack
from components.ollama import OllamaStack
from components.open_webui import OpenWebUI, OpenWebUIBackup

__all__ = [
    "CHART_VALUES",
    "PROMETHEUS_CLAIM",
    "LocalStorage",
    "MetalLBPool",
    "Notify",
    "ObservabilityStack",
    "OllamaStack",
    "OpenWebUI",
    "OpenWebUIBackup",
    "Pod",
    "Telemetry",
    "Volume",
]
