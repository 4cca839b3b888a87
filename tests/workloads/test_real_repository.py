"""What the real restic makes of repository.sh: room is freed, and a killed run blocks nobody."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import ROOT
from waiting import eventually


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

    def other_pod(self, *arguments: str, name: str = "open-webui-backup-1-x") -> list[str]:
        """The command of restic in a pod of this name, which is its host name."""
        script = 'hostname "$0" && exec "$@"'
        command = [str(self.restic), "--no-cache", *arguments]
        return ["unshare", "-r", "-u", "sh", "-c", script, name, *command]

    def locks(self) -> list[Path]:
        """The files of its locks, without what restic has not renamed yet."""
        files = (self.backup / "repository/locks").iterdir()
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

    def taken(self, size: int) -> Path:
        """A snapshot of `size` new bytes, in a scratch folder of its own."""
        self.runs += 1
        scratch = self.folder / f"scratch-{self.runs}"
        (scratch / "snapshot").mkdir(parents=True)
        (scratch / "snapshot/manifest.json").write_text(f'{{"run": {self.runs}}}')
        (scratch / "snapshot/new").write_bytes(os.urandom(size))
        return scratch

    def run(self, size: int) -> None:
        """Store `size` new bytes, and finish; both must end well."""
        self.store_and_finish(self.taken(size))

    def store_and_finish(self, scratch: Path) -> None:
        """Run both steps; they must end well."""
        for word in ("store", "finish"):
            done = self.step(word, scratch)
            assert done.returncode == 0, done.stdout + done.stderr

    def size(self) -> int:
        """Bytes that it takes."""
        return sum(file.stat().st_size for file in self.backup.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def repository(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One for all tests: each run of restic takes most of a second to open it."""
    made = Repository(tmp_path_factory.mktemp("repository"), programs["restic"])
    made.run(3_000_000)
    return made


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


# A check has the repository for itself, as a prune does; slow enough to be killed at it.
CHECK = ("check", "--read-data", "--limit-download", "1")


@pytest.mark.parametrize("name", ["open-webui-backup-before-1-x", "open-webui-restore-2-y"])
def test_the_lock_of_a_killed_run_keeps_nobody_out(repository: Repository, name: str) -> None:
    """Of another pod: restic itself takes its lock for alive for half an hour."""
    command = repository.other_pod(*CHECK, name=name)
    with subprocess.Popen(command, env=repository.environment) as check:
        held = eventually(repository.locks)
        check.kill()
    assert held

    repository.run(1000)

    assert repository.locks() == []


def test_an_empty_lock_keeps_nobody_out(repository: Repository) -> None:
    """As a power cut leaves it."""
    (repository.backup / "repository/locks" / ("0" * 64)).touch()

    repository.run(1000)

    assert repository.locks() == []


def test_who_uses_restic_by_hand_keeps_the_lock(repository: Repository) -> None:
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


def test_two_pods_wait_for_each_other(repository: Repository) -> None:
    """So the lock of one that is alive is never taken for left over."""
    scratch = repository.taken(1000)
    with (repository.folder / "held").open("w") as said:
        holder = subprocess.Popen(
            ["sh", "-c", f"exec 9<{repository.backup}; flock 9; echo held; sleep 3"], stdout=said
        )
        assert eventually((repository.folder / "held").read_text)
        done = repository.step("store", scratch)
        assert holder.poll() == 0
    assert done.returncode == 0, done.stderr


def test_a_disk_that_knows_no_flock_takes_backups(
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
    """A new disk."""
    return Repository(tmp_path, programs["restic"])


@pytest.mark.parametrize("rest", ["nothing", "folders", "key", "torn key", "other key"])
def test_an_init_that_was_cut_off_is_begun_anew(bare: Repository, rest: str) -> None:
    made = bare.backup / "repository"
    if rest != "nothing":
        other = {
            **bare.environment,
            "RESTIC_PASSWORD": "other" if rest == "other key" else "secret",
        }
        subprocess.run([bare.restic, "--no-cache", "init"], env=other, check=True)
        # It is written last (restic's internal/repository, Init).
        (made / "config").unlink()
        for key in (made / "keys").iterdir():
            if rest == "folders":
                key.unlink()
            elif rest == "torn key":
                key.write_bytes(key.read_bytes()[:20])

    bare.run(1000)
    bare.run(1000)

    assert "1 snapshots" in bare.step("list", bare.folder).stdout


def test_a_repository_without_its_configuration_is_not_made_anew(bare: Repository) -> None:
    bare.run(1000)
    before = sorted(bare.backup.rglob("*"))
    (bare.backup / "repository/config").unlink()

    done = bare.step("store", bare.taken(1000))

    assert done.returncode == 1
    assert "has lost its file config" in done.stdout.splitlines()[-1]
    assert {*before} - {*bare.backup.rglob("*")} == {bare.backup / "repository/config"}


def test_a_disk_that_is_not_mounted_gets_no_repository(bare: Repository) -> None:
    (bare.backup / "image").unlink()

    done = bare.step("store", bare.taken(1000))

    assert done.returncode == 1
    assert "mount the disk" in done.stdout.splitlines()[-1]
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
    mine = Repository(tmp_path, programs["restic"])

    def taken() -> Path:
        """A snapshot at the same path each time, as in the pods, so that it has a parent."""
        mine.runs = 0
        shutil.rmtree(tmp_path / "scratch-1", ignore_errors=True)
        return mine.taken(1000)

    mine.store_and_finish(taken())
    for pack in (mine.backup / "repository/data").glob("*/*"):
        flip(pack)

    # Not even the folders of the parent can be read.
    first = mine.step("store", taken())
    assert first.returncode == 1
    assert first.stdout.splitlines()[-1].startswith("the disk has damaged the repository")
    scratch = taken()
    assert mine.step("store", scratch).returncode == 0
    last = mine.step("finish", scratch)
    assert last.returncode == 20
    assert last.stdout.splitlines()[-1].startswith("stored; but parts of older backups were")


@pytest.mark.parametrize("gone", [True, False], ids=["lost", "damaged"])
@pytest.mark.parametrize("again", [True, False], ids=["and needed", "of older ones"])
def test_what_the_disk_has_damaged_spoils_no_later_backup_and_is_told(
    programs: dict[str, Path], tmp_path: Path, gone: bool, again: bool
) -> None:
    mine = Repository(tmp_path, programs["restic"])
    mine.environment["KEEP"] = "--keep-last 9"
    kept = mine.taken(300_000)
    content = (kept / "snapshot/new").read_bytes()
    mine.store_and_finish(kept)
    packs = [*(mine.backup / "repository/data").glob("*/*")]
    pack = max(packs, key=lambda one: one.stat().st_size)
    # A thirty-first is read each night: this is the night of this one.
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "date").write_text(f"#!/bin/sh\necho {int(pack.name[:2], 16) % 31 + 1}\n")
    (tools / "date").chmod(0o755)
    mine.environment["PATH"] = f"{tools}:{mine.environment['PATH']}"
    pack.chmod(0o600)
    if gone:
        pack.unlink()
    else:
        flip(pack)

    def night() -> tuple[int, str]:
        scratch = mine.taken(1000)
        if again:
            (scratch / "snapshot/old").write_bytes(content)
        for word in ("store", "finish"):
            done = mine.step(word, scratch)
            if done.returncode:
                break
        stored = scratch / "restored/old"
        assert done.returncode or stored.exists() == again
        assert not stored.exists() or word == "store" or stored.read_bytes() == content
        return done.returncode, done.stdout.splitlines()[-1]

    tried = [night(), night()] if again else [night()]
    if again:
        assert tried[0][0] == 1
        assert tried[0][1].startswith("the disk has damaged the repository")
    assert tried[-1][0] == 20
    assert tried[-1][1].startswith("stored; but parts of older backups were damaged")
    assert night()[0] == 0
