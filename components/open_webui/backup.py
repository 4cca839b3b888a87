"""Backups of the chat page's data: taken, proven, forgotten when old, and the way back."""

import hashlib
from pathlib import Path
from typing import NotRequired

from pulumi import ComponentResource, CustomTimeouts, Output, ResourceOptions
from pulumi_kubernetes.batch.v1 import CronJob, Job
from pulumi_kubernetes.core.v1 import (
    ConfigMap,
    EmptyDirVolumeSourceArgsDict,
    Secret,
    VolumeArgsDict,
)
from pulumi_kubernetes.meta.v1 import ObjectMetaArgsDict
from pulumi_random import RandomPassword

from components._kubernetes import (
    SLOW_PULL,
    labels,
    policy,
    selector,
    texts,
)
from components.open_webui.backup_jobs import BackupJobArgs, backup, job, restore, secret

RESTORE_TAINT = "homelab/restore"
"""Taint of the nodes during a restore, which the restore's pods alone tolerate."""

PROGRAMS = texts(Path(__file__).parent / "programs", "backup.py", "repository.sh")


class OpenWebUIBackupArgs(BackupJobArgs):
    """What the backups need to know."""

    schedule: str
    """When, as cron writes it."""
    protect: NotRequired[bool]
    """Refuse to lose the password, without which no backup can be read. Default: false."""


class OpenWebUIBackup(ComponentResource):
    """A scheduled backup, one before every image change, and a restore that waits to be asked."""

    password: Output[str]
    """What the backups are encrypted with (secret)."""
    before: Job
    """The snapshot before `image` is rolled out; what runs that image has to wait for it."""

    def __init__(
        self, name: str, args: OpenWebUIBackupArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("homelab:index:OpenWebUIBackup", name, {}, opts)
        namespace = args["namespace"]
        about: ObjectMetaArgsDict = {"name": name, "namespace": namespace, "labels": labels(name)}
        child = ResourceOptions(parent=self)

        kept = ResourceOptions(parent=self, protect=args.get("protect", False))
        self.password = RandomPassword(
            f"{name}-password", length=40, special=False, opts=kept
        ).result
        kept_secret = Secret(
            f"{name}-secret",
            metadata=about,
            string_data={"RESTIC_PASSWORD": self.password},
            opts=child,
        )
        program = ConfigMap(f"{name}-program", metadata=about, data=PROGRAMS, opts=child)
        # No way out but the one that `pod_labels` open.
        policy(name, namespace, selector(name), self, ingress=[], egress=[])

        password = secret("RESTIC_PASSWORD", kept_secret.metadata["name"])
        script: VolumeArgsDict = {
            "name": "program",
            "config_map": {"name": program.metadata["name"]},
        }
        scratch: EmptyDirVolumeSourceArgsDict = {"size_limit": args["scratch_size"]}
        # Only the secret key is there, which has no business on a disk.
        memory: EmptyDirVolumeSourceArgsDict = {"medium": "Memory", "size_limit": "1Mi"}
        pushes = args["telemetry"]["pod_labels"] if "telemetry" in args else {}
        scheduled, upgrade = (
            job(name, args, backup(kind, args, password), script, scratch, 2, pushes)
            for kind in ("scheduled", "upgrade")
        )
        steps = restore(args, password)
        on_demand = job(name, args, steps, script, memory, 1, {}, RESTORE_TAINT)
        CronJob(
            f"{name}-schedule",
            metadata=about,
            spec={
                "schedule": args["schedule"],
                "concurrency_policy": "Forbid",
                "job_template": {"spec": scheduled},
            },
            opts=child,
        )
        fingerprint = hashlib.sha256(args["images"]["open_webui"].encode()).hexdigest()[:8]
        self.before = Job(
            f"{name}-before",
            metadata={
                "name": f"{name}-before-{fingerprint}",
                "namespace": namespace,
                "labels": labels(name),
                # One that failed runs again on the next up.
                "annotations": {"pulumi.com/replaceUnready": "true"},
            },
            spec=upgrade,
            opts=ResourceOptions(
                parent=self, custom_timeouts=CustomTimeouts(create=SLOW_PULL, update=SLOW_PULL)
            ),
        )
        CronJob(
            f"{name}-restore",
            metadata={
                "name": f"{name}-restore",
                "namespace": namespace,
                "labels": labels(name),
            },
            # Never by itself: ops/restore.py makes a Job of it.
            spec={
                "schedule": "0 0 1 1 *",
                "suspend": True,
                "job_template": {"spec": on_demand},
            },
            opts=child,
        )
        self.register_outputs({})
