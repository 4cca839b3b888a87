"""programs/repository.sh with the real restic."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import ROOT
from restic_lab import PASSWORD, create
from waiting import eventually


class Repository:
    """A repository as in the Jobs; each run has its own scratch folder."""

    def __init__(self, folder: Path, restic: Path) -> None:
        self.folder, self.runs = folder, 0
        self.backup = folder / "backup"
        self.backup.mkdir()
        (self.backup / "image").write_text("page:1")
        self.restic, self.path = restic, self.backup / "repository"
        self.environment = {
            "PATH": f"{self.restic.parent}:{os.defpath}",
            "HOME": str(folder),
            "RESTIC_REPOSITORY": str(self.path),
            "RESTIC_PASSWORD": PASSWORD,
            "KIND": "scheduled",
            "KEEP": "--keep-last 1",
        }

    def other_pod(self, *arguments: str, name: str = "open-webui-backup-1-x") -> list[str]:
        """Return the command that runs restic in a pod of this name, its hostname."""
        script = 'hostname "$0" && exec "$@"'
        command = [str(self.restic), "--no-cache", *arguments]
        return ["unshare", "-r", "-u", "sh", "-c", script, name, *command]

    def locks(self) -> list[Path]:
        """Return the lock files, without temporary ones."""
        files = (self.path / "locks").iterdir()
        return [file for file in files if "-tmp-" not in file.name]

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

    def new_snapshot(self, size: int) -> Path:
        """Write `size` random bytes to a new scratch folder, as the step `snapshot` does."""
        self.runs += 1
        scratch = self.folder / f"scratch-{self.runs}"
        (scratch / "snapshot").mkdir(parents=True)
        (scratch / "snapshot/manifest.json").write_text(f'{{"run": {self.runs}}}')
        (scratch / "snapshot/new").write_bytes(os.urandom(size))
        return scratch

    def run(self, size: int) -> None:
        """Store and finish a backup of `size` random bytes."""
        self.store_and_finish(self.new_snapshot(size))

    def store_and_finish(self, scratch: Path) -> None:
        """Run both steps, and assert that they succeed."""
        for word in ("store", "finish"):
            process = self.step(word, scratch)
            assert process.returncode == 0, process.stdout + process.stderr

    def size(self) -> int:
        """Return the size of the backup disk's files, in bytes."""
        return sum(file.stat().st_size for file in self.backup.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def repository(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with one snapshot, shared."""
    repository = Repository(tmp_path_factory.mktemp("repository"), programs["restic"])
    create(repository.path)
    repository.run(3_000_000)
    return repository


def test_forgotten_snapshots_are_pruned(repository: Repository) -> None:
    for _ in range(2):
        repository.run(3_000_000)

    # restic keeps some unused data.
    assert repository.size() < 3_000_000 + 1_000_000


@pytest.mark.parametrize("kind", ["scheduled", "upgrade"])
def test_the_last_line_is_what_was_left_out(
    repository: Repository, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        repository, "environment", {**repository.environment, "KIND": kind, "IMAGE": "page:1"}
    )
    scratch = repository.new_snapshot(1000)
    (scratch / "left-out").write_text("left out: uploads/a\n")

    assert repository.step("store", scratch).returncode == 0
    process = repository.step("finish", scratch)

    assert (process.returncode, process.stdout.splitlines()[-1]) == (0, "left out: uploads/a")


CHECK = ("check", "--read-data", "--limit-download", "1")
"""Locks the repository exclusively, and is slow enough to be killed."""


@pytest.mark.parametrize("name", ["open-webui-backup-before-1-x", "open-webui-restore-2-y"])
def test_the_lock_of_a_killed_pod_is_removed(repository: Repository, name: str) -> None:
    """By itself, restic considers a lock of another host stale after 30 minutes."""
    command = repository.other_pod(*CHECK, name=name)
    with subprocess.Popen(command, env=repository.environment) as check:
        locks = eventually(repository.locks)
        check.kill()
    assert locks

    repository.run(1000)

    assert repository.locks() == []


def test_an_empty_lock_is_removed(repository: Repository) -> None:
    """A power cut may leave one."""
    (repository.path / "locks" / ("0" * 64)).touch()

    repository.run(1000)

    assert repository.locks() == []


def test_the_lock_of_another_host_is_kept(repository: Repository) -> None:
    command = repository.other_pod(*CHECK, name="laptop")
    with subprocess.Popen(command, env=repository.environment) as check:
        assert eventually(repository.locks)
        (lock,) = repository.locks()
        assert repository.step("list", repository.folder).returncode == 0
        script = (ROOT / "components/open_webui/programs/repository.sh").read_text()
        only = script.partition('case "$1"')[0] + "remove_stale_locks\n"
        subprocess.run(["sh", "-c", only], env=repository.environment, check=True)
        assert lock.exists()
        check.kill()
    lock.unlink(missing_ok=True)


def test_a_pod_waits_while_another_one_has_the_disk(repository: Repository) -> None:
    """So the lock of a running pod is never removed."""
    scratch = repository.new_snapshot(1000)
    with (repository.folder / "held").open("w") as output:
        holder = subprocess.Popen(
            ["sh", "-c", f"exec 9<{repository.backup}; flock 9; echo held; sleep 1"], stdout=output
        )
        assert eventually((repository.folder / "held").read_text)
        process = repository.step("store", scratch)
        assert holder.poll() == 0
    assert process.returncode == 0, process.stderr


def test_a_disk_without_flock_takes_backups(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = repository.folder / "without"
    without.mkdir()
    (without / "flock").write_text("#!/bin/sh\necho flock: 9: Bad file descriptor >&2; exit 1\n")
    (without / "flock").chmod(0o755)
    path = f"{without}:{repository.environment['PATH']}"
    monkeypatch.setattr(repository, "environment", {**repository.environment, "PATH": path})

    repository.run(1000)


@pytest.fixture
def bare(programs: dict[str, Path], tmp_path: Path) -> Repository:
    """An empty backup disk."""
    return Repository(tmp_path, programs["restic"])


@pytest.mark.parametrize("leftover", ["nothing", "torn key", "other key"])
def test_an_interrupted_init_is_repeated(bare: Repository, leftover: str) -> None:
    if leftover != "nothing":
        key = create(bare.path)
        # restic writes this file last (internal/repository, Init).
        (bare.path / "config").unlink()
        if leftover == "torn key":
            key.write_bytes(key.read_bytes()[:20])
        else:
            bare.environment["RESTIC_PASSWORD"] = "another"

    process = bare.step("store", bare.new_snapshot(1000))

    assert process.returncode == 0, process.stdout + process.stderr
    assert "1 snapshots" in bare.step("list", bare.folder).stdout


def test_a_repository_that_lost_its_config_is_not_created_again(bare: Repository) -> None:
    create(bare.path)
    bare.run(1000)
    before = sorted(bare.backup.rglob("*"))
    (bare.path / "config").unlink()

    process = bare.step("store", bare.new_snapshot(1000))

    assert process.returncode == 1
    assert "has lost its file config" in process.stdout.splitlines()[-1]
    assert {*before} - {*bare.backup.rglob("*")} == {bare.path / "config"}


def test_on_a_disk_that_is_not_mounted_no_repository_is_created(bare: Repository) -> None:
    (bare.backup / "image").unlink()

    process = bare.step("store", bare.new_snapshot(1000))

    assert process.returncode == 1
    assert "mount the disk" in process.stdout.splitlines()[-1]
    assert list(bare.backup.iterdir()) == []


def flip(pack: Path) -> None:
    """Flip a bit in the middle of a file, as a disk does."""
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(raw)


def test_where_every_pack_is_damaged_the_second_pod_stores_all_anew(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    repository = Repository(tmp_path, programs["restic"])
    create(repository.path)

    def snapshot() -> Path:
        """A snapshot at the same path each time, as in the pods, so that it has a parent."""
        repository.runs = 0
        shutil.rmtree(tmp_path / "scratch-1", ignore_errors=True)
        return repository.new_snapshot(1000)

    repository.store_and_finish(snapshot())
    for pack in (repository.path / "data").glob("*/*"):
        flip(pack)

    # Not even the folders of the parent can be read.
    first = repository.step("store", snapshot())
    assert first.returncode == 1
    assert first.stdout.splitlines()[-1].startswith(
        "restic check failed, as above: the repository is repaired"
    )
    scratch = snapshot()
    assert repository.step("store", scratch).returncode == 0
    last = repository.step("finish", scratch)
    assert last.returncode == 20
    assert last.stdout.splitlines()[-1].startswith("stored; but parts of older backups were")


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "damaged"])
@pytest.mark.parametrize("is_needed", [True, False], ids=["and needed", "of older ones"])
def test_damaged_packs_are_repaired_and_reported_and_later_backups_are_complete(
    programs: dict[str, Path], tmp_path: Path, is_lost: bool, is_needed: bool
) -> None:
    repository = Repository(tmp_path, programs["restic"])
    create(repository.path)
    repository.environment["KEEP"] = "--keep-last 9"
    scratch = repository.new_snapshot(300_000)
    content = (scratch / "snapshot/new").read_bytes()
    repository.store_and_finish(scratch)
    packs = [*(repository.path / "data").glob("*/*")]
    pack = max(packs, key=lambda path: path.stat().st_size)
    # Each night 1/31 of the packs is read: on this date, the damaged one.
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "date").write_text(f"#!/bin/sh\necho {int(pack.name[:2], 16) % 31 + 1}\n")
    (tools / "date").chmod(0o755)
    repository.environment["PATH"] = f"{tools}:{repository.environment['PATH']}"
    pack.chmod(0o600)
    if is_lost:
        pack.unlink()
    else:
        flip(pack)

    def night() -> tuple[int, str]:
        scratch = repository.new_snapshot(1000)
        if is_needed:
            (scratch / "snapshot/old").write_bytes(content)
        for word in ("store", "finish"):
            process = repository.step(word, scratch)
            if process.returncode:
                break
        stored = scratch / "restored/old"
        assert process.returncode or stored.exists() == is_needed
        assert not stored.exists() or word == "store" or stored.read_bytes() == content
        return process.returncode, process.stdout.splitlines()[-1]

    results = [night(), night()] if is_needed else [night()]
    if is_needed:
        assert results[0][0] == 1
        assert results[0][1].startswith("restic check failed, as above: the repository is repaired")
    assert results[-1][0] == 20
    assert results[-1][1].startswith("stored; but parts of older backups were damaged")
    assert night()[0] == 0
