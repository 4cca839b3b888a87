"""The objects of the backups."""

import copy
from typing import Any

import pytest
from harness import Deployment, backup_config, deploy_program, deployed

from config import Settings

RAW = backup_config()
HOME = deploy_program("home", RAW)
JOB = "kubernetes:batch/v1:Job::open-webui-backup-before"
PAGE = "kubernetes:apps/v1:Deployment::open-webui-deployment"


def pod(deployment: Deployment, name: str) -> dict[str, Any]:
    """Return the pod template of a CronJob or Job."""
    spec = deployment[name].inputs["spec"]
    template: dict[str, Any] = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]
    return template


SCHEDULE = pod(HOME, "kubernetes:batch/v1:CronJob::open-webui-backup-schedule")
RESTORE = pod(HOME, "kubernetes:batch/v1:CronJob::open-webui-backup-restore")


def mounts(template: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """Return whether a volume is writable, by container and volume."""
    spec = template["spec"]
    return {
        container["name"]: {
            mount["name"]: not mount["readOnly"] for mount in container["volumeMounts"]
        }
        for container in [*spec["initContainers"], *spec["containers"]]
    }


def test_without_webui_backup_there_are_no_backup_objects() -> None:
    bare = deployed()

    assert not [key for key in bare.resources if "backup" in key]
    assert bare.outputs["backups"].startswith("none: ")
    assert HOME.outputs["backups"] == "every 24 h to /mnt/backup/homelab"
    assert "backup_password" in HOME.secret_outputs


def test_only_the_restore_mounts_the_data_writable() -> None:
    assert "data" not in {
        volume
        for container in mounts(SCHEDULE).values()
        for volume, writable in container.items()
        if writable
    }
    assert mounts(RESTORE)["restore"]["data"]


def test_backup_pods_reach_only_prometheus() -> None:
    pushes = "homelab/pushes-metrics"
    policy = HOME["kubernetes:networking.k8s.io/v1:NetworkPolicy::open-webui-backup-policy"]

    assert policy.inputs["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policy.inputs["spec"].keys()
    assert (pushes in SCHEDULE["metadata"]["labels"], pushes in RESTORE["metadata"]["labels"]) == (
        True,
        False,
    )


def test_the_restore_is_suspended_and_keeps_the_secret_key_in_memory() -> None:
    cron_job = HOME["kubernetes:batch/v1:CronJob::open-webui-backup-restore"].inputs["spec"]
    (scratch,) = [volume for volume in RESTORE["spec"]["volumes"] if volume["name"] == "scratch"]

    assert cron_job["suspend"] is True
    assert cron_job["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert scratch["emptyDir"]["medium"] == "Memory"


def test_backups_have_a_deadline_and_the_restore_has_none() -> None:
    def deadline(name: str) -> object:
        spec = HOME[f"kubernetes:batch/v1:{name}"].inputs["spec"]
        return spec.get("jobTemplate", {"spec": spec})["spec"].get("activeDeadlineSeconds")

    assert deadline("CronJob::open-webui-backup-schedule") == 12 * 3600
    assert deadline("Job::open-webui-backup-before") == 12 * 3600
    assert deadline("CronJob::open-webui-backup-restore") is None


def test_another_image_waits_for_a_new_snapshot() -> None:
    raw = copy.deepcopy(RAW)
    raw["webui"]["image"] = "ghcr.io/open-webui/open-webui:v99.0.0"
    newer = deploy_program("home", raw)
    names = [deployment[JOB].inputs["metadata"]["name"] for deployment in (HOME, newer)]

    assert len(set(names)) == 2
    assert "open-webui-backup-before" in newer[PAGE].dependencies
    raw["webui"]["cpu"] = 2
    assert deploy_program("home", raw)[JOB].inputs == newer[JOB].inputs


def test_the_repository_password_is_protected_and_only_in_a_secret() -> None:
    password = HOME["random:index/randomPassword:RandomPassword::open-webui-backup-password"]

    assert password.protect
    assert HOME["kubernetes:core/v1:Secret::open-webui-backup-secret"].secrets
    for template in (SCHEDULE, RESTORE):
        for container in [*template["spec"]["initContainers"], *template["spec"]["containers"]]:
            for variable in container["env"]:
                assert ("valueFrom" in variable) == (
                    variable["name"] in ("RESTIC_PASSWORD", "WEBUI_SECRET_KEY")
                )


@pytest.mark.parametrize(("hours", "cron", "last"), [(24, "0 3 * * *", 1), (6, "0 */6 * * *", 4)])
def test_all_backups_of_the_last_24_hours_are_kept(hours: int, cron: str, last: int) -> None:
    raw = copy.deepcopy(RAW)
    raw["webui"]["backup"]["hours"] = hours
    backup = Settings.model_validate(raw).webui.backup

    assert backup
    assert (backup.schedule, backup.keep["last"]) == (cron, last)


def test_the_backups_are_on_the_node_of_the_data() -> None:
    volumes = {
        volume.inputs["spec"]["claimRef"]["name"]: volume.inputs["spec"]["nodeAffinity"]
        for volume in HOME.of_kind("PersistentVolume")
    }

    assert volumes["backup"] == volumes["open-webui"]
