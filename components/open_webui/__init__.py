"""Open WebUI and its backups: their components, and the programs that run in their pods."""

from components.open_webui.backup import OpenWebUIBackup
from components.open_webui.page import OpenWebUI

__all__ = ["OpenWebUI", "OpenWebUIBackup"]
