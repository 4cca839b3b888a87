"""The steps of a backup and of a restore, as Jobs whose containers run one after the other."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from pulumi import Input
from pulumi_kubernetes.batch.v1 import JobSpecArgsDict
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EmptyDirVolumeSourceArgsDict,
    EnvVarArgsDict,
    SecretKeySelectorArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from components._kubernetes import RESTRICTED, environment, labels, otel_service, pod, volume


class BackupJobArgs(TypedDict):
    """What the Jobs need to know."""

    namespace: Input[str]
    """Namespace of the chat page."""
    image: str
    """Open WebUI's image, on which the programs run; another one is a new snapshot before it."""
    restic_image: str
    """Image of restic, pinned."""
    data_claim: Input[str]
    """Claim of the chat page's volume."""
    backup_claim: Input[str]
    """Claim of the volume that takes the backups."""
    secret_name: str
    """Secret with the chat page's `WEBUI_SECRET_KEY`; it may come later than the first backup."""
    keep: Mapping[str, int]
    """How many are kept, by restic's words `last`, `daily`, `weekly`, `monthly`."""
    room: str
    """Scratch space on the node's own disk: what all the data needs once."""
    otlp_url: NotRequired[Input[str]]
    """Where the results are pushed, by OTLP over HTTP. Default: nowhere."""
    pod_labels: NotRequired[dict[str, str]]
    """Labels that open the way to `otlp_url`. Default: none."""
    node: NotRequired[str | None]
    """Host name of the machine to run on. Default: the one with the volumes."""


def backup(kind: str, args: BackupJobArgs, password: EnvVarArgsDict) -> list[ContainerArgsDict]:
    """Take a snapshot, store it and get it back, prove that it is the same, forget old ones."""
    key = secret("WEBUI_SECRET_KEY", args["secret_name"], optional=True)
    keep = " ".join(f"--keep-{word} {number}" for word, number in args["keep"].items())
    told = environment({"KIND": kind, "KEEP": keep, "IMAGE": args["image"]})
    result: dict[str, Input[str]] = {
        "BACKUP_OTLP_URL": args.get("otlp_url", ""),
        **otel_service("open-webui-backup", args["namespace"], "open-webui"),
    }
    both = ("/scratch", "/backup")
    return [
        _python(
            args,
            ["snapshot", "/data", "/scratch/snapshot", "/backup/image"],
            {"data": True, "backup": True, "scratch": False},
            [key],
        ),
        _restic(args, ["store", *both], {"backup": False, "scratch": False}, [*told, password]),
        _python(
            args,
            ["verify", "/scratch/manifest.json", "/scratch/restored"],
            {"scratch": True},
            [*environment(result), key],
        ),
        _restic(args, ["finish", *both], {"backup": False, "scratch": False}, [*told, password]),
    ]


def restore(args: BackupJobArgs, password: EnvVarArgsDict) -> list[ContainerArgsDict]:
    """Get a snapshot beside the data, and put it in their place if it is whole and fits."""
    mounts = {"data": False, "backup": False, "scratch": False}
    return [
        _restic(
            args,
            ["fetch", "/data", "/scratch"],
            mounts,
            [*environment({"SNAPSHOT": "latest"}), password],
        ),
        _python(
            args,
            ["restore", "/data/.restore", "/data", "/scratch/webui-secret-key"],
            {"data": False, "scratch": True},
            [secret("WEBUI_SECRET_KEY", args["secret_name"])],
        ),
    ]


def job(
    name: str,
    args: BackupJobArgs,
    steps: list[ContainerArgsDict],
    script: VolumeArgsDict,
    scratch: EmptyDirVolumeSourceArgsDict,
    tries: int,
    pod_labels: Mapping[str, str],
) -> JobSpecArgsDict:
    """One step after the other; the scratch space is gone with the pod, however it ends."""
    volumes: list[VolumeArgsDict] = [
        volume("data", args["data_claim"]),
        volume("backup", args["backup_claim"]),
        {"name": "scratch", "empty_dir": scratch},
        script,
    ]
    return {
        "backoff_limit": tries - 1,
        "template": {
            "metadata": {"labels": {**labels(name), **pod_labels}},
            "spec": {
                **pod(steps[-1], volumes, args.get("node")),
                "init_containers": steps[:-1],
                "restart_policy": "Never",
            },
        },
    }


def _python(
    args: BackupJobArgs,
    words: list[str],
    mounts: Mapping[str, bool],
    env: list[EnvVarArgsDict],
) -> ContainerArgsDict:
    command = ["python3", "-u", "/workload/backup.py"]
    return _container(words[0], args["image"], [*command, *words], mounts, env)


def _restic(
    args: BackupJobArgs,
    words: list[str],
    mounts: Mapping[str, bool],
    env: list[EnvVarArgsDict],
) -> ContainerArgsDict:
    command = ["sh", "/workload/repository.sh"]
    place = environment({"RESTIC_REPOSITORY": "/backup/repository", "TMPDIR": "/scratch"})
    return _container(words[0], args["restic_image"], [*command, *words], mounts, [*place, *env])


def _container(
    name: str,
    image: str,
    command: list[str],
    mounts: Mapping[str, bool],
    env: list[EnvVarArgsDict],
) -> ContainerArgsDict:
    """One step; `mounts` says of each volume whether it is read-only."""
    places: list[VolumeMountArgsDict] = [
        {"name": name, "mount_path": f"/{name}", "read_only": read_only}
        for name, read_only in mounts.items()
    ]
    program: VolumeMountArgsDict = {
        "name": "program",
        "mount_path": "/workload",
        "read_only": True,
    }
    return {
        "name": name,
        "image": image,
        "command": command,
        "env": env,
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            # restic's index, and files on their way; the page cache goes when it has to.
            "limits": {"memory": "1Gi"},
        },
        "security_context": RESTRICTED,
        "volume_mounts": [*places, program],
    }


def secret(key: str, secret: Input[str], *, optional: bool = False) -> EnvVarArgsDict:
    """A variable with the value that a Secret has of the same name."""
    reference: SecretKeySelectorArgsDict = {"name": secret, "key": key, "optional": optional}
    return {"name": key, "value_from": {"secret_key_ref": reference}}
