"""The sandbox's processes: it ends only its own."""

import errno
import os
import threading
from pathlib import Path
from subprocess import Popen

import pytest
from waiting import eventually

from sandbox.processes import MARK, Processes, SandboxError, locked, readable_errors


def test_a_process_that_ignores_sigterm_is_killed_with_its_child(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("deaf", ["/bin/sh", "-c", "trap '' TERM; echo up; sleep 600 & wait"], {})
    assert eventually(lambda: processes.last_line("deaf") == "up")

    processes.stop(["deaf"], grace=0.2)

    # Its child has the same name.
    assert processes.alive() == {}


def test_a_process_that_becomes_another_program_again_and_again_has_not_ended(
    tmp_path: Path,
) -> None:
    again = tmp_path / "again"
    again.write_text('#!/bin/sh\n[ $1 -eq 0 ] || exec "$0" $(($1 - 1))\necho end\nexec sleep 600\n')
    again.chmod(0o755)
    processes = Processes(tmp_path)
    processes.start("again", [again, "3999"], {"PATH": os.defpath})

    def ask() -> None:
        if processes.last_line("again") != "end":
            raise ConnectionError

    processes.retry("again", ask, 300)
    processes.stop(["again"])


def test_a_process_without_a_name_in_this_folder_is_ended_and_no_other(
    tmp_path: Path, bystander: Popen[bytes]
) -> None:
    ours, theirs = Processes(tmp_path / "run"), Processes(tmp_path / "run-of-another")
    for processes, name in ((ours, "run"), (theirs, "run-of-another")):
        (tmp_path / name).mkdir()
        processes.start("sleep", ["sleep", "600"], {"PATH": os.defpath})
    (named,), (foreign,) = ours.alive().values(), theirs.alive().values()
    environment = {"PATH": os.defpath, MARK: str(tmp_path / "run")}
    with Popen(["sleep", "600"], env=environment) as unnamed:
        ours.stop([""])

        assert unnamed.poll() is not None
    assert named.is_running()
    assert foreign.is_running()
    assert bystander.poll() is None
    ours.stop(["sleep"])
    assert not named.is_running()
    assert foreign.is_running()
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


def test_a_command_that_must_not_wait_names_the_process_to_end(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(SandboxError, match=rf"process {os.getpid()} works in it; end it first"),
        locked(tmp_path, wait=False),
    ):
        pass


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "etcd.log")
    message = r"^etcd\.log: No space left.*want a writable folder with free space"
    with pytest.raises(SandboxError, match=message), readable_errors(tmp_path):
        raise full
