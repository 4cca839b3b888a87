"""The objects of the backups."""

from typing import Any

import pytest
from harness import Deployment, backup_config, deploy_program, deployed

from config import Settings

JOB = "kubernetes:batch/v1:Job::open-webui-backup-before"
PAGE = "kubernetes:apps/v1:Deployment::open-webui-deployment"


@pytest.fixture
def home() -> Deployment:
    """The stack `home` with backups."""
    return deployed("backups")


def template(home: Deployment, name: str) -> dict[str, Any]:
    """Return the pod template of the CronJob `schedule` or `restore`."""
    cron_job = home[f"kubernetes:batch/v1:CronJob::open-webui-backup-{name}"].inputs["spec"]
    return dict(cron_job["jobTemplate"]["spec"]["template"])


def mounts(template: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """Return whether a volume is writable, by container and volume."""
    spec = template["spec"]
    return {
        container["name"]: {
            mount["name"]: not mount["readOnly"] for mount in container["volumeMounts"]
        }
        for container in [*spec["initContainers"], *spec["containers"]]
    }


def test_without_webui_backup_there_are_no_backup_objects(home: Deployment) -> None:
    bare = deployed()

    assert not [key for key in bare.resources if "backup" in key]
    assert bare.outputs["backups"].startswith("none: ")
    assert home.outputs["backups"] == "every 24 h to /mnt/backup/homelab"
    assert "backup_password" in home.secret_outputs


def test_only_the_restore_mounts_the_data_writable(home: Deployment) -> None:
    assert "data" not in {
        volume
        for container in mounts(template(home, "schedule")).values()
        for volume, writable in container.items()
        if writable
    }
    assert mounts(template(home, "restore"))["restore"]["data"]


def test_backup_pods_reach_only_prometheus(home: Deployment) -> None:
    pushes = "homelab/pushes-metrics"
    policy = home["kubernetes:networking.k8s.io/v1:NetworkPolicy::open-webui-backup-policy"]

    assert policy.inputs["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policy.inputs["spec"].keys()
    assert pushes in template(home, "schedule")["metadata"]["labels"]
    assert pushes not in template(home, "restore")["metadata"]["labels"]


def test_the_restore_is_suspended_and_keeps_the_secret_key_in_memory(home: Deployment) -> None:
    cron_job = home["kubernetes:batch/v1:CronJob::open-webui-backup-restore"].inputs["spec"]
    volumes = cron_job["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    (scratch,) = [volume for volume in volumes if volume["name"] == "scratch"]

    assert cron_job["suspend"] is True
    assert cron_job["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert scratch["emptyDir"]["medium"] == "Memory"


def test_backups_have_a_deadline_and_the_restore_has_none(home: Deployment) -> None:
    def deadline(name: str) -> object:
        spec = home[f"kubernetes:batch/v1:{name}"].inputs["spec"]
        return spec.get("jobTemplate", {"spec": spec})["spec"].get("activeDeadlineSeconds")

    assert deadline("CronJob::open-webui-backup-schedule") == 12 * 3600
    assert deadline("Job::open-webui-backup-before") == 12 * 3600
    assert deadline("CronJob::open-webui-backup-restore") is None


def test_another_image_waits_for_a_new_snapshot(home: Deployment) -> None:
    raw = backup_config()
    raw["webui"]["image"] = "ghcr.io/open-webui/open-webui:v99.0.0"
    newer = deploy_program("home", raw)
    names = [deployment[JOB].inputs["metadata"]["name"] for deployment in (home, newer)]

    assert len(set(names)) == 2
    assert "open-webui-backup-before" in newer[PAGE].dependencies
    raw["webui"]["cpu"] = 2
    assert deploy_program("home", raw)[JOB].inputs == newer[JOB].inputs


def test_the_repository_password_is_protected_and_only_in_a_secret(home: Deployment) -> None:
    password = home["random:index/randomPassword:RandomPassword::open-webui-backup-password"]

    assert password.protect
    assert home["kubernetes:core/v1:Secret::open-webui-backup-secret"].secrets
    for name in ("schedule", "restore"):
        spec = template(home, name)["spec"]
        for container in [*spec["initContainers"], *spec["containers"]]:
            for variable in container["env"]:
                assert ("valueFrom" in variable) == (
                    variable["name"] in ("RESTIC_PASSWORD", "WEBUI_SECRET_KEY")
                )


@pytest.mark.parametrize(("hours", "cron", "last"), [(24, "0 3 * * *", 1), (6, "0 */6 * * *", 4)])
def test_all_backups_of_the_last_24_hours_are_kept(hours: int, cron: str, last: int) -> None:
    raw = backup_config()
    raw["webui"]["backup"]["hours"] = hours
    backup = Settings.model_validate(raw).webui.backup

    assert backup
    assert (backup.schedule, backup.keep["last"]) == (cron, last)


def test_the_backups_are_on_the_node_of_the_data(home: Deployment) -> None:
    volumes = {
        volume.inputs["spec"]["claimRef"]["name"]: volume.inputs["spec"]["nodeAffinity"]
        for volume in home.of_kind("PersistentVolume")
    }

    assert volumes["backup"] == volumes["open-webui"]
