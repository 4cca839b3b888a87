"""Recovery without a cluster: what is found, who may still be at work, and bad input."""

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
from kubernetes.client import ApiException
from waiting import eventually

from ops import recover, releases, stacks
from ops.__main__ import main
from ops.cluster import UnreadableError
from ops.recover import without_pending
from ops.releases import Revision
from ops.stacks import Stack

URN = "urn:pulumi:home::homelab::kubernetes:{}::{}"
DEAD = 2**22 + 1
"""A pid that no process of Linux can have."""


def resource(type_: str, namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """A Kubernetes object as the state has it."""
    metadata = {"namespace": namespace, "name": name} if namespace else {"name": name}
    about = {"urn": URN.format(type_, name), "type": f"kubernetes:{type_}", "custom": True}
    return {**about, "inputs": {"metadata": metadata}, **more}


NAMESPACE = resource("core/v1:Namespace", "", "observability", id="observability")
DEPLOYMENT = resource("apps/v1:Deployment", "ollama-stack", "ollama")
RELEASE = {
    **resource("helm.sh/v3:Release", "", "monitoring-release"),
    "inputs": {"name": "kube-prom-stack", "namespace": "observability"},
}
KNOWN = {**RELEASE, "id": "observability/kube-prom-stack"}


def state(*resources: dict[str, Any], pending: Any = ()) -> dict[str, Any]:
    """What `pulumi stack export` gives."""
    operations = [{"resource": one, "type": kind} for kind, one in pending]
    deployment = {"resources": list(resources), "pending_operations": operations}
    return {"version": 3, "deployment": deployment}


class Server:
    """A stack whose CLI and cluster answer what a test says, and keep what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.deleted = folder, list[str](), list[str]()
        self.state: Any = state(NAMESPACE, KNOWN)
        self.imported: Any = None
        self.kept: list[Revision] = []
        self.url = f"{folder.as_uri()}?metadata=skip"
        self.refused: dict[str, str] = {}
        self.deletion: Exception | None = None
        self.volumes: dict[str, str] = {}
        self.freed: list[str] = []

    def ask(self, path: str) -> Any:
        """Give the volumes, each in its phase."""
        assert path == "/api/v1/persistentvolumes"
        items = self.volumes.items()
        return {"items": [{"metadata": {"name": n}, "status": {"phase": p}} for n, p in items]}

    def patch_persistent_volume(self, name: str, body: Any, **_: Any) -> None:
        """Keep which volumes are freed."""
        assert body == {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}
        self.freed.append(name)

    def cli(self, *arguments: str) -> CompletedProcess[str]:
        """Answer as the CLI does."""
        command = " ".join(arguments[:2])
        self.asked.append(command)
        if command in self.refused:
            return CompletedProcess([], 255, "", f"error: {self.refused[command]}\n")
        if command == "stack import":
            self.imported = json.loads(Path(arguments[3]).read_text())
        answers = {"stack export": self.state, "whoami --json": {"user": "me", "url": self.url}}
        return CompletedProcess([], 0, json.dumps(answers.get(command, "")), "")

    def keep(self, *statuses: str, age: float = 3600) -> None:
        """Let Helm keep these revisions of kube-prom-stack, the oldest first."""
        about = ("observability", "kube-prom-stack")
        since = int(time.time() - age)
        self.kept = [Revision(*about, n, status, since) for n, status in enumerate(statuses, 1)]

    def lock(self, host: str = "", pid: int = DEAD) -> None:
        """Let the file backend have a lock."""
        path = self.folder / ".pulumi/locks/organization/homelab/home/1234.json"
        path.parent.mkdir(parents=True)
        since = "2026-07-01T10:00:00Z"
        who = {"pid": pid, "username": "me", "hostname": host or socket.gethostname()}
        path.write_text(json.dumps({**who, "timestamp": since}))

    def delete_namespaced_secret(self, name: str, namespace: str, **_: Any) -> None:
        """Delete as the API server does."""
        if self.deletion:
            raise self.deletion
        self.deleted.append(f"{namespace}/{name}")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(tmp_path)
    stack = Stack(name="home", cli=made.cli, kubeconfig=None, simulated=False, folder=tmp_path)
    monkeypatch.setattr(stacks, "find", lambda _: stack)
    monkeypatch.setattr(recover, "Cluster", lambda *_: made)
    monkeypatch.setattr(
        releases,
        "revisions",
        lambda _, namespace, name: [
            one for one in made.kept if (one.namespace, one.name) == (namespace, name)
        ],
    )
    monkeypatch.setattr(recover, "new_client_from_config", lambda *_: None)
    monkeypatch.setattr(recover, "CoreV1Api", lambda _: made)
    return made


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command, with an answer to its question."""

    def command(answer: str | None = "y", stack: str = "home") -> tuple[int, str, str]:
        server.asked.clear()

        def asked(_: str) -> str:
            if answer is None:
                raise KeyboardInterrupt
            return answer

        monkeypatch.setattr("builtins.input", asked)
        return (main(["recover", "--stack", stack]), *capsys.readouterr())

    return command


def untouched(server: Server) -> bool:
    """Say whether nothing was changed."""
    return not server.deleted + server.freed and {*server.asked} <= {
        "stack export",
        "whoami --json",
    }


def secrets(*numbers: int) -> list[str]:
    """Namespace and name of Secrets of kube-prom-stack."""
    return [f"observability/sh.helm.release.v1.kube-prom-stack.v{number}" for number in numbers]


def test_the_releases_are_all_that_the_program_makes() -> None:
    made = [one.inputs for one in deployed("home").of_kind("Release")]

    assert {f"{one['namespace']}/{one['name']}" for one in made} == {*recover.RELEASES}


def test_nothing_to_recover_is_a_line(server: Server, run: Run) -> None:
    server.keep("superseded", "deployed")

    code, out, err = run()

    assert (code, err, untouched(server)) == (0, "", True)
    assert out.startswith("nothing to recover: ")


@pytest.mark.parametrize(
    ("known", "statuses", "gone"),
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
def test_what_goes_is_what_stands_in_the_way(
    server: Server, run: Run, known: bool, statuses: list[str], gone: list[int]
) -> None:
    server.state = state(NAMESPACE, *([KNOWN] if known else []))
    server.keep(*statuses)

    code, out, err = run()

    assert (code, err) == (0, "")
    assert server.deleted == secrets(*gone)
    assert out.splitlines()[-1] == "next: make up STACK=home"


def test_only_the_stacks_own_volumes_are_freed_for_new_claims(server: Server, run: Run) -> None:
    ours = [
        resource("core/v1:PersistentVolume", "", name, id=name) for name in ("models", "prometheus")
    ]
    server.state = state(NAMESPACE, KNOWN, *ours)
    server.volumes = {"models": "Released", "prometheus": "Bound", "of-another": "Released"}
    server.keep("deployed")

    code, out, _ = run()

    assert (code, server.freed) == (0, ["models"])
    assert "volume models: Released, its claim is gone" in out


def test_a_release_in_a_namespace_of_somebody_else_stays(server: Server, run: Run) -> None:
    server.state = state()
    server.keep("pending-install")

    assert run()[1].startswith("nothing to recover: ")
    assert untouched(server)


def test_a_lock_and_what_is_pending_are_mended(server: Server, run: Run) -> None:
    server.lock()
    server.state = state(NAMESPACE, pending=[("creating", DEPLOYMENT), ("creating", RELEASE)])
    server.keep("pending-install", age=1)

    code, out, _ = run()

    assert code == 0
    assert f"the stack is locked by me@{socket.gethostname()} (pid {DEAD}) since 2026-07-" in out
    assert "  pending in the state: creating Deployment ollama\n" in out
    assert server.asked[-2:] == ["cancel --yes", "stack import"]
    made = server.imported["deployment"]["resources"]
    assert made == [NAMESPACE, {**DEPLOYMENT, "id": "ollama-stack/ollama"}]
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


def test_no_terminal_is_no_yes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.keep("pending-install")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    assert main(["recover", "--stack", "home"]) == 1
    assert untouched(server)


# Somebody may be at work


@pytest.mark.parametrize(
    ("host", "pid"), [("another", DEAD), ("", os.getpid())], ids=["elsewhere", "alive"]
)
def test_a_lock_whose_holder_may_live_is_left(
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
def test_a_plugin_that_lives_on_is_named(
    server: Server, run: Run, tmp_path_factory: pytest.TempPathFactory, cli: bool
) -> None:
    server.lock()
    server.keep("pending-install")
    plugin = server.folder / "pulumi-resource-kubernetes"
    shutil.copy("/bin/sleep", plugin)
    parent = tmp_path_factory.mktemp("bin") / ("pulumi" if cli else "sh")
    shutil.copy("/bin/sh", parent)
    # The CLI itself may run in another folder.
    start = f"cd {server.folder}; {plugin} 100 & echo $!; cd /; wait"
    with subprocess.Popen([parent, "-c", start], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert eventually(lambda: psutil.Process(pid).name() == plugin.name)
        try:
            code, _, err = run()
        finally:
            os.kill(pid, signal.SIGKILL)

    how = ": wait, or end it with" if cli else ", but nothing waits for it"
    assert (code, untouched(server)) == (1, True)
    assert err == f"error: {plugin.name} still runs{how}: kill {pid}\n"
    assert run()[0] == 0


def test_a_pid_that_another_program_has_by_now_is_no_holder(server: Server, run: Run) -> None:
    server.lock(pid=os.getpid())
    server.keep("pending-install")

    assert run()[0] == 0
    assert server.deleted == secrets(1)


def test_without_a_lock_a_young_revision_may_be_helms_work(server: Server, run: Run) -> None:
    server.keep("pending-upgrade", age=20)

    code, _, err = run()

    assert (code, untouched(server)) == (1, True)
    assert "Helm may still run, it wrote 2" in err


def test_a_state_that_changed_while_it_asked_is_left(
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


def test_a_stack_file_that_is_missing_is_one_line(run: Run) -> None:
    code, out, err = run(stack="nowhere")

    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "Pulumi.nowhere.yaml: cannot be read" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["stack export", "whoami --json"])
def test_a_state_that_cannot_be_read_is_one_line(server: Server, run: Run, command: str) -> None:
    server.refused[command] = "no stack named\n  'home' found"

    code, out, err = run()

    assert (code, out) == (1, "")
    assert err == f"error: pulumi {command}: error: no stack named 'home' found\n"


def test_a_cluster_that_is_away_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise UnreadableError("/api/v1/secrets: no answer: timed out")

    monkeypatch.setattr(releases, "revisions", away)

    assert run() == (1, "", "error: /api/v1/secrets: no answer: timed out\n")


def test_a_lock_in_a_bucket_is_the_clis_to_tell(server: Server, run: Run) -> None:
    server.url = "s3://bucket"
    server.state = state(NAMESPACE, KNOWN, pending=[("creating", DEPLOYMENT)])
    server.refused["stack import"] = "the stack is currently locked by 1 lock(s): me@other (pid 3)"
    server.keep("pending-upgrade")

    code, _, err = run()

    assert code == 1
    assert "pulumi stack import: error: the stack is currently locked by 1 lock(s)" in err
    assert server.deleted == []


@pytest.mark.parametrize(("status", "code"), [(404, 0), (403, 1)])
def test_a_secret_that_is_gone_by_now_is_as_good_as_deleted(
    server: Server, run: Run, status: int, code: int
) -> None:
    server.keep("pending-install")
    server.deletion = ApiException(status=status, reason="so it is")

    ended, _, err = run()

    assert ended == code
    assert err == ("" if code == 0 else f"error: Secret {secrets(1)[0]}: 403 so it is\n")


# The state


def test_what_was_being_made_is_taken_for_made_once() -> None:
    old = {**DEPLOYMENT, "id": "ollama-stack/ollama", "pendingReplacement": True}
    after = {**DEPLOYMENT, "id": "ollama-stack/ollama"}
    kept = {**old, "delete": True}
    password = {"urn": "urn:p", "type": "random:index:RandomPassword", "inputs": {}}

    def made(*resources: dict[str, Any], pending: Any) -> Any:
        deployment = without_pending(state(*resources, pending=pending))["deployment"]
        assert "pending_operations" not in deployment
        return deployment["resources"]

    assert made(old, pending=[("creating", DEPLOYMENT)]) == [after]
    assert made(kept, pending=[("creating", DEPLOYMENT)]) == [kept, after]
    assert made(after, pending=[("creating", DEPLOYMENT)]) == [after]
    assert made(after, pending=[("deleting", after), ("updating", after)]) == [after]
    assert made(pending=[("creating", RELEASE), ("creating", password)]) == []
