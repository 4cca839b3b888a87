"""`make restore` on a scripted API server: the order of its steps, and what a failure leaves."""

import json
import socket
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from harness import deployed, environment
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api
from urllib3.exceptions import HTTPError

from ops import cluster as api
from ops import restore as command
from ops import stacks
from ops.__main__ import main
from ops.restore import ChatPage, RestoreError, restore

CRON_JOB = "kubernetes:batch/v1:CronJob::open-webui-backup-restore"
STOPPED, STARTED = ["NoSchedule", 0], [1, "untaint"]


class _Cluster:
    """A scripted API server with the chat page and the restore's CronJob; notes the requests."""

    api_client = ApiClient()

    def __init__(
        self,
        *codes: tuple[str, int],
        backups: bool = True,
        running: str = "",
        mute: Exception | None = None,
    ):
        """Let the containers of the Job end with these exit codes."""
        self.codes, self.backups, self.running, self.mute = codes, backups, running, mute
        self.noted: list[Any] = []
        self.job: dict[str, Any] = {}
        self.names: list[str] = []
        self.create_errors: list[Exception] = []
        self.wait_errors: list[BaseException] = []

    def read_namespaced_cron_job(self, name: str, _: str) -> Any:
        if not self.backups:
            raise ApiException(404)
        cron_job = deployed("backups")[CRON_JOB].inputs
        assert name == cron_job["metadata"]["name"]
        return cron_job | {"metadata": cron_job["metadata"] | {"uid": "of the template"}}

    def list_namespaced_job(self, _: str) -> Any:
        metadata = SimpleNamespace(name=self.running)
        status = SimpleNamespace(active=1)
        job = SimpleNamespace(metadata=metadata, status=status)
        return SimpleNamespace(items=[job] if self.running else [])

    def list_node(self) -> Any:
        other = SimpleNamespace(key="of another", effect="PreferNoSchedule")
        spec, metadata = SimpleNamespace(taints=[other]), SimpleNamespace(name="evo4t")
        return SimpleNamespace(items=[SimpleNamespace(spec=spec, metadata=metadata)])

    def patch_node(self, _: str, body: Any) -> None:
        other, *own = body["spec"]["taints"]
        assert other.key == "of another"
        self.noted.append(own[0]["effect"] if own else "untaint")

    def patch_namespaced_deployment_scale(self, _: str, __: str, body: Any) -> None:
        self.noted.append(body["spec"]["replicas"])

    def patch_namespaced_deployment(self, _: str, __: str, body: Any) -> None:
        (container,) = body["spec"]["template"]["spec"]["containers"]
        self.noted.append(container["image"])

    def read_namespaced_deployment_status(self, _: str, __: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(ready_replicas=1))

    def create_namespaced_job(self, _: str, job: dict[str, Any]) -> None:
        (owner,) = job["metadata"]["ownerReferences"]
        assert owner["uid"] == "of the template"
        self.job = job["spec"]["template"]["spec"]
        self.names.append(job["metadata"]["name"])
        self.noted.append("job")
        if self.create_errors:
            raise self.create_errors.pop(0)

    def read_namespaced_job_status(self, name: str, __: str) -> Any:
        assert name == self.names[-1]
        if self.wait_errors:
            raise self.wait_errors.pop(0)
        return SimpleNamespace(status=SimpleNamespace(succeeded=0, failed=1))

    def list_namespaced_pod(self, _: str, label_selector: str) -> Any:
        if label_selector.endswith("=open-webui"):
            # An evicted pod is listed until it is deleted.
            evicted = SimpleNamespace(status=SimpleNamespace(phase="Failed"))
            return SimpleNamespace(items=[evicted])

        def ended(name: str, code: int) -> Any:
            terminated = SimpleNamespace(exit_code=code)
            state = SimpleNamespace(waiting=None, terminated=terminated)
            return SimpleNamespace(name=name, state=state)

        first, *rest = [ended(*code) for code in self.codes]
        status = SimpleNamespace(init_container_statuses=[first], container_statuses=rest)
        pod = SimpleNamespace(metadata=SimpleNamespace(name="p"), status=status)
        return SimpleNamespace(items=[pod])

    def read_namespaced_pod_log(self, _: str, __: str, container: str, **___: Any) -> str:
        if self.mute:
            raise self.mute
        return f"first\n{container} said this"

    def page(self) -> ChatPage:
        """The chat page in it."""
        return ChatPage(self, self, self, timeout=5)


class _Stuck(_Cluster):
    """A cluster whose Job does not end: its pod waits, or runs if `at_work`."""

    at_work = False
    waiting: Any = None

    def read_namespaced_job_status(self, _: str, __: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(succeeded=0, failed=0))

    def delete_namespaced_job(self, name: str, _: str, propagation_policy: str) -> None:
        assert name == self.names[-1]
        self.noted.append(f"delete {propagation_policy}")

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        if label_selector.endswith("=open-webui"):
            return super().list_namespaced_pod(namespace, label_selector)
        running = self.at_work or None
        state = SimpleNamespace(waiting=self.waiting, running=running, terminated=None)
        container = SimpleNamespace(name="restore", state=state)
        status = SimpleNamespace(init_container_statuses=None, container_statuses=[container])
        pod = SimpleNamespace(metadata=SimpleNamespace(name="p"), status=status)
        deleted = any("delete" in str(note) for note in self.noted)
        return SimpleNamespace(items=[] if deleted else [pod])


def container(cluster: _Cluster, kind: str) -> dict[str, Any]:
    (spec,) = cluster.job[kind]
    assert isinstance(spec, dict)
    return spec


def test_open_webui_is_stopped_before_and_started_after_the_job() -> None:
    cluster = _Cluster(("fetch", 0), ("restore", 0))

    assert restore(cluster.page(), "1a2b3c4d", None) == "restore said this"
    assert cluster.noted == [*STOPPED, "job", *STARTED]
    assert environment(container(cluster, "initContainers"))["SNAPSHOT"] == "1a2b3c4d"


def test_an_older_image_runs_the_job_and_then_the_page() -> None:
    cluster = _Cluster(("fetch", 0), ("restore", 0))
    old = "ghcr.io/open-webui/open-webui:v0.12.3"

    line = restore(cluster.page(), "1a2b3c4d", old)
    assert cluster.noted == [*STOPPED, "job", old, *STARTED]
    assert container(cluster, "containers")["image"] == old
    assert container(cluster, "initContainers")["image"].startswith("restic/restic:")
    assert f"write webui.image: {old} into the stack file" in line


@pytest.mark.parametrize(
    "codes", [[("fetch", 12)], [("fetch", 137)], [("fetch", 0), ("restore", 1)]]
)
def test_a_job_that_changed_nothing_starts_the_page_again(codes: list[tuple[str, int]]) -> None:
    cluster = _Cluster(*codes)

    with pytest.raises(RestoreError, match=f"nothing was changed.*: {codes[-1][0]} said this"):
        restore(cluster.page(), "latest", "ghcr.io/open-webui/open-webui:v0.12.3")
    assert cluster.noted == [*STOPPED, "job", *STARTED]


def test_without_the_jobs_exit_status_the_page_stays_stopped() -> None:
    cluster = _Stuck()
    cluster.read_namespaced_job_status = lambda *_: SimpleNamespace(  # type: ignore[method-assign]
        status=SimpleNamespace(succeeded=0, failed=1)
    )

    with pytest.raises(
        RestoreError, match=r"could not read the exit status of Job \S+; the page is stopped"
    ):
        restore(cluster.page(), "latest", None)
    assert cluster.noted == [*STOPPED, "job"]


def test_after_a_killed_restore_the_page_stays_stopped() -> None:
    cluster = _Cluster(("fetch", 0), ("restore", 137))

    with pytest.raises(RestoreError, match=r"cut off with exit code 137.*the page is stopped"):
        restore(cluster.page(), "latest", None)
    assert cluster.noted == [*STOPPED, "job"]


def test_without_backups_the_page_is_not_stopped() -> None:
    cluster = _Cluster(backups=False)

    with pytest.raises(RestoreError, match=r"webui\.backup is not set"):
        restore(cluster.page(), "latest", None)
    assert cluster.noted == []


@pytest.mark.parametrize("job", ["open-webui-restore-x", "open-webui-backup-29412345"])
def test_while_another_job_runs_the_page_is_not_stopped(job: str) -> None:
    cluster = _Cluster(running=job)

    with pytest.raises(RestoreError, match=f"Job {job} is running: try again when it is over"):
        restore(cluster.page(), "latest", None)
    assert cluster.noted == []


@pytest.mark.parametrize("mute", [ApiException(500, "no kubelet"), HTTPError("timed out")])
def test_the_page_starts_although_the_log_cannot_be_read(mute: Exception) -> None:
    cluster = _Cluster(("fetch", 0), ("restore", 0), mute=mute)

    assert "its log cannot be read" in restore(cluster.page(), "latest", None)
    assert cluster.noted == [*STOPPED, "job", *STARTED]


def test_listing_snapshots_does_not_stop_the_page() -> None:
    cluster = _Cluster(("fetch", 0))
    page = cluster.page()

    *_, log = page.run(page.list_job(), "listing")
    assert log == "first\nfetch said this"
    assert cluster.noted == ["job"]
    assert container(cluster, "containers")["command"][-1] == "list"
    assert "initContainers" not in cluster.job
    assert '"data"' not in json.dumps(cluster.job)


@pytest.mark.parametrize("code", [0, 1])
def test_the_command_lists_the_backups_or_says_why_not(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = _Cluster(("fetch", code))
    monkeypatch.setattr(command, "ChatPage", lambda *_, **__: cluster.page())
    monkeypatch.setattr(command, "Cluster", Mock())
    monkeypatch.setattr(stacks, "find", Mock())

    assert main(["restore", "--stack", "home", "--list"]) == code
    out, err = capsys.readouterr()
    assert out == ("" if code else "first\nfetch said this\n")
    line = "error: no backups could be listed: first fetch said this\n"
    assert err == (line if code else "")


def test_a_job_that_does_not_start_is_deleted_and_the_page_started() -> None:
    cluster = _Stuck()

    with pytest.raises(RestoreError, match="nothing was changed, and the page runs as before"):
        restore(ChatPage(cluster, cluster, cluster, timeout=0.1), "latest", None)
    assert cluster.noted == [*STOPPED, "job", "delete Foreground", *STARTED]


def test_an_image_that_cannot_be_pulled_is_not_waited_for() -> None:
    cluster = _Stuck()
    message = 'Back-off pulling image "page:typo"'
    cluster.waiting = SimpleNamespace(reason="ImagePullBackOff", message=message)

    with pytest.raises(RestoreError, match=f"runs as before: ImagePullBackOff: {message}"):
        restore(ChatPage(cluster, cluster, cluster, timeout=60), "latest", "page:typo")
    assert cluster.noted == [*STOPPED, "job", "delete Foreground", *STARTED]


def test_after_the_timeout_a_running_restore_continues_and_the_page_stays_stopped() -> None:
    cluster = _Stuck()
    cluster.at_work = True

    with pytest.raises(RestoreError, match=r"given up after .*; the page is stopped"):
        restore(ChatPage(cluster, cluster, cluster, timeout=0.1), "latest", None)
    assert cluster.noted == [*STOPPED, "job"]


def test_an_unanswered_request_is_repeated() -> None:
    cluster = _Cluster(("fetch", 0), ("restore", 0))
    cluster.wait_errors = [HTTPError("no route to host"), HTTPError("timed out")]

    assert restore(cluster.page(), "latest", None) == "restore said this"
    assert cluster.noted == [*STOPPED, "job", *STARTED]


def test_a_job_whose_creation_was_not_answered_is_not_created_twice() -> None:
    cluster = _Cluster(("fetch", 0), ("restore", 0))
    cluster.create_errors = [HTTPError("timed out"), ApiException(409, "Conflict")]

    assert restore(cluster.page(), "latest", None) == "restore said this"
    assert cluster.noted == [*STOPPED, "job", "job", *STARTED]
    assert len({*cluster.names}) == 1


def test_if_the_job_cannot_be_created_the_page_starts_again() -> None:
    cluster = _Cluster(("fetch", 0), ("restore", 0))
    cluster.create_errors = [ApiException(403, "Forbidden")]

    with pytest.raises(
        RestoreError, match=r"runs as before: Job \S+ not created: .* 403 Forbidden"
    ):
        restore(cluster.page(), "latest", None)
    assert cluster.noted == [*STOPPED, "job", *STARTED]


@pytest.mark.parametrize(
    ("error", "raised", "line"),
    [
        (ApiException(500, "etcd"), RestoreError, "the API server: 500 etcd"),
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted; a restore that has started goes on"),
    ],
)
def test_an_error_while_the_page_is_stopped_says_how_to_continue(
    error: BaseException, raised: type[BaseException], line: str
) -> None:
    cluster = _Stuck()
    cluster.at_work = True
    cluster.read_namespaced_job_status = Mock(side_effect=error)  # type: ignore[method-assign]

    with pytest.raises(raised) as caught:
        restore(cluster.page(), "latest", None)
    advice = "the page is stopped; run the same command again, or see docs/backups.md"
    assert str(caught.value) == f"{line}; {advice}"
    assert cluster.noted == [*STOPPED, "job"]


def test_every_request_has_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TIMEOUTS", (5, 0.01))
    # The kernel accepts connections to it; nobody answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        configuration = Configuration(host=f"http://127.0.0.1:{silent.getsockname()[1]}")
        core = CoreV1Api(api.Client(configuration))

        with pytest.raises(HTTPError):
            core.list_node()
