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

from components._kubernetes import (
    RESTRICTED,
    Telemetry,
    environment,
    labels,
    otel_service,
    pod,
    volume,
)


class BackupImages(TypedDict):
    """Images of a backup's containers, pinned."""

    open_webui: str
    """Open WebUI's, on which the programs run; another one is a new snapshot before it."""
    restic: str


class BackupClaims(TypedDict):
    """Claims of the two volumes."""

    data: Input[str]
    """The chat page's."""
    backup: Input[str]
    """Takes the backups."""


class BackupJobArgs(TypedDict):
    """What the Jobs need to know."""

    namespace: Input[str]
    """Namespace of the chat page."""
    images: BackupImages
    claims: BackupClaims
    secret_name: str
    """Secret with the chat page's `WEBUI_SECRET_KEY`; it may come later than the first backup."""
    keep: dict[str, int]
    """How many are kept, by restic's words `last`, `daily`, `weekly`, `monthly`."""
    scratch_size: str
    """Scratch space on the node's own disk: what all the data needs once."""
    telemetry: NotRequired[Telemetry]
    """Where the results are pushed. Default: nowhere."""
    node: NotRequired[str | None]
    """Host name of the node to run on. Default: the one with the volumes."""


def backup(kind: str, args: BackupJobArgs, password: EnvVarArgsDict) -> list[ContainerArgsDict]:
    """Take a snapshot, store it and get it back, prove that it is the same, forget old ones."""
    key = secret("WEBUI_SECRET_KEY", args["secret_name"], optional=True)
    keep = " ".join(f"--keep-{word} {number}" for word, number in args["keep"].items())
    told = environment({"KIND": kind, "KEEP": keep, "IMAGE": args["images"]["open_webui"]})
    result: dict[str, Input[str]] = {
        "BACKUP_OTLP_URL": args["telemetry"]["otlp_url"] if "telemetry" in args else "",
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
    tolerated: str | None = None,
) -> JobSpecArgsDict:
    """One step after the other; the scratch space is gone with the pod, however it ends.

    `tolerated` is the key of a taint on whose nodes its pods run all the same.
    """
    volumes: list[VolumeArgsDict] = [
        volume("data", args["claims"]["data"]),
        volume("backup", args["claims"]["backup"]),
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
                "tolerations": [{"key": tolerated, "operator": "Exists"}] if tolerated else None,
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
    return _container(words[0], args["images"]["open_webui"], [*command, *words], mounts, env)


def _restic(
    args: BackupJobArgs,
    words: list[str],
    mounts: Mapping[str, bool],
    env: list[EnvVarArgsDict],
) -> ContainerArgsDict:
    command = ["sh", "/workload/repository.sh"]
    place = environment({"RESTIC_REPOSITORY": "/backup/repository", "TMPDIR": "/scratch"})
    return _container(
        words[0], args["images"]["restic"], [*command, *words], mounts, [*place, *env]
    )


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
        # The last line says why it failed: `kubectl describe pod` shows it.
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": [*places, program],
    }


def secret(key: str, secret: Input[str], *, optional: bool = False) -> EnvVarArgsDict:
    """A variable with the value that a Secret has of the same name."""
    reference: SecretKeySelectorArgsDict = {"name": secret, "key": key, "optional": optional}
    return {"name": key, "value_from": {"secret_key_ref": reference}}
