"""Run anything that registers resources in this process, and keep every registration."""

import functools
from collections.abc import Mapping
from typing import Any

import config
from components import CHART_VALUES
from ops.program import ROOT, Deployment, Registration, deploy, deploy_program, stack_config

__all__ = [
    "RESERVED",
    "ROOT",
    "Deployment",
    "Registration",
    "backup_config",
    "deploy",
    "deploy_program",
    "deployed",
    "gpu_config",
    "read",
    "stack_config",
]


RESERVED = config.requested(CHART_VALUES)
"""What the monitoring requests beside the settings."""


def read(raw: Mapping[str, Any]) -> config.Settings:
    """The settings of a stack with these keys; raises SettingsError."""
    return config.read(raw, RESERVED)


@functools.cache
def deployed(stack: str = "home") -> Deployment:
    """What the program registers with a stack file as it is: made once, for all that only look."""
    return deploy_program(stack)


def gpu_config(stack: str = "home") -> dict[str, Any]:
    """A stack's configuration with its models on the GPU of an HX 370; the numbers are made up."""
    raw = stack_config(stack)
    gpu = {"memory": "46Gi", "groups": [44, 993]}
    raw["nodes"]["evo4t"] |= {"profile": "hx370", "gpu": gpu}
    return raw


def backup_config(stack: str = "home") -> dict[str, Any]:
    """A stack's configuration with backups."""
    raw = stack_config(stack)
    raw["webui"]["backup"] = {"volume": {"path": "/mnt/backup/homelab", "size": "200Gi"}}
    return raw
