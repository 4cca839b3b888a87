"""`make recover` after `up` or `destroy` was killed."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from doctor_lab import Place
from kill_lab import HELM, IN_RELEASE, end, killed, objects, running, stack_of
from live_stack import LiveStack, quiet
from pulumi.automation import CommandError
from waiting import eventually

from ops import doctor, releases, stacks
from ops import recover as recovery
from ops.__main__ import main
from ops.cluster import Cluster as Live
from ops.recover import export_state
from sandbox.build import Tools
from sandbox.engine import OWN_CHART, Engine

Recover = Callable[[], tuple[int, str, str]]
DELETED = IN_RELEASE.replace("object.", "oldObject.")


@pytest.fixture(autouse=True)
def as_in_the_project(live_stack: LiveStack) -> Iterator[None]:
    """Restore the stack file after each test."""
    yield
    live_stack.reset()


@pytest.fixture
def recover(
    live_stack: LiveStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Recover:
    """Runs the command; returns exit code, output and errors."""
    monkeypatch.setattr(stacks, "find", lambda _: stack_of(live_stack))

    def run() -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["recover", "--stack", "sandbox", "--yes"])
        return (code, *capsys.readouterr())

    return run


def statuses(live_stack: LiveStack) -> list[str]:
    """Return the status of each of Helm's revisions, oldest first."""
    live = Live(live_stack.cluster.context, live_stack.cluster.kubeconfig)
    return [
        revision.status for revision in releases.revisions(live, "observability", "kube-prom-stack")
    ]


def up_as_if_never_killed(live_stack: LiveStack, before: set[str], pods: dict[str, str]) -> None:
    """Run `up`; assert that it repairs nothing, and that objects and pods are as before."""
    lines: list[str] = []
    live_stack.engine.up(lines.append)

    assert [line for line in lines if "cut off" in line] == []
    # Controllers create and delete objects after `up`.
    assert eventually(lambda: objects(live_stack) == before), objects(live_stack) ^ before
    assert pods.items() <= running(live_stack).items()
    assert set(live_stack.engine.preview()) <= {"same", "OpType.SAME"}
    assert "pending_operations" not in export_state(stack_of(live_stack))["deployment"]
    assert statuses(live_stack)[-1] == "deployed"


@pytest.mark.faults
def test_destroy_continues_a_killed_destroy_and_recover_removes_a_pending_install(
    live_stack: LiveStack, tools: Tools, recover: Recover
) -> None:
    before = objects(live_stack)
    killed(live_stack, tools, "destroy", "DELETE", "services", DELETED, policy="Fail")
    assert statuses(live_stack)[-1] == "uninstalling"
    live_stack.engine.destroy(quiet)
    assert [name for name in objects(live_stack) if "kube-prom-stack" in name] == []

    killed(live_stack, tools, "up", "UPDATE", "secrets", HELM, policy="Fail")
    pods = running(live_stack)
    assert statuses(live_stack) == ["pending-install"]
    problems = "; ".join(Place(live_stack.cluster, live_stack.engine).problems(doctor.releases))
    assert "revision 1 is pending-install: an up was cut off; make recover" in problems
    assert "pending in the state: creating Release monitoring-release; make recover" in problems

    code, out, err = recover()

    assert (code, err) == (0, "")
    assert "kube-prom-stack: revision 1 is pending-install: an up was cut off" in out
    assert "pending in the state: creating Release monitoring-release" in out
    assert out.splitlines()[-1] == "next: make up STACK=sandbox"
    up_as_if_never_killed(live_stack, before, pods)
    assert recover()[:2] == (
        0,
        "nothing to recover: no lock, nothing pending in the state, every release finished\n",
    )


@pytest.mark.faults
def test_recover_waits_for_a_plugin_that_outlives_its_killed_cli(
    live_stack: LiveStack, tools: Tools, recover: Recover
) -> None:
    before = objects(live_stack)
    live_stack.engine.destroy(quiet)
    plugins = killed(live_stack, tools, "up", "UPDATE", "secrets", HELM, plugins=False)
    assert eventually(lambda: statuses(live_stack) == ["deployed"])
    pods = running(live_stack)

    code, out, err = recover()
    assert code == 1
    assert "observability/kube-prom-stack: it is deployed, but not in the state" in out
    assert "pulumi-resource-kubernetes still runs without its CLI; end it with: kill " in err
    assert statuses(live_stack) == ["deployed"]

    end(plugins)
    assert recover()[0] == 0
    assert statuses(live_stack) == []
    up_as_if_never_killed(live_stack, before, pods)


def test_recover_removes_a_pending_upgrade(
    live_stack: LiveStack,
    tools: Tools,
    recover: Recover,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chart = shutil.copytree(OWN_CHART, tmp_path / "chart")
    sheet = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**sheet, "version": "99.0.0"}))
    (chart / "templates/more.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-the-upgrade}\n"
    )
    live_stack.edit(
        lambda keys: keys.update({"homelab:charts": {"kube-prometheus-stack": str(chart)}})
    )
    expected = objects(live_stack) | {"ConfigMap. observability/from-the-upgrade"}
    killed(live_stack, tools, "up", "UPDATE", "secrets", HELM, policy="Fail")
    pods = running(live_stack)
    assert statuses(live_stack)[-2:] == ["deployed", "pending-upgrade"]
    with monkeypatch.context() as by_hand:
        # As with `pulumi cancel` and `pulumi up`: without the lock, its holder is unknown.
        by_hand.setattr(Engine, "_take_up", lambda self, *_: self._run("cancel", "--yes"))
        with pytest.raises(CommandError, match=r"another operation .* is in progress"):
            live_stack.up()
    monkeypatch.setattr(recovery, "AGE", 3600)
    assert "Helm may still run, it wrote " in recover()[2]
    monkeypatch.setattr(recovery, "AGE", 0)

    code, out, err = recover()

    assert (code, err) == (0, "")
    assert "is pending-upgrade: an up was cut off" in out
    assert statuses(live_stack)[-1] == "deployed"
    up_as_if_never_killed(live_stack, expected, pods)
    live_stack.reset()
    live_stack.up()


@pytest.mark.faults
def test_recover_removes_a_release_that_is_uninstalling(
    live_stack: LiveStack, tools: Tools, recover: Recover
) -> None:
    before = objects(live_stack)
    killed(live_stack, tools, "destroy", "DELETE", "services", DELETED, policy="Fail")
    assert statuses(live_stack)[-1] == "uninstalling"

    code, out, err = recover()

    assert (code, err) == (0, "")
    assert "is uninstalling: a destroy was cut off" in out
    assert statuses(live_stack) == []
    up_as_if_never_killed(live_stack, before, {})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("command", "verb", "resource", "when"),
    [
        ("up", "CREATE", "persistentvolumes", "true"),
        ("up", "CREATE", "services", f"request.namespace == 'observability' && {IN_RELEASE}"),
        ("up", "CREATE", "pods", "request.namespace == 'ollama-stack'"),
        ("destroy", "DELETE", "persistentvolumes", "true"),
    ],
    ids=["a volume is made", "half of a release", "pods are waited for", "a volume is deleted"],
)
def test_after_a_kill_at_any_moment_up_ends_as_if_never_killed(
    live_stack: LiveStack,
    tools: Tools,
    recover: Recover,
    command: str,
    verb: str,
    resource: str,
    when: str,
) -> None:
    before = objects(live_stack)
    if command == "up":
        live_stack.engine.destroy(quiet)

    killed(live_stack, tools, command, verb, resource, when)

    code, _, err = recover()
    assert (code, err) == (0, "")
    up_as_if_never_killed(live_stack, before, {})
