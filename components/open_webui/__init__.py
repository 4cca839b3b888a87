"""Open WebUI and its backups: their components, and the programs that run in their pods."""
