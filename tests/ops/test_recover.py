"""`make recover` with a scripted CLI and cluster."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psutil
import pytest
from harness import deployed
from waiting import eventually

from ops import recover, releases, stacks
from ops.__main__ import main
from ops.cluster import UnreadableError
from ops.recover import without_pending
from ops.releases import Revision
from ops.stacks import Stack

URN = "urn:pulumi:home::homelab::kubernetes:{}::{}"
DEAD = 2**22 + 1
"""A PID above the maximum of Linux."""


def resource(type_: str, namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """Return a resource as in the state."""
    metadata = {"namespace": namespace, "name": name} if namespace else {"name": name}
    identity = {"urn": URN.format(type_, name), "type": f"kubernetes:{type_}", "custom": True}
    return {**identity, "inputs": {"metadata": metadata}, **more}


NAMESPACE = resource("core/v1:Namespace", "", "observability", id="observability")
DEPLOYMENT = resource("apps/v1:Deployment", "ollama-stack", "ollama")
RELEASE = {
    **resource("helm.sh/v3:Release", "", "monitoring-release"),
    "inputs": {"name": "kube-prom-stack", "namespace": "observability"},
}
KNOWN = {**RELEASE, "id": "observability/kube-prom-stack"}


def state(*resources: dict[str, Any], pending: Any = ()) -> dict[str, Any]:
    """Return an export of the stack."""
    operations = [{"resource": item, "type": kind} for kind, item in pending]
    deployment = {"resources": list(resources), "pending_operations": operations}
    return {"version": 3, "deployment": deployment}


class Server:
    """A scripted CLI and cluster, which note the requests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands, self.deleted = folder, list[str](), list[str]()
        self.state: Any = state(NAMESPACE, KNOWN)
        self.imported: Any = None
        self.revisions: list[Revision] = []
        self.url = f"{folder.as_uri()}?metadata=skip"
        self.refused: dict[str, str] = {}
        self.deletion: Exception | None = None
        self.volumes: dict[str, str] = {}
        self.freed: list[str] = []

    def ask(self, path: str) -> Any:
        """Return the volumes with their phases."""
        assert path == "/api/v1/persistentvolumes"
        items = self.volumes.items()
        return {"items": [{"metadata": {"name": n}, "status": {"phase": p}} for n, p in items]}

    def request(self, method: str, path: str, body: Any = None, headers: Any = None) -> None:
        """Note the deletion of a Secret, or the volume whose claimRef is cleared."""
        if method == "DELETE":
            if self.deletion:
                raise self.deletion
            self.deleted.append(path.removeprefix("/api/v1/namespaces/").replace("/secrets", ""))
            return
        assert headers == {"Content-Type": "application/merge-patch+json"}
        assert body == {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}
        self.freed.append(path.removeprefix("/api/v1/persistentvolumes/"))

    def cli(self, *arguments: str) -> CompletedProcess[str]:
        """Return the scripted result of a command."""
        command = " ".join(arguments[:2])
        self.commands.append(command)
        if command in self.refused:
            return CompletedProcess([], 255, "", f"error: {self.refused[command]}\n")
        if command == "stack import":
            self.imported = json.loads(Path(arguments[3]).read_text())
        answers = {"stack export": self.state, "whoami --json": {"user": "me", "url": self.url}}
        return CompletedProcess([], 0, json.dumps(answers.get(command, "")), "")

    def keep(self, *statuses: str, age: float = 3600) -> None:
        """Set the revisions of kube-prom-stack, oldest first, and their age in seconds."""
        names = ("observability", "kube-prom-stack")
        since = int(time.time() - age)
        self.revisions = [
            Revision(*names, n, status, since) for n, status in enumerate(statuses, 1)
        ]

    def lock(self, host: str = "", pid: int = DEAD) -> None:
        """Write a lock of the file backend."""
        path = self.folder / ".pulumi/locks/organization/homelab/home/1234.json"
        path.parent.mkdir(parents=True)
        since = "2026-07-01T10:00:00Z"
        holder = {"pid": pid, "username": "me", "hostname": host or socket.gethostname()}
        path.write_text(json.dumps({**holder, "timestamp": since}))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Replaces the stack, its cluster and Helm's revisions by scripted ones."""
    server = Server(tmp_path)
    stack = Stack(name="home", cli=server.cli, kubeconfig=None, folder=tmp_path)
    monkeypatch.setattr(stacks, "find", lambda _: stack)
    monkeypatch.setattr(recover, "Cluster", lambda *_: server)
    monkeypatch.setattr(
        releases,
        "revisions",
        lambda _, namespace, name: [
            revision
            for revision in server.revisions
            if (revision.namespace, revision.name) == (namespace, name)
        ],
    )
    return server


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command, and answers its question."""

    def command(answer: str | None = "y") -> tuple[int, str, str]:
        server.commands.clear()

        def confirm(_: str) -> str:
            if answer is None:
                raise KeyboardInterrupt
            return answer

        monkeypatch.setattr("builtins.input", confirm)
        return (main(["recover", "--stack", "home"]), *capsys.readouterr())

    return command


def untouched(server: Server) -> bool:
    """Return whether nothing was changed."""
    return not server.deleted + server.freed and {*server.commands} <= {
        "stack export",
        "whoami --json",
    }


def secrets(*numbers: int) -> list[str]:
    """Return namespace and name of the Secrets of these revisions of kube-prom-stack."""
    return [f"observability/sh.helm.release.v1.kube-prom-stack.v{number}" for number in numbers]


def test_recover_knows_every_release_of_the_program() -> None:
    releases = [release.inputs for release in deployed("home").of_kind("Release")]
    names = {f"{inputs['namespace']}/{inputs['name']}" for inputs in releases}

    assert names == {*recover.RELEASES}


def test_nothing_to_recover_is_one_line(server: Server, run: Run) -> None:
    server.keep("superseded", "deployed")

    code, out, err = run()

    assert (code, err, untouched(server)) == (0, "", True)
    assert out.startswith("nothing to recover: ")


@pytest.mark.parametrize(
    ("in_state", "statuses", "deleted"),
    [
        (True, ["pending-install"], [1]),
        (True, ["failed"], [1]),
        (True, ["superseded", "deployed", "pending-upgrade"], [3]),
        (True, ["deployed", "failed", "pending-upgrade"], [3, 2]),
        (True, ["superseded", "pending-upgrade"], [2]),
        (True, ["superseded", "uninstalling"], [1, 2]),
        (False, ["pending-install"], [1]),
        (False, ["deployed"], [1]),
    ],
)
def test_the_unfinished_revisions_are_deleted(
    server: Server, run: Run, in_state: bool, statuses: list[str], deleted: list[int]
) -> None:
    server.state = state(NAMESPACE, *([KNOWN] if in_state else []))
    server.keep(*statuses)

    code, out, err = run()

    assert (code, err) == (0, "")
    assert server.deleted == secrets(*deleted)
    assert out.splitlines()[-1] == "next: make up STACK=home"


def test_only_released_volumes_of_the_stack_are_freed(server: Server, run: Run) -> None:
    ours = [
        resource("core/v1:PersistentVolume", "", name, id=name) for name in ("models", "prometheus")
    ]
    server.state = state(NAMESPACE, KNOWN, *ours)
    server.volumes = {"models": "Released", "prometheus": "Bound", "of-another": "Released"}
    server.keep("deployed")

    code, out, _ = run()

    assert (code, server.freed) == (0, ["models"])
    assert "volume models: Released: its claim was deleted" in out


def test_a_release_in_a_namespace_of_another_stack_is_left_alone(server: Server, run: Run) -> None:
    server.state = state()
    server.keep("pending-install")

    assert run()[1].startswith("nothing to recover: ")
    assert untouched(server)


def test_lock_and_pending_operations_are_removed(server: Server, run: Run) -> None:
    server.lock()
    server.state = state(NAMESPACE, pending=[("creating", DEPLOYMENT), ("creating", RELEASE)])
    server.keep("pending-install", age=1)

    code, out, _ = run()

    assert code == 0
    assert f"the stack is locked by me@{socket.gethostname()} (pid {DEAD}) since 2026-07-" in out
    assert "  pending in the state: creating Deployment ollama\n" in out
    assert server.commands[-2:] == ["cancel --yes", "stack import"]
    imported = server.imported["deployment"]["resources"]
    assert imported == [NAMESPACE, {**DEPLOYMENT, "id": "ollama-stack/ollama"}]
    assert server.deleted == secrets(1)


@pytest.mark.parametrize("answer", ["n", "", "no", "yo", None])
def test_any_other_answer_than_yes_changes_nothing(
    server: Server, run: Run, answer: str | None
) -> None:
    server.lock()
    server.keep("pending-install")

    code, out, _ = run(answer)

    assert (code, untouched(server)) == (1, True)
    assert out.splitlines()[-1] == "nothing was changed"


def test_without_a_terminal_nothing_is_changed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.keep("pending-install")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    assert main(["recover", "--stack", "home"]) == 1
    assert untouched(server)


# Another run may still be active


@pytest.mark.parametrize(
    ("host", "pid"), [("another", DEAD), ("", os.getpid())], ids=["elsewhere", "alive"]
)
def test_a_lock_whose_holder_may_run_is_left_alone(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch, host: str, pid: int
) -> None:
    server.lock(host, pid)
    server.keep("pending-install")
    # As if this process were the CLI.
    monkeypatch.setattr("psutil.Process.name", lambda _: "pulumi")

    code, _, err = run()

    assert (code, untouched(server)) == (1, True)
    assert f"me@{host or socket.gethostname()} (pid {pid}) since 2026-07-01T10:00:00Z; once" in err
    assert err.endswith("once nothing runs there: pulumi cancel --stack home\n")


@pytest.mark.parametrize("cli", [False, True], ids=["alone", "below a CLI"])
def test_a_plugin_that_still_runs_is_reported(
    server: Server, run: Run, tmp_path_factory: pytest.TempPathFactory, cli: bool
) -> None:
    server.lock()
    server.keep("pending-install")
    plugin = server.folder / "pulumi-resource-kubernetes"
    shutil.copy("/bin/sleep", plugin)
    parent = tmp_path_factory.mktemp("bin") / ("pulumi" if cli else "sh")
    shutil.copy("/bin/sh", parent)
    # A CLI with another working directory counts too.
    start = f"cd {server.folder}; {plugin} 100 & echo $!; cd /; wait"
    with subprocess.Popen([parent, "-c", start], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert eventually(lambda: psutil.Process(pid).name() == plugin.name)
        try:
            code, _, err = run()
        finally:
            os.kill(pid, signal.SIGKILL)

    advice = ": wait, or end it with" if cli else " without its CLI; end it with"
    assert (code, untouched(server)) == (1, True)
    assert err == f"error: {plugin.name} still runs{advice}: kill {pid}\n"
    assert run()[0] == 0


def test_a_reused_pid_does_not_hold_the_lock(server: Server, run: Run) -> None:
    server.lock(pid=os.getpid())
    server.keep("pending-install")

    assert run()[0] == 0
    assert server.deleted == secrets(1)


def test_without_a_lock_a_recent_revision_is_left_alone(server: Server, run: Run) -> None:
    server.keep("pending-upgrade", age=20)

    code, _, err = run()

    assert (code, untouched(server)) == (1, True)
    assert "Helm may still run, it wrote 2" in err


def test_a_state_that_changed_during_the_question_is_left_alone(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.keep("pending-install")

    def agreed() -> bool:
        server.keep("deployed")
        return True

    monkeypatch.setattr(recover, "_confirmed", agreed)
    code, _, err = run()

    assert (code, untouched(server)) == (1, True)
    assert "the stack changed meanwhile" in err


# Bad input


@pytest.mark.parametrize("command", ["stack export", "whoami --json"])
def test_a_state_that_cannot_be_read_is_one_line(server: Server, run: Run, command: str) -> None:
    server.refused[command] = "no stack named\n  'home' found"

    code, out, err = run()

    assert (code, out) == (1, "")
    assert err == f"error: pulumi {command}: error: no stack named 'home' found\n"


def test_an_unreachable_cluster_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> None:
        raise UnreadableError("/api/v1/secrets: no answer: timed out")

    monkeypatch.setattr(releases, "revisions", unreachable)

    assert run() == (1, "", "error: /api/v1/secrets: no answer: timed out\n")


def test_a_lock_in_a_bucket_is_the_clis_error(server: Server, run: Run) -> None:
    server.url = "s3://bucket"
    server.state = state(NAMESPACE, KNOWN, pending=[("creating", DEPLOYMENT)])
    server.refused["stack import"] = "the stack is currently locked by 1 lock(s): me@other (pid 3)"
    server.keep("pending-upgrade")

    code, _, err = run()

    assert code == 1
    assert "pulumi stack import: error: the stack is currently locked by 1 lock(s)" in err
    assert server.deleted == []


def test_a_secret_that_cannot_be_deleted_is_one_line(server: Server, run: Run) -> None:
    server.keep("pending-install")
    server.deletion = UnreadableError("/api/v1/…: 403 so it is")

    code, _, err = run()

    assert (code, err) == (1, "error: /api/v1/…: 403 so it is\n")


# The state


def test_a_pending_creation_becomes_one_resource_with_an_id() -> None:
    old = {**DEPLOYMENT, "id": "ollama-stack/ollama", "pendingReplacement": True}
    after = {**DEPLOYMENT, "id": "ollama-stack/ollama"}
    replaced = {**old, "delete": True}
    password = {"urn": "urn:p", "type": "random:index:RandomPassword", "inputs": {}}

    def resources_after(*resources: dict[str, Any], pending: Any) -> Any:
        deployment = without_pending(state(*resources, pending=pending))["deployment"]
        assert "pending_operations" not in deployment
        return deployment["resources"]

    assert resources_after(old, pending=[("creating", DEPLOYMENT)]) == [after]
    assert resources_after(replaced, pending=[("creating", DEPLOYMENT)]) == [replaced, after]
    assert resources_after(after, pending=[("creating", DEPLOYMENT)]) == [after]
    assert resources_after(after, pending=[("deleting", after), ("updating", after)]) == [after]
    assert resources_after(pending=[("creating", RELEASE), ("creating", password)]) == []
