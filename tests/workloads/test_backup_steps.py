"""The pods of the backups with a scripted restic."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from backup_box import Box, before, cron, steps

RESTIC = """#!/bin/sh
case "$*" in *"--retry-lock "*) ;; *) echo "Fatal: already locked" >&2; exit 11 ;; esac
case " $* " in *" $FAILS "*) echo "Fatal: no $FAILS today" >&2; exit 1 ;; esac
case "$*" in
*" check "*) [ ! -e "$RESTIC_REPOSITORY.damaged" ] ;;
*" repair snapshots "*) rm "$RESTIC_REPOSITORY.damaged" ;;
*" backup "*) cp -r . "$RESTIC_REPOSITORY" && echo '{"snapshot_id":"1a"}' ;;
*" restore "*)
  for target; do :; done
  cp -r "$RESTIC_REPOSITORY" "$target" && rm "$target/manifest.json" ;;
*" prune"*) echo pruned ;;
esac
"""
"""Fails without --retry-lock, and in the command $FAILS; the file `.damaged` means damage."""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """Open WebUI's data, and the scripted restic."""
    restic = tmp_path / "bin/restic"
    restic.parent.mkdir()
    restic.write_text(RESTIC)
    restic.chmod(0o755)
    box = Box(tmp_path / "box", restic, Path(sys.executable))
    (box.mounts["backup"] / "image").write_text("page:1")
    with closing(sqlite3.connect(box.mounts["data"] / "webui.db")) as base:
        base.execute("CREATE TABLE alembic_version (version_num)")
        base.execute("INSERT INTO alembic_version VALUES ('aaaa00000001')")
        base.commit()
    return box


@pytest.mark.parametrize("kind", ["scheduled", "upgrade"])
@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("snapshot", "snapshot failed: WEBUI_SECRET_KEY: missing; data encrypted with"),
        ("cat", "Fatal: no cat today"),
        ("backup", "Fatal: no backup today"),
        ("restore", "Fatal: no restore today"),
        ("verify", "verify failed: webui-secret-key differs from the snapshot"),
    ],
)
def test_the_last_container_prints_the_reason_whichever_step_failed(
    box: Box, kind: str, fails: str, reason: str
) -> None:
    pod = (
        before(box.deployment)
        if kind == "upgrade"
        else cron(box.deployment, "open-webui-backup-schedule")
    )
    box.empty_scratch()
    results = {}
    for container in steps(pod):
        more = {"FAILS": fails}
        if container["name"] == fails:
            more["WEBUI_SECRET_KEY"] = "" if fails == "snapshot" else "another"
        process = box.step(container, **more)
        results[container["name"]] = (process.communicate(timeout=60)[0], process.returncode)

    # A kubelet starts no container after an init container that has failed.
    assert [code for _, code in results.values()] == [0, 0, 0, 1]
    output = results["finish"][0]
    assert len(output.splitlines()) == 1
    assert output.startswith(reason)
    # The failed step has printed it, too.
    assert sum(output in log for log, _ in results.values()) == 2
    assert (box.mounts["backup"] / "image").read_text() == "page:1"


def test_after_a_repair_the_job_fails_without_a_retry(
    box: Box,
) -> None:
    registered = box.deployment["kubernetes:batch/v1:CronJob::open-webui-backup-schedule"].inputs
    spec = registered["spec"]["jobTemplate"]["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    (box.mounts["backup"] / "repository.damaged").touch()
    codes: list[int] = []
    # As the Job controller does.
    while len(codes) <= spec["backoffLimit"]:
        code, output = box.run(spec["template"]["spec"], FAILS="nothing")
        codes.append(code)
        if code == 0 or code in rule["onExitCodes"]["values"]:
            break

    assert rule["action"] == "FailJob"
    assert codes[-1] != 0, output
    assert output.splitlines()[-1] == (
        "stored; but parts of older backups were damaged and are lost: docs/runbook.md#backupfailed"
    )
    assert box.run(spec["template"]["spec"], FAILS="nothing")[0] == 0


def test_the_file_image_is_replaced_because_root_may_have_written_it(box: Box) -> None:
    """The pod cannot write a file of root's, but remove it from a directory of its own."""
    image = box.mounts["backup"] / "image"
    first = image.with_name("the same file")
    first.hardlink_to(image)

    code, output = box.run(before(box.deployment), FAILS="nothing")

    assert code == 0, output
    assert image.read_text().startswith("ghcr.io/open-webui/open-webui:")
    assert first.read_text() == "page:1"


def test_a_prune_that_fails_without_damage_fails_the_backup(box: Box) -> None:
    code, output = box.run(cron(box.deployment, "open-webui-backup-schedule"), FAILS="prune")

    assert code == 1, output
    assert output.splitlines()[-1] == "Fatal: no prune today"


def test_a_failed_fetch_leaves_no_files_on_the_data_disk(box: Box) -> None:
    assert box.run(cron(box.deployment, "open-webui-backup-schedule"), FAILS="nothing")[0] == 0

    code, output = box.run(cron(box.deployment, "open-webui-backup-restore"), FAILS="dump")

    assert (code, output) == (1, "Fatal: no dump today\n")
    assert not (box.mounts["data"] / ".restore").exists()


def test_a_killed_restic_fails_the_backup(box: Box, tmp_path: Path) -> None:
    (tmp_path / "bin/restic").write_text("#!/bin/sh\necho half of it; kill -KILL $$\n")

    code, output = box.run(cron(box.deployment, "open-webui-backup-schedule"))

    assert code == 1
    # The shell's message.
    assert "Killed" in output.splitlines()[-1]
