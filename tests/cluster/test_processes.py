"""The sandbox's processes: it ends only its own."""

import errno
import json
import os
import threading
from pathlib import Path
from subprocess import Popen

import pytest
from waiting import eventually

from sandbox.processes import MARK, Processes, SandboxError, locked, readable_errors


def test_a_reused_pid_is_left_alone(tmp_path: Path, bystander: Popen[bytes]) -> None:
    (tmp_path / "pids.json").write_text(json.dumps({"etcd": [bystander.pid, 1.0]}))
    processes = Processes(tmp_path)

    assert processes.alive() == {}
    processes.stop(["etcd"])
    assert bystander.poll() is None


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("deaf", ["/bin/sh", "-c", "trap '' TERM; echo up; sleep 600 & wait"], {})
    assert eventually(lambda: processes.last_line("deaf") == "up")
    (child,) = eventually(lambda: processes.alive()["deaf"].children())

    processes.stop(["deaf"], grace=0.2)

    assert processes.alive() == {}
    child.kill()


def test_an_unrecorded_process_of_this_folder_is_ended_and_no_other(
    tmp_path: Path, bystander: Popen[bytes]
) -> None:
    ours, theirs = Processes(tmp_path / "run"), Processes(tmp_path / "run-of-another")
    for processes, name in ((ours, "run"), (theirs, "run-of-another")):
        (tmp_path / name).mkdir()
        processes.start("sleep", ["sleep", "600"], {"PATH": os.defpath, MARK: str(tmp_path / name)})
    (unrecorded,), (foreign,) = ours.alive().values(), theirs.alive().values()
    ours.end_unrecorded()
    assert unrecorded.is_running()
    (tmp_path / "run" / "pids.json").unlink()

    ours.end_unrecorded()

    assert not unrecorded.is_running()
    assert foreign.is_running()
    assert bystander.poll() is None
    theirs.stop(["sleep"])


def test_a_second_command_in_the_same_folder_waits_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def second_command() -> None:
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second_command)
        thread.start()
        message = f"waiting for process {os.getpid()}, which works in {tmp_path}"
        assert eventually(lambda: message in capsys.readouterr().out)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "etcd.log")
    message = r"^etcd\.log: No space left.*free some space"
    with pytest.raises(SandboxError, match=message), readable_errors(tmp_path):
        raise full
