"""The Job that syncs the model server's models with the declared ones."""

import hashlib
import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pulumi import CustomTimeouts, Input, Resource, ResourceOptions
from pulumi_kubernetes.batch.v1 import Job
from pulumi_kubernetes.core.v1 import ConfigMap, ContainerArgsDict, EnvVarArgsDict, VolumeArgsDict

from components._kubernetes import RESTRICTED, environment, labels, pod, texts, volume

PROGRAM = texts(Path(__file__).parent / "programs", "sync_models.py", "ollama_client.py")
"""Files of the program by name; the first is run."""


class ModelJobArgs(TypedDict):
    """What the Job needs to know."""

    namespace: Input[str]
    claim_name: Input[str]
    """Claim of the models' volume, which keeps the ledger too."""
    image: str
    """Image with Python 3.11 and aiohttp, pinned."""
    declared: list[dict[str, Any]]
    """Models to have, as `DeclaredModel` of `programs/sync_models.py` takes them; a changed list
    is a new Job."""
    refreshed: NotRequired[str | None]
    """Another word than at the last run pulls every declared tag again. Default: none."""
    model_name: str
    """Text of the module `model_name`, by which the programs compare models' names."""
    dry_run: NotRequired[bool]
    """Whether the Job only says what it would do. Default: false."""
    node: str | None


def model_job(
    name: str,
    args: ModelJobArgs,
    url: Input[str],
    token: EnvVarArgsDict,
    client_labels: dict[str, str],
    server: Resource,
    parent: Resource,
) -> None:
    """Sync the models with the declared ones, through the API at `url`, once `server` is ready.

    `token` is the variable that lets the Job change models, `client_labels` open the way.
    """
    namespace, job = args["namespace"], f"{name}-models"
    program = ConfigMap(
        f"{name}-program",
        metadata={"name": f"{name}-model-job", "namespace": namespace, "labels": labels(name)},
        data=_files(args),
        opts=ResourceOptions(parent=parent),
    )
    script: VolumeArgsDict = {"name": "program", "config_map": {"name": program.metadata["name"]}}
    dry = ["--dry-run"] if args.get("dry_run") else []
    container: ContainerArgsDict = {
        "name": "sync-models",
        "image": args["image"],
        "command": ["python3", "-u", "/workload/sync_models.py"],
        "args": [*dry, "/workload/models.json"],
        "env": [*environment({"OLLAMA_URL": url, "LEDGER_FOLDER": "/ledger"}), token],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
        "security_context": RESTRICTED,
        # The last line says why it failed: `pulumi up` and `kubectl describe pod` show it.
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": [
            {"name": "program", "mount_path": "/workload", "read_only": True},
            # Beside the models on their volume, but not the models.
            {"name": "models", "mount_path": "/ledger", "sub_path": "homelab"},
        ],
    }
    Job(
        f"{name}-job",
        metadata={
            "name": f"{job}-{_fingerprint(args)}",
            "namespace": namespace,
            "labels": labels(job),
            # A Job that failed runs again on the next up, when the model's name is mended.
            "annotations": {"pulumi.com/replaceUnready": "true"},
        },
        spec={
            # The program tries each model several times itself.
            "backoff_limit": 1,
            "template": {
                "metadata": {"labels": {**labels(job), **client_labels}},
                "spec": {
                    **pod(container, [script, volume("models", args["claim_name"])], args["node"]),
                    "restart_policy": "Never",
                },
            },
        },
        opts=ResourceOptions(
            parent=parent,
            depends_on=[server],
            # Models of 65 GB take hours on a home line; the log tells how far it is.
            custom_timeouts=CustomTimeouts(create="4h", update="4h"),
            # Another try of the old one would delete what only the new one declares.
            delete_before_replace=True,
        ),
    )


def _files(args: ModelJobArgs) -> dict[str, str]:
    """The program and its `models.json`; the order of the models does not matter to it."""
    models = sorted(args["declared"], key=lambda model: str(model["name"]))
    declared = {"models": models, "refreshed": args.get("refreshed") or ""}
    return {
        **PROGRAM,
        "model_name.py": args["model_name"],
        "models.json": json.dumps(declared, indent=1, sort_keys=True),
    }


def _fingerprint(args: ModelJobArgs) -> str:
    """Eight hex digits that change with what is to be done and the program, and nothing else."""
    text = json.dumps([_files(args), args.get("dry_run", False)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
