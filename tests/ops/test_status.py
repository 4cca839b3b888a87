"""`make status` on scripted answers of the API server and Prometheus."""

import argparse
import json
import re
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from harness import backup_config, read, stack_config

from components.observability import reader
from ops import stacks, status
from ops.cluster import UnreadableError
from ops.status_metrics import DISKS, LAST_BACKUP, MODELS, PROMETHEUS, SPEEDS

ALERTS = f"{PROMETHEUS}alerts"
EVENTS = "/api/v1/namespaces/ollama-stack/events"


def ago(**time: float) -> str:
    """A time in the past as Kubernetes writes it; a little more, so that a unit is full."""
    return f"'{datetime.now(UTC) - timedelta(seconds=5, **time):%Y-%m-%dT%H:%M:%SZ}'"


WELL = f"""
/api/v1/pods:
  - metadata:
      namespace: ollama-stack
      name: ollama-5f6d
      uid: u-ollama
      creationTimestamp: {ago(days=3)}
      labels: {{app.kubernetes.io/name: ollama}}
    spec:
      initContainers: [{{name: prepare}}, {{name: ollama, restartPolicy: Always}}]
      containers: [{{name: gateway}}]
      volumes: [{{name: models, persistentVolumeClaim: {{claimName: models}}}}, {{name: tmp}}]
    status:
      phase: Running
      conditions: [{{type: Ready, status: "True", lastTransitionTime: {ago(days=3)}}}]
      initContainerStatuses:
        - {{name: prepare, ready: true, restartCount: 0, state: {{terminated: {{exitCode: 0}}}}}}
        - {{name: ollama, ready: true, restartCount: 2, state: {{running: {{}}}}}}
      containerStatuses: [{{name: gateway, ready: true, restartCount: 1, state: {{running: {{}}}}}}]
  - metadata:
      namespace: ollama-stack
      name: ollama-models-1-abcde
      uid: u-job
      creationTimestamp: {ago(days=3)}
      labels: {{app.kubernetes.io/name: ollama-models}}
    spec: {{containers: [{{name: pull}}]}}
    status: {{phase: Succeeded}}
  - metadata: {{namespace: of-somebody, name: else, creationTimestamp: {ago(days=3)}}}
    spec: {{containers: [{{name: main}}]}}
    status: {{phase: Pending}}
/api/v1/persistentvolumeclaims:
  - metadata: {{namespace: ollama-stack, name: models}}
    status: {{phase: Bound}}
/api/v1/services:
  - metadata:
      namespace: ollama-stack
      name: open-webui
      uid: u-page
      creationTimestamp: {ago(days=9)}
      annotations: {{metallb.io/loadBalancerIPs: 192.168.1.101}}
    spec: {{type: LoadBalancer, ports: [{{port: 8080}}]}}
    status: {{loadBalancer: {{ingress: [{{ip: 192.168.1.101}}]}}}}
  - metadata:
      namespace: observability
      name: grafana-external
      uid: u-grafana
      creationTimestamp: {ago(days=9)}
      annotations: {{metallb.io/loadBalancerIPs: 192.168.1.102}}
    spec: {{type: LoadBalancer, ports: [{{port: 3000}}]}}
    status: {{loadBalancer: {{ingress: [{{ip: 192.168.1.102}}]}}}}
  - metadata: {{namespace: ollama-stack, name: ollama-service}}
    spec: {{type: ClusterIP, ports: [{{port: 11434}}]}}
    status: {{loadBalancer: {{}}}}
/apis/apps/v1/deployments:
  - metadata:
      namespace: ollama-stack
      name: ollama
      uid: u-deployment
      creationTimestamp: {ago(days=9)}
      managedFields:
        - {{manager: pulumi-kubernetes-1a2b, time: {ago(days=3)}}}
        - {{manager: kube-controller-manager, time: {ago(minutes=1)}}}
    spec: {{replicas: 1}}
    status: {{replicas: 1}}
  - metadata:
      namespace: kube-system
      name: coredns
      managedFields: [{{manager: helm, time: {ago(minutes=2)}}}]
    spec: {{replicas: 0}}
    status: {{}}
/apis/apps/v1/statefulsets: []
/apis/apps/v1/daemonsets:
  - metadata:
      namespace: observability
      name: node-exporter
      uid: u-daemonset
      creationTimestamp: {ago(days=9)}
    spec: {{}}
    status: {{desiredNumberScheduled: 1, currentNumberScheduled: 1}}
/api/v1/namespaces/ollama-stack/events: []
"""


def series(name: str, value: float, **labels: str) -> dict[str, Any]:
    """One of an answer of Prometheus'."""
    return {"metric": {"__name__": name, **labels} if name else labels, "value": [0, str(value)]}


def loaded(
    model: str, size: float, gpu: float, seconds: float, server: str = "ollama"
) -> list[dict[str, Any]]:
    """What the gateway says of a model in memory."""
    values = {
        "loaded_size_bytes": size,
        "loaded_gpu_size_bytes": gpu,
        "expires_in_seconds": seconds,
    }
    label = {"instance": server, "gen_ai_request_model": model}
    return [series(f"ollama_model_{name}", value, **label) for name, value in values.items()]


def disk(mount: str, size: float, avail: float) -> list[dict[str, Any]]:
    """What node-exporter says of a mount."""
    where = {"instance": "192.168.1.100:9100", "mountpoint": mount}
    sizes = {"size": size, "avail": avail}
    return [series(f"node_filesystem_{k}_bytes", v * 1024**3, **where) for k, v in sizes.items()]


class Answers:
    """A cluster that answers what a test says, by path or query; an error is raised."""

    configuration = SimpleNamespace(host="https://100.64.0.1:16443")

    def __init__(self) -> None:
        self.items: dict[str, Any] = yaml.safe_load(WELL)
        self.series: dict[str, Any] = {
            MODELS: [
                series("ollama_up", 1, instance="ollama"),
                *loaded("codellama:7b", 6 * 1024**3, 0, 700000),
                *loaded("llama3.2:3b", 4 * 1024**3, 3 * 1024**3, 250),
            ],
            SPEEDS: [series("", 12.34, instance="ollama", gen_ai_request_model="llama3.2:3b")],
            DISKS: [
                *disk("/", 200, 150),
                *disk("/boot", 1, 1),
                *disk("/mnt/backup", 500, 400),
                *disk("/mnt/evo4t", 931, 600),
            ],
            LAST_BACKUP: [series("", datetime.now(UTC).timestamp() - 5 * 3600 - 5)],
        }
        self.alerts: Any = [alert("Watchdog", "none"), alert("Soon", "warning", state="pending")]

    def read(self, path: str, query: str = "", fieldSelector: str = "") -> Any:  # noqa: N803
        """Give what is at `path`."""
        if path == "/version":
            return {}
        if path == ALERTS:
            return {"data": {"alerts": self.given(self.alerts)}}
        if path == f"{PROMETHEUS}query":
            return {"data": {"result": self.given(self.series[query])}}
        items = self.given(self.items[path])
        uid = fieldSelector.removeprefix("involvedObject.uid=")
        return {
            "items": [item for item in items if not uid or item["involvedObject"]["uid"] == uid]
        }

    @staticmethod
    def given(answer: Any) -> Any:
        """Give an answer that is none of an error."""
        if isinstance(answer, str):
            raise UnreadableError(answer)
        return answer


def alert(name: str, severity: str, state: str = "firing", **says: str) -> dict[str, Any]:
    """One of Prometheus' alerts, for twelve minutes."""
    labels = {"alertname": name, "severity": severity}
    since = ago(minutes=12).strip("'").replace("Z", ".123456789Z")
    return {"labels": labels, "annotations": says, "state": state, "activeAt": since}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """The cluster of the stack `home`, with backups, and all is well."""
    given = Answers()
    monkeypatch.setattr(status, "Cluster", lambda *_: given)
    monkeypatch.setattr(stacks, "settings", lambda *_: read(backup_config()))
    return given


Show = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def show(answers: Answers, capsys: pytest.CaptureFixture[str]) -> Show:
    """Runs the command; gives exit code and lines."""
    del answers

    def run(*, as_json: bool = False) -> tuple[int, list[str]]:
        code = status.run(argparse.Namespace(stack="home", json=as_json))
        out, err = capsys.readouterr()
        assert err == "asking https://100.64.0.1:16443\n"
        return code, out.splitlines()

    return run


def section(lines: list[str], name: str) -> str:
    """What the screen says below a heading, in one line."""
    (start,) = [n for n, line in enumerate(lines) if line == name]
    end = next(n for n in range(start + 1, len(lines)) if not lines[n].startswith("  "))
    return " ".join(" ".join(lines[start + 1 : end]).split())


def test_all_is_well_on_one_screen(show: Show) -> None:
    code, lines = show()

    assert [re.sub("  +", "  ", line) for line in lines] == [
        "pods",
        "  ollama-stack/ollama-5f6d  2/2 ready, 3 restarts",
        "addresses",
        "  ollama-stack/open-webui  192.168.1.101:8080, assigned",
        "  observability/grafana-external  192.168.1.102:3000, assigned",
        "models",
        "  codellama:7b  6 GiB on CPU, stays loaded",
        "  llama3.2:3b  4 GiB on 75% GPU, 4 min left",
        "tokens per second",
        "  llama3.2:3b  12.3 in the last hour",
        "disks",
        "  192.168.1.100:9100 /  50 GiB of 200 GiB used",
        "  192.168.1.100:9100 /mnt/backup  100 GiB of 500 GiB used",
        "  192.168.1.100:9100 /mnt/evo4t  331 GiB of 931 GiB used",
        "last backup",
        "  5 h ago  every 24 h",
        "alerts",
        "  none",
        "last up",
        "  changed a workload 3 days ago",
        "home: healthy",
    ]
    assert code == 0


def test_as_json_it_has_the_same_facts(show: Show, answers: Answers) -> None:
    answers.items["/api/v1/services"] = "503 away"
    code, lines = show(as_json=True)
    whole = json.loads("\n".join(lines))

    assert (code, whole["code"], whole["stack"]) == (1, 1, "home")
    assert whole["unread"] == {"addresses": "503 away"}
    assert whole["pods"] == [{"pod": "ollama-stack/ollama-5f6d", "ready": "2/2", "restarts": 3}]
    assert whole["models"][0] == {
        "server": "ollama",
        "model": "codellama:7b",
        "bytes": 6 * 1024**3,
        "on_gpu": 0,
        "until": None,
    }
    assert whole["tokens_per_second"] == [
        {"server": "ollama", "model": "llama3.2:3b", "tokens_per_second": 12.34}
    ]
    assert whole["disks"][0] == {
        "instance": "192.168.1.100:9100",
        "mount": "/",
        "used": 50 * 1024**3,
        "bytes": 200 * 1024**3,
    }
    assert whole["last_backup"][0]["hours"] == 24
    assert whole["alerts"] == []
    assert datetime.fromisoformat(whole["last_up"][0]["at"]) < datetime.now(UTC)


OLLAMA, JOB = 0, 1
UNSCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "message": "0/1 nodes are available: 1 node(s) didn't find available volumes to bind.",
}


def waiting(reason: str, message: str = "", /, **last: Any) -> dict[str, Any]:
    """The first container, which cannot start."""
    why = {"reason": reason, **({"message": message} if message else {})}
    more = {"lastState": {"terminated": last}} if last else {}
    about = {"name": "gateway", "image": "x:1", "ready": False, "restartCount": 7}
    return {**about, "state": {"waiting": why}, **more}


def event(reason: str, message: str, kind: str = "Normal", **more: Any) -> dict[str, Any]:
    """An event of Ollama's pod, three hours ago unless `more` says otherwise."""
    about = {"uid": "u-ollama", "fieldPath": "spec.containers{gateway}"}
    body = {"reason": reason, "message": message, "type": kind, "involvedObject": about}
    return {**body, "lastTimestamp": ago(hours=3).strip("'"), **more}


def unready(answers: Answers, *states: dict[str, Any], **status: Any) -> None:
    """Let Ollama's pod not be ready since a quarter of an hour."""
    pod = answers.items["/api/v1/pods"][OLLAMA]["status"]
    since = ago(minutes=15).strip("'")
    pod["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": since}]
    pod["containerStatuses"] = [*states]
    pod |= status


PULL = 'Pulling image "ollama/ollama:0.33.1"'
OLD = {"lastTimestamp": "2026-01-01T00:00:00Z"}
SINCE = {"firstTimestamp": ago(hours=9).strip("'"), "lastTimestamp": ago(hours=9).strip("'")}
OFTEN = {"firstTimestamp": ago(hours=9).strip("'")}
POD = {"uid": "u-ollama"}
NEW = {"series": {"lastObservedTime": ago(hours=3).strip("'")}}
WAITS: list[tuple[dict[str, Any], list[dict[str, Any]], str]] = [
    (
        waiting("ImagePullBackOff", 'Back-off pulling image "x:1"'),
        [],
        'gateway: ImagePullBackOff: Back-off pulling image "x:1", for 15 min',
    ),
    (
        waiting("CrashLoopBackOff", "back-off 5m0s", exitCode=137, reason="OOMKilled"),
        [],
        "gateway: CrashLoopBackOff: exit code 137: OOMKilled, for 15 min",
    ),
    (
        waiting("ContainerCreating"),
        [event("Pulling", PULL, **OFTEN)],
        f"gateway: {PULL}, for 9 h",
    ),
    (
        waiting("ContainerCreating"),
        # Beside an image that has come.
        [
            event("Pulling", PULL, **SINCE),
            event("Pulled", "", involvedObject={"uid": "u-ollama", "fieldPath": "x{ollama}"}),
        ],
        f"gateway: {PULL}, for 9 h",
    ),
    (
        waiting("ContainerCreating"),
        # As the kubelet has it for volumes: of no container.
        [
            event("Pulling", PULL, **OLD),
            event("Mount", "path does not exist", "Warning", involvedObject=POD),
        ],
        "path does not exist, for 3 h",
    ),
    (
        {**waiting(""), "state": {"running": {}}},
        [
            event("FailedScheduling", "no room", "Warning", **OLD),
            event("Started", "Started container"),
            event("Unhealthy", "Readiness probe failed: 503", "Warning", **OLD, **NEW),
        ],
        "gateway: Readiness probe failed: 503, for 3 h",
    ),
    (
        {**waiting(""), "state": {"running": {"startedAt": ago(hours=5).strip("'")}}},
        [
            event("Pulling", PULL, **OLD),
            event("Pulled", "Successfully pulled"),
            event("Started", ""),
        ],
        "gateway runs, but is not ready, for 5 h",
    ),
    (
        {**waiting(""), "state": {"running": {"startedAt": ago(hours=5).strip("'")}}},
        # What another container has done since then.
        [event("Unhealthy", "503", "Warning", **OLD), event("Pulled", "", involvedObject=POD)],
        "gateway runs, but is not ready, for 5 h",
    ),
    (waiting("ContainerCreating"), [], "gateway is being created from x:1, for 15 min"),
]


@pytest.mark.parametrize(("state", "events", "why"), WAITS, ids=[why for *_, why in WAITS])
def test_a_pod_that_is_not_ready_says_what_it_waits_for(
    show: Show, answers: Answers, state: Any, events: Any, why: str
) -> None:
    unready(answers, state)
    answers.items[EVENTS] = events

    code, lines = show()
    assert section(lines, "pods") == f"ollama-stack/ollama-5f6d 1/2 ready, 9 restarts {why}"
    assert (code, lines[-1]) == (1, "home: not healthy: pods")


def test_a_pod_without_a_node_names_the_claim_that_is_not_bound(
    show: Show, answers: Answers
) -> None:
    unready(answers, conditions=[UNSCHEDULED], initContainerStatuses=None, containerStatuses=None)
    answers.items["/api/v1/pods"][OLLAMA]["metadata"]["creationTimestamp"] = ago(hours=3).strip("'")
    answers.items["/api/v1/persistentvolumeclaims"][0]["status"] = {"phase": "Pending"}

    assert section(show()[1], "pods") == (
        "ollama-stack/ollama-5f6d 0/2 ready, 0 restarts claim ollama-stack/models is not bound;"
        " 0/1 nodes are available: 1 node(s) didn't find available volumes to bind., for 3 h"
    )


def test_a_pod_that_is_being_deleted_is_not_well(show: Show, answers: Answers) -> None:
    answers.items["/api/v1/pods"][OLLAMA]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    code, lines = show()
    assert (code, "is being deleted" in section(lines, "pods")) == (1, True)


def test_why_it_waits_may_be_what_cannot_be_read(show: Show, answers: Answers) -> None:
    unready(answers, waiting("ContainerCreating"))
    answers.items[EVENTS] = f"{EVENTS}: 403 forbidden"

    assert "403 forbidden, for 15 min" in section(show()[1], "pods")


@pytest.mark.parametrize(("newest", "code"), [("Failed", 1), ("Succeeded", 0), ("Running", 0)])
def test_of_the_pods_of_a_job_the_newest_counts(
    show: Show, answers: Answers, newest: str, code: int
) -> None:
    items = answers.items["/api/v1/pods"]
    ended = {"exitCode": 1, "reason": "Error", "message": "no such model: x:1b\n"}
    pull = {"name": "pull", "ready": False, "restartCount": 0, "state": {"terminated": ended}}
    failed = {"phase": "Failed", "containerStatuses": [pull]}
    items[JOB]["status"] = failed
    newer = deepcopy(items[JOB])
    newer["metadata"] |= {"name": "ollama-models-1-fghij", "creationTimestamp": ago().strip("'")}
    ready = [{"type": "Ready", "status": "True"}]
    others = {"phase": newest, "conditions": ready if newest == "Running" else []}
    newer["status"] = failed if newest == "Failed" else others
    items.append(newer)

    got, lines = show()
    pods = section(lines, "pods")
    assert got == code
    assert "abcde" not in pods
    assert ("fghij" in pods) == (newest != "Succeeded")
    assert ("pull: exit code 1: no such model: x:1b, for " in pods) == (newest == "Failed")


def test_a_pod_that_the_kubelet_refused_says_so(show: Show, answers: Answers) -> None:
    refused = {"phase": "Failed", "message": "Pod was rejected: out of cpu"}
    unready(answers, **refused)

    assert "Pod was rejected: out of cpu" in section(show()[1], "pods")


def test_a_workload_without_its_pods_is_not_well(show: Show, answers: Answers) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: quota"}
    gone = {"type": "Available", "status": "False", "lastTransitionTime": ago(minutes=7).strip("'")}
    answers.items["/apis/apps/v1/deployments"][0]["status"] = {"conditions": [failure, gone]}
    answers.items["/apis/apps/v1/daemonsets"][0]["status"]["currentNumberScheduled"] = 0
    answers.items["/api/v1/namespaces/observability/events"] = []

    code, lines = show()
    pods = section(lines, "pods")
    assert code == 1
    assert "ollama-stack/ollama 0/1 ready, 0 restarts pods is forbidden: quota, for 7 min" in pods
    assert "node-exporter 0/1 ready, 0 restarts no pod has been created yet, for 9 days" in pods


PAGE = "ollama-stack/open-webui 192.168.1.101:8080, not assigned"


@pytest.mark.parametrize(
    ("given", "events", "want"),
    [
        ([], [], f"{PAGE} MetalLB has assigned none, for 9 days"),
        (["192.168.1.109"], [], f"{PAGE} MetalLB has assigned ['192.168.1.109'], for 9 days"),
        ([], [event("AllocationFailed", "not in pool", "Warning")], f"{PAGE} not in pool, for"),
    ],
)
def test_an_address_that_was_not_given(
    show: Show, answers: Answers, given: list[str], events: list[Any], want: str
) -> None:
    ingress = {"ingress": [{"ip": ip} for ip in given]}
    answers.items["/api/v1/services"][0]["status"]["loadBalancer"] = ingress if given else {}
    about = {"involvedObject": {"uid": "u-page"}}
    answers.items[EVENTS] = [{**event, **about} for event in events]

    code, lines = show()
    assert (code, lines[-1]) == (1, "home: not healthy: addresses")
    assert want in section(lines, "addresses")


def test_an_address_that_no_service_asks_for(show: Show, answers: Answers) -> None:
    del answers.items["/api/v1/services"][1]

    code, lines = show()
    assert code == 1
    assert section(lines, "addresses").endswith("192.168.1.102 no Service requests it")


UP = {"ollama": 1, "ollama-big": 1, "ollama-far": 0}
NOTHING = "could not be read: Prometheus has no metrics of"


@pytest.mark.parametrize(
    ("query", "result", "name", "says", "code"),
    [
        (
            MODELS,
            [],
            "models",
            "ollama Prometheus has no metrics of its gateway from the last 5 minutes",
            1,
        ),
        (
            MODELS,
            [series("ollama_up", 0, instance="ollama")],
            "models",
            "ollama Ollama does not answer its gateway",
            1,
        ),
        (MODELS, [series("ollama_up", 1, instance="ollama")], "models", "none", 0),
        (SPEEDS, [], "tokens per second", "none", 0),
        (DISKS, [], "disks", f"{NOTHING} node-exporter from the last 5 minutes", 1),
        (
            DISKS,
            disk("/", 200, 150),
            "disks",
            "192.168.1.100:9100 / 50 GiB of 200 GiB used /mnt/evo4t is not mounted on any node",
            1,
        ),
        # Whether there should be one already, the alert BackupTooOld knows.
        (LAST_BACKUP, [], "last backup", "none in 60 days every 24 h", 0),
    ],
)
def test_what_prometheus_knows_and_does_not(
    show: Show,
    answers: Answers,
    query: str,
    result: list[Any],
    name: str,
    says: str,
    code: int,
) -> None:
    answers.series[query] = result

    got, lines = show()
    assert (got, section(lines, name)) == (code, says)


def test_of_several_servers_each_has_its_own_lines(
    show: Show, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = backup_config()
    more = {"volume": {"path": "/mnt/evo4t/more", "size": "99Gi"}, "models": ["llama3.2:1b"]}
    raw["servers"] = {name: {**more, "cpu": 1} for name in ("big", "far")}
    raw["servers"]["far"]["volume"] = {"path": "/mnt/evo4t/far", "size": "99Gi"}
    monkeypatch.setattr(stacks, "settings", lambda *_: read(raw))
    answers.series[MODELS] = [
        *(series("ollama_up", up, instance=name) for name, up in UP.items()),
        *loaded("llama3.2:3b", 4 * 1024**3, 0, 250),
        *loaded("llama3.2:3b", 4 * 1024**3, 4 * 1024**3, 250, "ollama-big"),
    ]
    code, lines = show()

    assert (code, section(lines, "models")) == (
        1,
        "ollama-far Ollama does not answer its gateway"
        " ollama: llama3.2:3b 4 GiB on CPU, 4 min left"
        " ollama-big: llama3.2:3b 4 GiB on GPU, 4 min left",
    )
    assert section(lines, "tokens per second") == "ollama: llama3.2:3b 12.3 in the last hour"


def test_backups_that_nobody_asked_for_are_no_fault(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "settings", lambda name, _: read(stack_config(name)))

    code, lines = show()
    assert (code, section(lines, "last backup")) == (0, "none: webui.backup is not set")


def test_an_alert_that_fires_is_shown_with_what_it_says(show: Show, answers: Answers) -> None:
    answers.alerts += [
        alert("DataDiskFull", "critical", summary="Less than 10 % is free"),
        alert("Mute", ""),
    ]

    code, lines = show()
    want = "DataDiskFull critical Less than 10 % is free, for 12 min Mute fires, for 12 min"
    assert (code, section(lines, "alerts")) == (1, want)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/api/v1/pods", ["pods"]),
        ("/api/v1/persistentvolumeclaims", ["pods"]),
        ("/api/v1/services", ["addresses"]),
        ("/apis/apps/v1/deployments", ["pods", "last up"]),
    ],
)
def test_what_cannot_be_read_says_why_and_hides_nothing_else(
    show: Show, answers: Answers, path: str, names: list[str]
) -> None:
    answers.items[path] = f"{path}: 403 forbidden"

    code, lines = show()
    assert (code, lines[-1].replace("_", " ")) == (1, f"home: not healthy: {', '.join(names)}")
    assert section(lines, names[0]) == f"could not be read: {path}: 403 forbidden"
    for name in names[1:]:
        assert section(lines, name) == f"could not be read, as {names[0]}"
    assert "331 GiB of 931 GiB used" in section(lines, "disks")


def test_without_prometheus_its_reason_is_there_once(show: Show, answers: Answers) -> None:
    answers.series = dict.fromkeys(answers.series, f"{PROMETHEUS}query: 503 no endpoints available")
    answers.alerts = f"{ALERTS}: 503 no endpoints available"

    code, lines = show()
    assert code == 1
    assert section(lines, "models") == ("could not be read: Prometheus: 503 no endpoints available")
    for name in ("tokens per second", "disks", "last backup", "alerts"):
        assert section(lines, name) == "could not be read, as models"
    assert section(lines, "last up") == "changed a workload 3 days ago"


def test_it_fits_the_screen(show: Show, answers: Answers) -> None:
    unready(answers, waiting("ErrImagePull", 'failed to pull "docker.io/ollama/ollama:0": ' * 20))
    answers.items["/api/v1/pods"][OLLAMA]["metadata"]["name"] = "x" * 200
    answers.items["/api/v1/services"] = f"/api/v1/services: {'no answer ' * 50}"

    code, lines = show()
    assert code == 1
    assert max(map(len, lines)) <= 100
    assert re.match(r"  ollama-stack/x{50,}…  1/2 ready", lines[1])
    assert len([line for line in lines if "failed to pull" in line]) == 3


def test_an_answer_that_nobody_has_foreseen_hides_nothing_else(
    show: Show, answers: Answers
) -> None:
    answers.series[SPEEDS] = [{"metric": {}}]

    code, lines = show()
    assert (code, lines[-1]) == (1, "home: not healthy: tokens_per_second")
    assert section(lines, "tokens per second") == "could not be read: KeyError('value')"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_cluster_that_is_away_is_one_line(
    answers: Answers, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    def away(path: str) -> None:
        raise UnreadableError(f"{path}: no answer")

    answers.read = away  # type: ignore[method-assign, assignment]

    assert status.run(argparse.Namespace(stack="home", json=as_json)) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[1:] == ["error: /version: no answer"]
    unread = {"all": "/version: no answer"}
    assert (json.loads(out) if as_json else out) == (
        {"stack": "home", "unread": unread, "code": 1} if as_json else ""
    )


def test_nothing_but_the_kubeconfig_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("ops.stacks.find", None)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere")

    assert status.run(argparse.Namespace(stack="home", json=False)) == 1
    assert capsys.readouterr().err.startswith("error: kubeconfig: got ")


def test_prometheus_is_where_the_account_may_ask_it() -> None:
    assert f"/services/{reader.PROMETHEUS}/proxy/" in PROMETHEUS
