"""Backups of Open WebUI's data, on a schedule and before upgrades, and their restore."""

import hashlib
from pathlib import Path
from typing import NotRequired

from pulumi import ComponentResource, CustomTimeouts, Output, ResourceOptions
from pulumi_kubernetes.batch.v1 import CronJob, Job, PodFailurePolicyArgsDict
from pulumi_kubernetes.core.v1 import (
    ConfigMap,
    EmptyDirVolumeSourceArgsDict,
    Secret,
)
from pulumi_kubernetes.meta.v1 import ObjectMetaArgsDict
from pulumi_random import RandomPassword

from components._kubernetes import (
    SLOW_PULL,
    files,
    labels,
    policy,
    read_files,
    secret_variable,
    selector,
)
from components.open_webui.backup_jobs import BackupJobArgs, backup, job, restore

RESTORE_TAINT = "homelab/restore"
"""Taint of the nodes during a restore, which only the restore's pods tolerate."""

PROGRAMS = read_files(Path(__file__).parent / "programs", "backup.py", "repository.sh", "step.sh")


class OpenWebUIBackupArgs(BackupJobArgs):
    """Inputs of an `OpenWebUIBackup`."""

    schedule: str
    """Cron schedule."""
    protect: NotRequired[bool]
    """Protect the password, without which no backup can be read. Default: false."""


class OpenWebUIBackup(ComponentResource):
    """A backup on a schedule and before each change of the image, and a suspended restore."""

    password: Output[str]
    """Password of the restic repository (secret)."""
    pre_upgrade: Job
    """The backup before a changed image is rolled out; the Deployment must depend on it."""

    def __init__(
        self, name: str, args: OpenWebUIBackupArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("homelab:index:OpenWebUIBackup", name, {}, opts)
        namespace = args["namespace"]
        metadata: ObjectMetaArgsDict = {
            "name": name,
            "namespace": namespace,
            "labels": labels(name),
        }
        child = ResourceOptions(parent=self)

        protected = ResourceOptions(parent=self, protect=args.get("protect", False))
        self.password = RandomPassword(
            f"{name}-password", length=40, special=False, opts=protected
        ).result
        password_secret = Secret(
            f"{name}-secret",
            metadata=metadata,
            string_data={"RESTIC_PASSWORD": self.password},
            opts=child,
        )
        program = ConfigMap(f"{name}-program", metadata=metadata, data=PROGRAMS, opts=child)
        # The only egress is to `telemetry`, by a policy for its `pod_labels`.
        policy(name, namespace, selector(name), self, ingress=[], egress=[])

        password = secret_variable("RESTIC_PASSWORD", password_secret.metadata["name"])
        script = files("program", program)
        scratch: EmptyDirVolumeSourceArgsDict = {"size_limit": args["scratch_size"]}
        # It has only the secret key, which must not be written to a disk.
        memory: EmptyDirVolumeSourceArgsDict = {"medium": "Memory", "size_limit": "1Mi"}
        pod_labels = args["telemetry"]["pod_labels"]
        scheduled, upgrade = (
            job(name, args, backup(tag, args, password), script, scratch, 2, pod_labels)
            for tag in ("scheduled", "upgrade")
        )
        steps = restore(args, password)
        on_demand = job(name, args, steps, script, memory, 1, {}, RESTORE_TAINT)
        # 20: older backups lost data (repository.sh). A second pod would succeed, and hide that.
        fail: PodFailurePolicyArgsDict = {
            "rules": [
                {
                    "action": "FailJob",
                    "on_exit_codes": {
                        "container_name": "finish",
                        "operator": "In",
                        "values": [20],
                    },
                }
            ]
        }
        CronJob(
            f"{name}-schedule",
            metadata=metadata,
            spec={
                "schedule": args["schedule"],
                "concurrency_policy": "Forbid",
                "job_template": {"spec": {**scheduled, "pod_failure_policy": fail}},
            },
            opts=child,
        )
        fingerprint = hashlib.sha256(args["images"]["open_webui"].encode()).hexdigest()[:8]
        self.pre_upgrade = Job(
            f"{name}-before",
            metadata={
                "name": f"{name}-before-{fingerprint}",
                "namespace": namespace,
                "labels": labels(name),
                # The next `pulumi up` runs a failed Job again.
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
            # Suspended: ops/restore.py creates a Job from it.
            spec={
                "schedule": "0 0 1 1 *",
                "suspend": True,
                "job_template": {"spec": on_demand},
            },
            opts=child,
        )
        self.register_outputs({})
