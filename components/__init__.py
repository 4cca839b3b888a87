"""Components of the homelab stack; each takes plain values and other components' outputs."""

from components._kubernetes import Pod, Telemetry
from components.local_storage import LocalStorage, LocalVolume
from components.metallb_pool import MetalLBPool
from components.observability.notify import Notify
from components.observability.stack import CHART_VALUES, PROMETHEUS_CLAIM, ObservabilityStack
from components.ollama.stack import OllamaStack
from components.open_webui.backup import OpenWebUIBackup
from components.open_webui.page import OpenWebUI

__all__ = [
    "CHART_VALUES",
    "PROMETHEUS_CLAIM",
    "LocalStorage",
    "LocalVolume",
    "MetalLBPool",
    "Notify",
    "ObservabilityStack",
    "OllamaStack",
    "OpenWebUI",
    "OpenWebUIBackup",
    "Pod",
    "Telemetry",
]
