"""That no other process is ever ended, and what is said when the disk is no good."""

import errno
import json
import os
import threading
from pathlib import Path
from subprocess import Popen

import pytest
from waiting import eventually

from sandbox.processes import MARK, Processes, SandboxError, locked, readable_errors


def test_a_pid_that_another_process_has_now_is_left_alone(
    tmp_path: Path, bystander: Popen[bytes]
) -> None:
    (tmp_path / "pids.json").write_text(json.dumps({"etcd": [bystander.pid, 1.0]}))
    processes = Processes(tmp_path)

    assert processes.alive() == {}
    processes.stop(["etcd"])
    assert bystander.poll() is None


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("deaf", ["/bin/sh", "-c", "trap '' TERM; echo up; sleep 600 & wait"], {})
    assert eventually(lambda: processes.last_line("deaf") == "up")
    (child,) = eventually(lambda: processes.alive()["deaf"].children())

    processes.stop(["deaf"], grace=0.2)

    assert processes.alive() == {}
    child.kill()


def test_a_process_that_the_record_has_lost_is_ended_and_no_other(
    tmp_path: Path, bystander: Popen[bytes]
) -> None:
    ours, theirs = Processes(tmp_path / "run"), Processes(tmp_path / "run-of-another")
    for processes, name in ((ours, "run"), (theirs, "run-of-another")):
        (tmp_path / name).mkdir()
        processes.start("sleep", ["sleep", "600"], {"PATH": os.defpath, MARK: str(tmp_path / name)})
    (lost,), (kept,) = ours.alive().values(), theirs.alive().values()
    ours.end_unrecorded()
    assert lost.is_running()
    (tmp_path / "run" / "pids.json").unlink()

    ours.end_unrecorded()

    assert not lost.is_running()
    assert kept.is_running()
    assert bystander.poll() is None
    theirs.stop(["sleep"])


def test_a_second_command_in_the_same_folder_says_so_and_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def other() -> None:
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        said = f"waiting for process {os.getpid()}, which works in {tmp_path}"
        assert eventually(lambda: said in capsys.readouterr().out)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_full_disk_is_named_in_one_line(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "etcd.log")
    said = r"^etcd\.log: No space left.*free some space"
    with pytest.raises(SandboxError, match=said), readable_errors(tmp_path):
        raise full
