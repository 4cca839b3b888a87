"""Run anything that registers resources in this process, and keep every registration."""

from ops.program import ROOT, Deployment, Registration, deploy, deploy_program, stack_config

__all__ = ["ROOT", "Deployment", "Registration", "deploy", "deploy_program", "stack_config"]
