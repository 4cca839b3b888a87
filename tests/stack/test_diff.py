"""`make diff` with the real engine: edits of the project, and the lines for them."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from harness import ROOT
from waiting import eventually

from config import SettingsError
from ops.diff import compare
from sandbox.build import Tools
from sandbox.processes import MARK, SandboxError

HOME = "Pulumi.home.yaml"
MODEL, PAGE = "ollama-stack/ollama", "ollama-stack/open-webui"
MISSING_CHARTS = [
    f"not compared: chart {chart}, which is not available"
    for chart in ("kube-prometheus-stack", "metallb")
]
Edit = tuple[str, str, str]
"""File, text in it, and its replacement."""

PATH: list[Edit] = [(HOME, "path: /mnt/evo4t/models", "path: /mnt/evo4t/other")]
IMAGE_ADDRESS_MODEL: list[Edit] = [
    (HOME, "    task_model:", "    image: ghcr.io/open-webui/open-webui:v0.12.5\n    task_model:"),
    (HOME, "pool: 192.168.1.101-192.168.1.102", "pool: 192.168.1.101-192.168.1.103"),
    (HOME, "lan_address: 192.168.1.101", "lan_address: 192.168.1.103"),
    (HOME, "- gemma3:4b", "- llama3.2:1b"),
]


@dataclass(frozen=True)
class Project:
    """A copy of the project, and the folder of its cluster."""

    path: Path
    folder: Path
    tools: Tools

    def edit(self, edits: list[Edit]) -> None:
        """Edit files of the working tree; asserts that each text exists."""
        for name, old, new in edits:
            text = (self.path / name).read_text()
            assert old in text
            (self.path / name).write_text(text.replace(old, new))

    def git(self, *arguments: str) -> None:
        """Run git in the copy."""
        author = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", *author, *arguments], cwd=self.path, check=True, capture_output=True)

    def compare(self, base: str = "main", stack: str = "home") -> tuple[list[str], str]:
        """Return the lines of the summary, and the engine's output."""
        lines, _, printed = compare(self.path, self.folder, self.tools, stack, base).partition(
            "\n\n"
        )
        return lines.splitlines(), printed


def new_job(printed: str) -> str:
    """Return the name of the new model Job, which has a hash of its spec."""
    (name,) = re.findall(r'=> "(ollama-models-\w+)"\n', printed)
    return f"ollama-stack/{name}"


def same_job(printed: str) -> str:
    """Return the name of the deployed model Job."""
    return str(re.findall(r"id=(ollama-stack/ollama-models-\w+)]", printed)[0])


def left_running(folder: Path) -> list[str]:
    """Return the names of running processes of the cluster in `folder`."""
    names = []
    for process in psutil.process_iter(["name", "cmdline", "environ"]):
        words = [*(process.info["cmdline"] or []), (process.info["environ"] or {}).get(MARK, "")]
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            names.append(process.info["name"])
    return names


@pytest.fixture(scope="module")
def clone(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, committed to main of a new repository."""
    path = tmp_path_factory.mktemp("clone")
    for name in ("components", "config"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__main__.py", "Pulumi.yaml", HOME, "requirements.txt"):
        shutil.copyfile(ROOT / name, path / name)
    project = Project(path, tmp_path_factory.mktemp("diff"), tools)
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("add", "requirements.txt")
    project.git("commit", "--quiet", "--message=packages alone")
    project.git("tag", "early")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=program")
    return project


@pytest.fixture
def project(clone: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The clone without uncommitted edits, and without published charts."""
    monkeypatch.delenv("HOMELAB_CHARTS", raising=False)
    yield clone
    clone.git("checkout", "--quiet", "--force", "main")
    assert left_running(clone.folder) == []
    assert not [*clone.folder.glob("base*")]


def test_without_edits_nothing_changes_and_a_second_run_reuses_the_base(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, printed = project.compare()
    capsys.readouterr()
    second = project.compare()

    assert lines == MISSING_CHARTS
    assert re.search(r"^Resources:\n +\d+ unchanged$", printed, re.MULTILINE)
    assert second[0] == lines
    assert "applying" not in capsys.readouterr().out


def test_another_path_replaces_the_protected_volume_and_an_encrypted_value_is_not_compared(
    project: Project,
) -> None:
    project.edit(PATH)
    project.edit([(HOME, "admin@homelab.home.arpa", "{secure: v1:AAAA:BBBB}")])

    lines, printed = project.compare()

    assert lines == [
        "data: PersistentVolume ollama-stack-models is replaced because of spec.local.path:"
        " /mnt/evo4t/models -> /mnt/evo4t/other; refused: it is protected",
        "data: PersistentVolumeClaim ollama-stack/models is replaced; refused: it is protected",
        f"restarts: Deployment {MODEL}",
        f"restarts: Deployment {PAGE}",
        f"restarts: Job {same_job(printed)}",
        "not compared: webui.admin_email, which is encrypted",
        *MISSING_CHARTS,
    ]
    assert "AAAA" not in printed
    assert '~ path: "/mnt/evo4t/models" => "/mnt/evo4t/other"' in printed


def test_a_new_image_address_and_model_are_listed(project: Project) -> None:
    project.edit(IMAGE_ADDRESS_MODEL)

    lines, printed = project.compare()

    assert lines == [
        "deleted: model gemma3:4b",
        "reachable: IPAddressPool metallb-system/homelab, spec.addresses[0]:"
        " 192.168.1.101-192.168.1.102 -> 192.168.1.101-192.168.1.103",
        "reachable: Service ollama-stack/open-webui-service-local,"
        ' metadata.annotations["metallb.io/loadBalancerIPs"]: 192.168.1.101 -> 192.168.1.103',
        f"restarts: Deployment {MODEL}",
        f"restarts: Deployment {PAGE}",
        f"restarts: Job {new_job(printed)}",
        "downloaded: image ghcr.io/open-webui/open-webui:v0.12.5",
        "downloaded: model llama3.2:1b",
        *MISSING_CHARTS,
    ]


def test_an_object_that_the_api_server_rejects_is_one_line(project: Project) -> None:
    project.edit([("__main__.py", "[settings.network.pool]", "[7]")])

    with pytest.raises(SandboxError) as refused:
        project.compare()

    reason = str(refused.value)
    assert reason.startswith("home cannot be previewed: error: ")
    assert "the Kubernetes API server reported" in reason
    assert ".spec.addresses[0]: expected string" in reason
    assert "\n" not in reason


def test_every_resource_of_a_new_stack_is_new(project: Project) -> None:
    (project.path / "Pulumi.new.yaml").write_text((project.path / HOME).read_text())
    project.edit([("Pulumi.new.yaml", "context: homelab", "context: other")])

    lines, printed = project.compare(stack="new")
    (project.path / "Pulumi.new.yaml").unlink()

    assert len(lines) == 10
    assert re.fullmatch(r"and \d+ more", lines[6])
    assert lines[7:] == ["main has no Pulumi.new.yaml: everything is new", *MISSING_CHARTS]
    assert re.search(r"^Resources:\n +\+ \d+ to create$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("nowhere", "BASE: got 'nowhere', want a commit, a branch or a tag, such as main"),
        ("--help", "BASE: got '--help', want a commit, a branch or a tag, such as main"),
        ("early", "BASE: early has no config/versions.py; want a newer commit"),
    ],
)
def test_an_invalid_base_is_one_line(project: Project, base: str, reason: str) -> None:
    with pytest.raises(SandboxError) as refused:
        project.compare(base)

    assert str(refused.value) == reason


def test_an_invalid_setting_is_reported_before_anything_is_started(project: Project) -> None:
    project.edit([(HOME, "- codellama:7b", "- codellama:77b")])

    with pytest.raises(SettingsError, match=r"^homelab:ollama\.models\[1\]: got "):
        project.compare()


INTERRUPTED = """
from pathlib import Path, PosixPath
from ops.diff import Tools, compare
compare(Path({path!r}), Path({folder!r}), {tools!r}, "home", "main")
"""


@pytest.mark.faults
def test_an_interrupt_leaves_nothing_running(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    script = INTERRUPTED.format(path=project.path, folder=folder, tools=project.tools)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as diff:
        # The CLI, a child of this process, deploys BASE.
        assert eventually(lambda: "pulumi" in left_running(folder))
        family = psutil.Process(diff.pid)
        for process in (family, *family.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # a child may have ended by itself
                process.send_signal(signal.SIGINT)
        _, error = diff.communicate()

    assert "KeyboardInterrupt" in error
    assert eventually(lambda: left_running(folder) == [])
