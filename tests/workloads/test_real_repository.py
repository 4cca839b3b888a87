"""What the real restic makes of repository.sh: room is freed, and a killed run blocks nobody."""

import os
import subprocess
from pathlib import Path

import pytest
from harness import ROOT
from waiting import eventually

from sandbox.programs import Programs


class Repository:
    """A repository as the Jobs have it, each run with a scratch folder of its own."""

    def __init__(self, folder: Path, restic: Path) -> None:
        self.folder, self.runs = folder, 0
        self.backup = folder / "backup"
        self.backup.mkdir()
        (self.backup / "image").write_text("page:1")
        self.restic = restic
        self.environment = {
            "PATH": f"{self.restic.parent}:{os.defpath}",
            "HOME": str(folder),
            "RESTIC_REPOSITORY": str(self.backup / "repository"),
            "RESTIC_PASSWORD": "secret",
            "KIND": "scheduled",
            "KEEP": "--keep-last 1",
        }

    def step(self, word: str, scratch: Path) -> subprocess.CompletedProcess[str]:
        """Run one step of a backup."""
        command = [
            "sh",
            *map(
                str,
                (ROOT / "components/open_webui/programs/repository.sh", word, scratch, self.backup),
            ),
        ]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )

    def taken(self, size: int) -> Path:
        """A snapshot of `size` new bytes, in a scratch folder of its own."""
        self.runs += 1
        scratch = self.folder / f"scratch-{self.runs}"
        (scratch / "snapshot").mkdir(parents=True)
        (scratch / "snapshot/manifest.json").write_text("{}")
        (scratch / "snapshot/new").write_bytes(os.urandom(size))
        return scratch

    def run(self, size: int) -> None:
        """Store `size` new bytes, and finish; both must end well."""
        scratch = self.taken(size)
        for word in ("store", "finish"):
            done = self.step(word, scratch)
            assert done.returncode == 0, done.stdout + done.stderr

    def size(self) -> int:
        """Bytes that it takes."""
        return sum(file.stat().st_size for file in self.backup.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def repository(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One for both tests: each run of restic takes most of a second to open it."""
    return Repository(tmp_path_factory.mktemp("repository"), programs.restic)


def test_what_is_forgotten_takes_no_room(repository: Repository) -> None:
    for _ in range(2):
        repository.run(3_000_000)

    # restic keeps a little that is unused.
    assert repository.size() < 3_000_000 + 1_000_000


@pytest.mark.parametrize("kind", ["scheduled", "upgrade"])
def test_what_was_left_out_is_the_last_word(
    repository: Repository, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        repository, "environment", {**repository.environment, "KIND": kind, "IMAGE": "page:1"}
    )
    scratch = repository.taken(1000)
    (scratch / "left-out").write_text("left out: uploads/a\n")

    assert repository.step("store", scratch).returncode == 0
    done = repository.step("finish", scratch)

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "left out: uploads/a")


def test_the_lock_of_a_killed_run_keeps_nobody_out(repository: Repository) -> None:
    locks = repository.backup / "repository/locks"
    # A check has the repository for itself, as a prune does; slow enough to be killed at it.
    command = [
        str(repository.restic),
        "--no-cache",
        "check",
        "--read-data",
        "--limit-download",
        "1",
    ]
    with subprocess.Popen(command, env=repository.environment) as check:
        held = eventually(lambda: any(locks.iterdir()))
        check.kill()
    assert held

    repository.run(1000)


def test_a_disk_that_is_not_mounted_gets_no_repository(programs: Programs, tmp_path: Path) -> None:
    bare = Repository(tmp_path, programs.restic)
    (bare.backup / "image").unlink()

    done = bare.step("store", bare.taken(1000))

    assert done.returncode == 1
    assert "mount the disk" in done.stdout.splitlines()[-1]
    assert list(bare.backup.iterdir()) == []
