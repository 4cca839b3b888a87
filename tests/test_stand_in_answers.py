"""What the stand-in says: secrets kept, waits explained, wrong inputs refused."""

import base64
import copy
import string
import subprocess
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml
from google.protobuf.struct_pb2 import Struct  # type: ignore[import-untyped]

from sandbox.stand_in import install, random, wait, wire
from sandbox.stand_in.api import Cluster, checked_server
from sandbox.stand_in.base import NotReadyError, RefusedError
from sandbox.stand_in.kubernetes import recorded


def obj(kind: str, version: str = "v1", **rest: Any) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "n", "uid": "1"}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def test_whole_numbers_come_back_whole() -> None:
    struct = Struct()
    struct.update({"a": 3, "b": 0.5, "c": [{"d": True}], "e": None})

    assert repr(sorted(wire.read(struct).items())) == (
        "[('a', 3), ('b', 0.5), ('c', [{'d': True}]), ('e', None)]"
    )


def test_what_came_in_secret_goes_back_secret() -> None:
    inputs = {"spec": {"args": ["plain", wire.seal("hush-hush")]}}
    live = {"spec": {"args": ["plain", "hush-hush"], "more": 1}}

    sealed = wire.reseal(live, inputs)

    assert wire.plain(sealed) == live
    assert wire.is_secret(sealed["spec"]["args"][1])
    assert not wire.is_secret(sealed["spec"]["args"][0])


@pytest.mark.parametrize(
    "inputs",
    [
        {"env": wire.seal({"deep": ["hush-hush"]})},
        obj("Secret", stringData={"a": "hush-hush"}),
        obj("Secret", data={"a": base64.b64encode(b"hush-hush").decode()}),
    ],
)
def test_a_secret_is_blacked_out_of_messages(inputs: dict[str, Any]) -> None:
    message = f"bad value hush-hush, {base64.b64encode(b'hush-hush').decode()}: too long"

    assert wire.hide(message, inputs) == "bad value [secret], [secret]: too long"


def test_a_secret_is_recorded_as_one_even_if_the_program_did_not_say_so() -> None:
    live = obj("Secret", data={"a": "b"})

    assert wire.is_secret(recorded(live, obj("Secret", data={"a": "b"}))["data"])


@pytest.mark.parametrize("mark", sorted(wire.UNKNOWNS))
def test_unknown_values_are_found_at_any_depth(mark: str) -> None:
    assert wire.has_unknown({"a": [{"b": mark}]})
    assert not wire.has_unknown({"a": [{"b": "mark"}]})


class Nothing:
    """A cluster in which only the given objects exist."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = objects

    def get(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """Go by the kind alone."""
        return next((one for one in self.objects if one["kind"] == wanted["kind"]), None)

    def find(self, _version: str, kind: str, _namespace: str, _selector: str = "") -> Any:
        """Go by the kind alone."""
        return [one for one in self.objects if one["kind"] == kind]


CLAIM = obj("PersistentVolumeClaim", spec={"storageClassName": "l"}, status={"phase": "Pending"})
BOUND_CLAIM = CLAIM | {"spec": {"storageClassName": "l", "volumeName": "v"}}
LATE = obj("StorageClass", volumeBindingMode="WaitForFirstConsumer")
BALANCER = obj("Service", spec={"type": "LoadBalancer"}, status={"loadBalancer": {}})
DEPLOYMENT = obj("Deployment", spec={"replicas": 2}, status={"updatedReplicas": 2})


@pytest.mark.parametrize(
    ("live", "missing"),
    [
        (CLAIM, None),
        (BOUND_CLAIM, "Pending, not Bound"),
        (BALANCER, "no load balancer address"),
        (obj("Service", spec={"type": "ClusterIP"}), None),
        (DEPLOYMENT, "0 of 2 replicas ready"),
        (DEPLOYMENT | {"status": {"updatedReplicas": 2, "readyReplicas": 2}}, None),
        (
            DEPLOYMENT | {"status": {"updatedReplicas": 2, "readyReplicas": 2, "replicas": 3}},
            "1 old replicas still there",
        ),
        (obj("Namespace", status={"phase": "Terminating"}), "Terminating, not Active"),
        (obj("PersistentVolume", status={"phase": "Released"}), "Released, not Available or Bound"),
        (obj("Job", status={}), "not complete"),
        (obj("IPAddressPool", "metallb.io/v1beta1"), None),
    ],
)
def test_what_an_object_still_lacks(live: dict[str, Any], missing: str | None) -> None:
    assert wait.lacking(live, Nothing(LATE)) == missing


def test_a_failed_job_names_the_reason_and_its_pod_s_last_words() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimit", "message": "no more"}
    job = obj("Job", spec={"template": {}, "selector": {"matchLabels": {"j": "1"}}})
    ended = {"terminated": {"exitCode": 1, "message": "no such model", "startedAt": "now"}}
    pod = obj("Pod", status={"containerStatuses": [{"name": "pull", "state": ended}]})

    with pytest.raises(NotReadyError) as caught:
        wait.lacking(job | {"status": {"conditions": [failed]}}, Nothing(pod))

    assert caught.value.reasons == [
        "Job n/x failed: BackoffLimit: no more",
        "pull: exit code 1: no such model",
    ]


def test_a_wait_that_ends_in_vain_says_what_is_missing_and_the_events() -> None:
    event = {"involvedObject": {"uid": "1"}, "reason": "Odd", "message": "so", "metadata": {}}

    with pytest.raises(NotReadyError, match=r"0 of 2 replicas ready, gave up after 0 s; Odd: so"):
        wait.ready(DEPLOYMENT, Nothing(event | {"kind": "Event"}), 0, Event())


def test_the_limit_is_the_request_s_then_the_annotation_s_then_the_kind_s() -> None:
    noted = copy.deepcopy(CLAIM)
    noted["metadata"]["annotations"] = {"pulumi.com/timeoutSeconds": "7"}

    assert [wait.limit(3, noted), wait.limit(0, noted)] == [3, 7]
    assert [wait.limit(0, CLAIM), wait.limit(0, DEPLOYMENT)] == [300, 600]


def test_a_password_has_the_length_and_characters_asked_for() -> None:
    inputs = random.settled({"length": 12, "special": False, "number": False, "minUpper": 12})

    assert random.problem(inputs) is None
    made = {random.password(inputs) for _ in range(9)}
    assert len(made) == 9
    assert all(len(one) == 12 and set(one) <= set(string.ascii_uppercase) for one in made)


@pytest.mark.parametrize(
    ("inputs", "wrong"),
    [
        ({"length": 0}, "length"),
        ({"length": 3, "minLower": 4}, "length"),
        ({"length": 9} | dict.fromkeys(random.CLASSES, False), "special"),
    ],
)
def test_an_impossible_password_is_refused(inputs: dict[str, Any], wrong: str) -> None:
    problem = random.problem(random.settled(inputs))

    assert problem is not None
    assert problem[0] == wrong


def kubeconfig(folder: Path, server: str, context: str = "homelab-sandbox") -> Path:
    file = folder / "kubeconfig"
    contexts = [{"name": context, "context": {"cluster": "c"}}]
    clusters = [{"name": "c", "cluster": {"server": server}}]
    file.write_text(yaml.safe_dump({"contexts": contexts, "clusters": clusters}))
    return file


@pytest.mark.parametrize(
    ("server", "context"),
    [
        ("https://192.168.1.2:16443", "homelab-sandbox"),
        ("https://127.0.0.1.example.org:6443", "homelab-sandbox"),
        ("https://127.0.0.1:6443", "microk8s"),
    ],
)
def test_no_other_cluster_is_ever_talked_to(tmp_path: Path, server: str, context: str) -> None:
    with pytest.raises(RefusedError, match="homelab-sandbox"):
        Cluster(kubeconfig(tmp_path, server, context))


def test_the_sandbox_itself_is_let_through(tmp_path: Path) -> None:
    here = kubeconfig(tmp_path, "https://127.0.0.1:6443")

    assert checked_server(here) == "https://127.0.0.1:6443"


def test_the_plugins_are_scripts_tied_to_one_cluster(tmp_path: Path) -> None:
    folder = install(tmp_path / "a folder", tmp_path / "kubeconfig")

    for name in ("kubernetes", "random"):
        script = folder / f"pulumi-resource-{name}"
        shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
        assert "sandbox.stand_in" in shown.stdout
        assert str(tmp_path / "kubeconfig") in script.read_text()
