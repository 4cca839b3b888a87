"""The cache that all checkouts share."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ROOT
from waiting import eventually

from sandbox.cache import artefact, cache, link

MAKER = """
import sys, time
from pathlib import Path
from sandbox.cache import artefact
def make(at):
    at.write_text("half")
    Path(sys.argv[1]).open("a").write("made\\n")
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    at.write_text("whole")
print(artefact("tool", make, (), "1.0"))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder."""
    monkeypatch.setenv("HOMELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def maker(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Starts processes that make an artefact, note it in `notes`, and wait for the file `go`."""
    command = [sys.executable, "-c", MAKER, str(tmp_path / "notes"), str(tmp_path / "go")]
    return lambda: subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_another_checkout_makes_only_what_has_other_inputs(tmp_path: Path) -> None:
    count: list[str] = []

    def make(at: Path) -> None:
        count.append(at.name)
        at.write_text("whole")

    for checkout, pin in (("a", "1.0"), ("b", "1.0"), ("c", "1.1")):
        (tmp_path / checkout).mkdir()
        (tmp_path / checkout / "go.mod").write_text(f"require kube v{pin}")
        artefact("kube", make, [tmp_path / checkout / "go.mod"], "flags")
        artefact("kwok", make, [], "flags")

    assert count == ["kube", "kwok", "kube"]
    artefact("kube", make, [tmp_path / "a" / "go.mod"], "other flags")
    assert count == ["kube", "kwok", "kube", "kube"]


def test_two_processes_make_an_artefact_once(
    maker: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    makers = [maker(), maker()]
    assert eventually((tmp_path / "notes").exists)
    (tmp_path / "go").touch()
    paths = [process.communicate()[0].splitlines()[-1] for process in makers]

    assert paths[0] == paths[1]
    assert Path(paths[0]).read_text() == "whole"
    assert (tmp_path / "notes").read_text() == "made\n"


def test_an_artefact_of_a_killed_process_is_made_again(
    maker: Callable[[], subprocess.Popen[str]], tmp_path: Path, folder: Path
) -> None:
    killed = maker()
    assert eventually((tmp_path / "notes").exists)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [file.read_text() for file in folder.rglob(str(killed.pid) + "/tool")] == ["half"]

    (tmp_path / "go").touch()
    path = Path(maker().communicate()[0].strip())

    assert path.read_text() == "whole"
    assert {file for file in folder.rglob("*") if file.is_file()} == {path, path.parent / "lock"}


def test_an_artefact_whose_making_failed_is_made_again() -> None:
    def fail(at: Path) -> None:
        at.write_text("half")
        raise ValueError(at.name)

    with pytest.raises(ValueError, match="tool"):
        artefact("tool", fail, ())
    assert artefact("tool", lambda at: at.write_text("whole"), ()).read_text() == "whole"


def test_under_sudo_the_cache_is_that_of_the_calling_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOMELAB_CACHE")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert cache() == Path("/nowhere/.cache/homelab")
    monkeypatch.setenv("SUDO_USER", "daemon")
    assert cache() == Path("~daemon").expanduser() / ".cache" / "homelab"


def test_a_link_replaces_a_folder_or_link(tmp_path: Path) -> None:
    at = tmp_path / "bin" / "tool"
    (at / "of an older checkout").mkdir(parents=True)
    for target in (tmp_path / "one", tmp_path / "two"):
        target.write_text("whole")
        assert link(target, at).readlink() == target
    assert [*at.parent.iterdir()] == [at]
