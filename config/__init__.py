"""The house as its owner describes it: read and checked once, before any resource."""

from dataclasses import fields

import pulumi

from config import rules
from config.files import alerts, chart_values, dashboards, workload
from config.quantities import requested
from config.sections import SettingsError
from config.settings import Settings

__all__ = ["Settings", "SettingsError", "alerts", "chart_values", "dashboards", "load", "workload"]


def load() -> Settings:
    """Read this stack's `homelab:` keys and check them; raises RunError with one clear line."""
    config = pulumi.Config("homelab")
    keys = [field.name for field in fields(Settings)]
    # The only text among the keys; every other one is JSON.
    raw = {key: config.get(key) if key == "context" else config.get_object(key) for key in keys}
    try:
        settings = Settings.parse("homelab:", {k: v for k, v in raw.items() if v is not None})
        rules.check(settings, requested(chart_values()))
    except SettingsError as error:
        raise pulumi.RunError(str(error)) from None
    return settings
