"""The Job that gives the model server its models."""

import hashlib

from pulumi import CustomTimeouts, Input, Resource, ResourceOptions
from pulumi_kubernetes.batch.v1 import Job
from pulumi_kubernetes.core.v1 import ConfigMap, ContainerArgsDict, EnvVarArgsDict, VolumeArgsDict

from components._objects import RESTRICTED, PodArgs, environment, labels, pod


class ModelJobArgs(PodArgs):
    """What the Job needs to know."""

    models: list[str]
    """Models to have, as `family:tag`; a changed list is a new Job."""
    program_image: str
    """An image with Python 3.11, aiohttp and the OpenTelemetry SDK that the node has anyway."""
    job_program: str
    """Text of the program that pulls the models given as its arguments."""


def model_job(
    name: str,
    args: ModelJobArgs,
    url: Input[str],
    token: EnvVarArgsDict,
    client_labels: dict[str, str],
    server: Resource,
    parent: Resource,
) -> None:
    """Pull the models through the API at `url` once `server` is there.

    `token` is the variable that lets the Job change models, `client_labels` open the way.
    """
    namespace, job = args["namespace"], f"{name}-models"
    program = ConfigMap(
        f"{name}-program",
        metadata={"name": f"{name}-model-job", "namespace": namespace, "labels": labels(name)},
        data={"pull_models.py": args["job_program"]},
        opts=ResourceOptions(parent=parent),
    )
    script: VolumeArgsDict = {"name": "program", "config_map": {"name": program.metadata["name"]}}
    container: ContainerArgsDict = {
        "name": "pull-models",
        "image": args["program_image"],
        "command": ["python3", "-u", "/workload/pull_models.py"],
        "args": sorted(args["models"]),
        "env": [*environment({"OLLAMA_URL": url}), token],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
        "security_context": RESTRICTED,
        "volume_mounts": [{"name": "program", "mount_path": "/workload", "read_only": True}],
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
                    **pod(container, [script], args.get("node")),
                    "restart_policy": "Never",
                },
            },
        },
        # Models of 65 GB take hours on a home line; the log tells how far it is.
        opts=ResourceOptions(
            parent=parent, depends_on=[server], custom_timeouts=CustomTimeouts(create="4h")
        ),
    )


def _fingerprint(args: ModelJobArgs) -> str:
    """Eight hex digits that change with the models and the program, and with nothing else."""
    text = "\n".join([*sorted(args["models"]), args["job_program"]])
    return hashlib.sha256(text.encode()).hexdigest()[:8]
