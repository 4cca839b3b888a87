"""Job specs of a backup and of a restore, whose steps are init containers."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from pulumi import Input
from pulumi_kubernetes.batch.v1 import JobSpecArgsDict
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EmptyDirVolumeSourceArgsDict,
    EnvVarArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from components._kubernetes import (
    RESTRICTED,
    Telemetry,
    environment,
    labels,
    otel_service,
    pod_spec,
    secret_variable,
    volume,
)

DEADLINE = 12 * 3600
"""`activeDeadlineSeconds` of a backup: a terabyte at 23 MB/s."""


class BackupImages(TypedDict):
    """Images of a backup's containers, pinned."""

    open_webui: str
    """Image of Open WebUI, which also runs the programs; a backup precedes a change of it."""
    restic: str


class BackupClaims(TypedDict):
    """Claims of the two volumes."""

    data: Input[str]
    """Volume of Open WebUI."""
    backup: Input[str]
    """Volume of the restic repository."""


class BackupJobArgs(TypedDict):
    """Inputs of the Jobs."""

    namespace: Input[str]
    """Namespace of Open WebUI."""
    images: BackupImages
    claims: BackupClaims
    secret_name: str
    """Secret with `WEBUI_SECRET_KEY`; the first backup may run before it exists."""
    keep: dict[str, int]
    """Values of restic's `--keep-…` options: `last`, `daily`, `weekly`, `monthly`."""
    scratch_size: str
    """Size limit of the scratch `emptyDir`, which holds all data once."""
    telemetry: Telemetry
    node: NotRequired[str | None]
    """Host name of the node to run on. Default: the node of the volumes."""


def backup(tag: str, args: BackupJobArgs, password: EnvVarArgsDict) -> list[ContainerArgsDict]:
    """Return the steps of a backup: snapshot, store and fetch, verify, forget old snapshots.

    `tag` is the snapshot's tag, `scheduled` or `upgrade`.
    """
    key = secret_variable("WEBUI_SECRET_KEY", args["secret_name"], optional=True)
    keep = " ".join(f"--keep-{option} {number}" for option, number in args["keep"].items())
    env = environment({"KIND": tag, "KEEP": keep, "IMAGE": args["images"]["open_webui"]})
    metrics: dict[str, Input[str]] = {
        "BACKUP_OTLP_URL": args["telemetry"]["otlp_url"],
        **otel_service("open-webui-backup", args["namespace"], "open-webui"),
    }
    folders = ("/scratch", "/backup")
    steps = [
        _python(
            args,
            ["snapshot", "/data", "/scratch/snapshot", "/backup/image"],
            {"data": True, "backup": True, "scratch": False},
            [key],
        ),
        _restic(args, ["store", *folders], {"backup": False, "scratch": False}, [*env, password]),
        _python(
            args,
            ["verify", "/scratch/manifest.json", "/scratch/restored"],
            {"scratch": False},
            [*environment(metrics), key],
        ),
    ]
    finish = _restic(
        args, ["finish", *folders], {"backup": False, "scratch": False}, [*env, password]
    )
    # A failed step's last line is printed by `finish`, because Pulumi shows no init containers.
    wrapper = ["sh", "/workload/step.sh", "/scratch"]
    for step in steps:
        step |= {"command": wrapper, "args": step["command"]}
    return [*steps, finish]


def restore(args: BackupJobArgs, password: EnvVarArgsDict) -> list[ContainerArgsDict]:
    """Return the steps of a restore: fetch a snapshot, verify it, and replace the data with it."""
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
            [secret_variable("WEBUI_SECRET_KEY", args["secret_name"])],
        ),
    ]


def job(
    name: str,
    args: BackupJobArgs,
    steps: list[ContainerArgsDict],
    script: VolumeArgsDict,
    scratch: EmptyDirVolumeSourceArgsDict,
    attempts: int,
    pod_labels: Mapping[str, str],
    tolerated: str | None = None,
) -> JobSpecArgsDict:
    """Return a Job spec that runs the steps in order; `tolerated` is the key of a taint."""
    volumes: list[VolumeArgsDict] = [
        volume("data", args["claims"]["data"]),
        volume("backup", args["claims"]["backup"]),
        {"name": "scratch", "empty_dir": scratch},
        script,
    ]
    return {
        "backoff_limit": attempts - 1,
        # A backup that hangs would block all later ones; a restore is watched by a person.
        "active_deadline_seconds": None if tolerated else DEADLINE,
        "template": {
            "metadata": {"labels": {**labels(name), **pod_labels}},
            "spec": {
                **pod_spec(steps[-1], volumes, args.get("node")),
                "init_containers": steps[:-1],
                "restart_policy": "Never",
                "tolerations": [{"key": tolerated, "operator": "Exists"}] if tolerated else None,
            },
        },
    }


def _python(
    args: BackupJobArgs,
    command: list[str],
    mounts: Mapping[str, bool],
    env: list[EnvVarArgsDict],
) -> ContainerArgsDict:
    program = ["python3", "-u", "/workload/backup.py"]
    return _container(command[0], args["images"]["open_webui"], [*program, *command], mounts, env)


def _restic(
    args: BackupJobArgs,
    command: list[str],
    mounts: Mapping[str, bool],
    env: list[EnvVarArgsDict],
) -> ContainerArgsDict:
    program = ["sh", "/workload/repository.sh"]
    env = [*environment({"RESTIC_REPOSITORY": "/backup/repository", "TMPDIR": "/scratch"}), *env]
    return _container(command[0], args["images"]["restic"], [*program, *command], mounts, env)


def _container(
    name: str,
    image: str,
    command: list[str],
    mounts: Mapping[str, bool],
    env: list[EnvVarArgsDict],
) -> ContainerArgsDict:
    """Return the container of a step; `mounts` has whether each volume is read-only."""
    volume_mounts: list[VolumeMountArgsDict] = [
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
            # For restic's index and buffers; the page cache is reclaimed at the limit.
            "limits": {"memory": "1Gi"},
        },
        "security_context": RESTRICTED,
        # `pulumi up` and `kubectl describe pod` then print the last line of a failed Job's log.
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": [*volume_mounts, program],
    }
