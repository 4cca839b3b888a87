"""What the backups promise, as they are registered."""

import copy
from typing import Any

import pytest
from harness import Deployment, backup_config, deploy_program, deployed

from config import Settings

RAW = backup_config()
HOME = deploy_program("home", RAW)
JOB = "kubernetes:batch/v1:Job::open-webui-backup-before"
PAGE = "kubernetes:apps/v1:Deployment::open-webui-deployment"


def pod(lab: Deployment, name: str) -> dict[str, Any]:
    """The template of the pod of a CronJob, or of the Job before another image."""
    spec = lab[name].inputs["spec"]
    template: dict[str, Any] = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]
    return template


SCHEDULE = pod(HOME, "kubernetes:batch/v1:CronJob::open-webui-backup-schedule")
RESTORE = pod(HOME, "kubernetes:batch/v1:CronJob::open-webui-backup-restore")


def mounts(template: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """By container and volume, whether it may write there."""
    spec = template["spec"]
    return {
        it["name"]: {mount["name"]: not mount["readOnly"] for mount in it["volumeMounts"]}
        for it in [*spec["initContainers"], *spec["containers"]]
    }


def test_without_the_section_there_are_none_and_the_output_says_so() -> None:
    bare = deployed()

    assert not [key for key in bare.resources if "backup" in key]
    assert bare.outputs["backups"].startswith("none: ")
    assert HOME.outputs["backups"] == "every 24 h to /mnt/backup/homelab"
    assert "backup_password" in HOME.secret_outputs


def test_nothing_old_is_forgotten_before_the_new_one_is_proven() -> None:
    assert list(mounts(SCHEDULE)) == ["snapshot", "store", "verify", "finish"]


def test_no_backup_can_write_to_the_data_and_only_the_restore_does() -> None:
    assert "data" not in {
        volume
        for container in mounts(SCHEDULE).values()
        for volume, writable in container.items()
        if writable
    }
    assert mounts(RESTORE)["restore"]["data"]


def test_only_what_is_measured_leaves_the_pods() -> None:
    pushes = "homelab/pushes-metrics"
    policy = HOME["kubernetes:networking.k8s.io/v1:NetworkPolicy::open-webui-backup-policy"]

    assert policy.inputs["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policy.inputs["spec"].keys()
    assert (pushes in SCHEDULE["metadata"]["labels"], pushes in RESTORE["metadata"]["labels"]) == (
        True,
        False,
    )


def test_a_restore_runs_only_when_it_is_asked_for_and_keeps_the_key_off_the_disk() -> None:
    resource = HOME["kubernetes:batch/v1:CronJob::open-webui-backup-restore"].inputs["spec"]
    (scratch,) = [it for it in RESTORE["spec"]["volumes"] if it["name"] == "scratch"]

    assert resource["suspend"] is True
    assert resource["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert scratch["emptyDir"]["medium"] == "Memory"


def test_a_backup_that_lost_older_data_is_not_tried_again() -> None:
    schedule = HOME["kubernetes:batch/v1:CronJob::open-webui-backup-schedule"].inputs["spec"]
    spec = schedule["jobTemplate"]["spec"]

    assert spec["podFailurePolicy"]["rules"] == [
        {
            "action": "FailJob",
            # An exit code that restic does not have.
            "onExitCodes": {"containerName": "finish", "operator": "In", "values": [20]},
        }
    ]
    # The API refuses the rule with another one, and with the name of no container.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert [it["name"] for it in spec["template"]["spec"]["containers"]] == ["finish"]


def test_a_backup_that_hangs_ends_and_a_restore_is_left_to_its_person() -> None:
    def deadline(name: str) -> object:
        spec = HOME[f"kubernetes:batch/v1:{name}"].inputs["spec"]
        return spec.get("jobTemplate", {"spec": spec})["spec"].get("activeDeadlineSeconds")

    assert deadline("CronJob::open-webui-backup-schedule") == 12 * 3600
    assert deadline("Job::open-webui-backup-before") == 12 * 3600
    assert deadline("CronJob::open-webui-backup-restore") is None


def test_another_image_waits_for_a_snapshot_of_its_own() -> None:
    raw = copy.deepcopy(RAW)
    raw["webui"]["image"] = "ghcr.io/open-webui/open-webui:v99.0.0"
    newer = deploy_program("home", raw)
    names = [lab[JOB].inputs["metadata"]["name"] for lab in (HOME, newer)]

    assert len(set(names)) == 2
    assert "open-webui-backup-before" in newer[PAGE].dependencies
    raw["webui"]["cpu"] = 2
    assert deploy_program("home", raw)[JOB].inputs == newer[JOB].inputs


def test_the_password_is_generated_protected_and_only_referred_to() -> None:
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
def test_every_backup_of_the_last_day_is_kept(hours: int, cron: str, last: int) -> None:
    raw = copy.deepcopy(RAW)
    raw["webui"]["backup"]["hours"] = hours
    backup = Settings.model_validate(raw).webui.backup

    assert backup
    assert (backup.schedule, backup.keep["last"]) == (cron, last)


def test_the_backups_are_on_the_node_of_the_data() -> None:
    volumes = {
        resource.inputs["spec"]["claimRef"]["name"]: resource.inputs["spec"]["nodeAffinity"]
        for resource in HOME.of_kind("PersistentVolume")
    }

    assert volumes["backup"] == volumes["open-webui"]
