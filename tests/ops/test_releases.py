"""Reading Helm's releases from Secrets."""

import base64
import gzip
import json
from typing import Any

import pytest
from doctor_lab import Scripted

from ops import releases
from ops.cluster import Kind, UnreadableError
from ops.releases import Revision

NAMES = {"namespace": "observability", "name": "kube-prom-stack"}
SECRET = "sh.helm.release.v1.kube-prom-stack.v{}"


def metadata(number: str, status: str, **labels: str) -> dict[str, Any]:
    helm = {"owner": "helm", "name": "kube-prom-stack", "version": number, "status": status}
    names = {"name": SECRET.format(number), "namespace": "observability"}
    return {"metadata": {**names, "labels": {**helm, "createdAt": "1790000000", **labels}}}


def revisions(*items: dict[str, Any]) -> list[Revision]:
    cluster: Any = Scripted(secrets={"items": list(items)})
    return releases.revisions(cluster)


def revision(number: int = 2, status: str = "deployed") -> Revision:
    return Revision(**NAMES, number=number, status=status, changed=1790000000)


def test_revisions_are_read_by_their_labels_and_sorted_by_number() -> None:
    result = revisions(
        metadata("10", "pending-upgrade"),
        metadata("9", "deployed", modifiedAt="1790000005"),
    )
    assert [
        (revision.number, revision.status, revision.changed, revision.secret) for revision in result
    ] == [
        (9, "deployed", 1790000005, SECRET.format(9)),
        (10, "pending-upgrade", 1790000000, SECRET.format(10)),
    ]


def test_a_secret_that_helm_did_not_write_is_an_error() -> None:
    with pytest.raises(UnreadableError, match=r"observability/sh.helm.*vone: not a Helm release"):
        revisions(metadata("one", "deployed"))
    nothing: Any = Scripted()
    assert releases.revisions(nothing, "no-such-namespace") == []


@pytest.mark.parametrize("status", releases.UNFINISHED)
def test_only_the_newest_revision_can_be_unfinished(status: str) -> None:
    assert releases.unfinished([revision(2, status), revision(1)]) == revision(2, status)
    assert releases.unfinished([revision(1, status), revision(2)]) is None
    assert releases.unfinished([]) is None


def test_an_unfinished_release_has_a_reason() -> None:
    assert releases.reason(revision(2, "pending-upgrade")) == (
        "release observability/kube-prom-stack: revision 2 is pending-upgrade: an up was cut off"
    )


def packed(manifest: str) -> dict[str, Any]:
    data = gzip.compress(json.dumps({"manifest": manifest}).encode())
    return {"data": {"release": base64.b64encode(base64.b64encode(data)).decode()}}


def test_the_manifest_is_unpacked() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "one"}}
    cluster: Any = Scripted(**{SECRET.format(2): packed(json.dumps(service))})
    cluster.kinds = {("v1", "Service"): Kind("/api/v1", "services", namespaced=True)}

    (obj,) = releases.objects(cluster, revision())

    assert obj["metadata"] == {"name": "one", "namespace": "observability"}


@pytest.mark.parametrize(
    "secret", [None, {}, {"data": {"release": "?"}}, {"data": {"release": ""}}, packed("a: [")]
)
def test_a_manifest_that_cannot_be_read_is_one_line(secret: dict[str, Any] | None) -> None:
    cluster: Any = Scripted(**{SECRET.format(2): secret})
    with pytest.raises(UnreadableError, match=r"secrets/sh.helm.release.v1.kube-prom-stack.v2: "):
        releases.objects(cluster, revision())
