"""The model Job, which syncs Ollama's models with the declared models."""

import hashlib
import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pulumi import CustomTimeouts, Input, Resource, ResourceOptions
from pulumi_kubernetes.batch.v1 import Job
from pulumi_kubernetes.core.v1 import ConfigMap, ContainerArgsDict, EnvVarArgsDict

from components._kubernetes import (
    RESTRICTED,
    environment,
    files,
    labels,
    pod_spec,
    read_files,
    volume,
)

PROGRAM = read_files(
    Path(__file__).parent / "programs", "sync_models.py", "ollama_client.py", "model_name.py"
)
"""Files of the program by name."""


class OllamaModels(TypedDict):
    """The models that the Job pulls and creates."""

    declared: list[dict[str, Any]]
    """Models, each as the fields of `DeclaredModel` in `programs/sync_models.py`; a changed list
    creates a new Job."""
    refreshed: NotRequired[str | None]
    """A new value pulls every declared tag again. Default: none."""
    dry_run: NotRequired[bool]
    """The Job only logs what it would change. Default: false."""


class ModelJobArgs(OllamaModels):
    """Inputs of the Job."""

    namespace: Input[str]
    claim_name: Input[str]
    """Claim of the models' volume, which also has the Job's ledger."""
    image: str
    """Image with Python 3.11, pinned."""
    node: str | None
    """Host name of the node to run on; None for the node of the volume."""


def model_job(
    name: str,
    args: ModelJobArgs,
    url: Input[str],
    token: EnvVarArgsDict,
    client_labels: dict[str, str],
    deployment: Resource,
    parent: Resource,
) -> None:
    """Create the Job, which uses the API at `url`, once Ollama's Deployment is ready.

    `token` is the variable with the gateway's token; `client_labels` allow a pod to reach the API.
    """
    namespace, job = args["namespace"], f"{name}-models"
    program = ConfigMap(
        f"{name}-program",
        metadata={"name": f"{name}-model-job", "namespace": namespace, "labels": labels(name)},
        data=_files(args),
        opts=ResourceOptions(parent=parent),
    )
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
        # `pulumi up` and `kubectl describe pod` then print the last line of a failed Job's log.
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": [
            {"name": "program", "mount_path": "/workload", "read_only": True},
            # The models' volume, without access to the models.
            {"name": "models", "mount_path": "/ledger", "sub_path": "homelab"},
        ],
    }
    Job(
        f"{name}-job",
        metadata={
            "name": f"{job}-{_fingerprint(args)}",
            "namespace": namespace,
            "labels": labels(job),
            # The next `pulumi up` runs a failed Job again.
            "annotations": {"pulumi.com/replaceUnready": "true"},
        },
        spec={
            # The program itself retries each model.
            "backoff_limit": 1,
            "template": {
                "metadata": {"labels": {**labels(job), **client_labels}},
                "spec": {
                    **pod_spec(
                        container,
                        [files("program", program), volume("models", args["claim_name"])],
                        args["node"],
                    ),
                    "restart_policy": "Never",
                },
            },
        },
        opts=ResourceOptions(
            parent=parent,
            depends_on=[deployment],
            # A model of 65 GB takes hours on a home connection; the Job logs its progress.
            custom_timeouts=CustomTimeouts(create="4h", update="4h"),
            # A retry of the old Job would delete models that only the new Job declares.
            delete_before_replace=True,
        ),
    )


def _files(args: ModelJobArgs) -> dict[str, str]:
    """Return the program and its `models.json`, sorted, because the models' order has no effect."""
    models = sorted(args["declared"], key=lambda model: str(model["name"]))
    declared = {"models": models, "refreshed": args.get("refreshed") or ""}
    return {
        **PROGRAM,
        "models.json": json.dumps(declared, indent=1, sort_keys=True),
    }


def _fingerprint(args: ModelJobArgs) -> str:
    """Return eight hex digits of the hash of the program and its input."""
    content = json.dumps([_files(args), args.get("dry_run", False)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]
