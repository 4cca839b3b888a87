"""Run anything that registers resources in this process, and keep every registration."""

import functools
from typing import Any

from ops.program import ROOT, Deployment, Registration, deploy, deploy_program, stack_config

__all__ = [
    "ROOT",
    "Deployment",
    "Registration",
    "deploy",
    "deploy_program",
    "deployed",
    "gpu_config",
    "stack_config",
]


@functools.cache
def deployed(stack: str = "home") -> Deployment:
    """What the program registers with a stack file as it is: made once, for all that only look."""
    return deploy_program(stack)


def gpu_config(stack: str = "home") -> dict[str, Any]:
    """A stack's configuration with its models on the GPU of an HX 370; the numbers are made up."""
    config = stack_config(stack)
    gpu = {"memory": "46Gi", "groups": [44, 993]}
    config["nodes"]["evo4t"] |= {"profile": "hx370", "gpu": gpu}
    return config
