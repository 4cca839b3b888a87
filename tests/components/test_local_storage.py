"""What the volumes promise: the same directory for the same claim, whatever is destroyed."""

from harness import Deployment, deploy, deployed

from components import LocalStorage
from components.local_storage import LocalStorageArgs, LocalVolume

HOME = deployed()


def side_by_side() -> None:
    for owner in ("one", "two"):
        volume: LocalVolume = {
            "path": f"/mnt/disk/{owner}",
            "size": "10Gi",
            "namespace": owner,
            "node": "box",
        }
        args: LocalStorageArgs = {
            "volumes": {"data": volume},
            "namespaces": {owner: "restricted"},
            "class_name": f"local-{owner}",
        }
        LocalStorage(owner, args)


def names(lab: Deployment, kind: str) -> list[str]:
    return [resource.inputs["metadata"]["name"] for resource in lab.of_kind(kind)]


def test_volume_and_claim_name_each_other() -> None:
    volumes = {
        resource.inputs["metadata"]["name"]: resource
        for resource in HOME.of_kind("PersistentVolume")
    }
    claims = HOME.of_kind("PersistentVolumeClaim")

    assert claims
    for claim in claims:
        volume = volumes[claim.inputs["spec"]["volumeName"]].inputs["spec"]
        metadata = claim.inputs["metadata"]
        assert (volume["claimRef"]["namespace"], volume["claimRef"]["name"]) == (
            metadata["namespace"],
            metadata["name"],
        )
        assert "uid" not in volume["claimRef"]


def test_nothing_deletes_a_directory() -> None:
    assert {
        v.inputs["spec"]["persistentVolumeReclaimPolicy"] for v in HOME.of_kind("PersistentVolume")
    } == {"Retain"}
    assert {c.inputs["provisioner"] for c in HOME.of_kind("StorageClass")} == {
        "kubernetes.io/no-provisioner"
    }


def test_a_namespace_goes_before_the_volumes_that_its_claims_hold() -> None:
    volumes = {volume.name for volume in HOME.of_kind("PersistentVolume")}

    for namespace in HOME.of_kind("Namespace"):
        if namespace.parent == "storage":
            assert volumes <= namespace.dependencies


def test_a_volume_is_pinned_to_its_node() -> None:
    for volume in HOME.of_kind("PersistentVolume"):
        (term,) = volume.inputs["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert term["matchExpressions"] == [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["evo4t"]}
        ]


def test_an_operators_volume_waits_for_the_operators_claim() -> None:
    prometheus = HOME["kubernetes:core/v1:PersistentVolume::storage-prometheus-volume"]
    release = HOME["kubernetes:helm.sh/v3:Release::monitoring-release"]
    claim = prometheus.inputs["spec"]["claimRef"]
    template = release.inputs["values"]["prometheus"]["prometheusSpec"]["storageSpec"]

    assert claim["namespace"] == release.inputs["namespace"]
    # The operator's pattern: <StatefulSet>-db-<pod>; the StatefulSet carries the release's name.
    stateful_set, _, pod = claim["name"].partition("-db-")
    assert pod == f"{stateful_set}-0"
    assert release.inputs["values"]["cleanPrometheusOperatorObjectNames"] is True
    assert stateful_set == f"prometheus-{release.inputs['values']['fullnameOverride']}"
    asked = template["volumeClaimTemplate"]["spec"]
    assert asked["storageClassName"] == prometheus.inputs["spec"]["storageClassName"]
    assert (
        asked["resources"]["requests"]["storage"]
        == prometheus.inputs["spec"]["capacity"]["storage"]
    )


def test_two_stacks_share_no_name() -> None:
    lab = deploy(side_by_side)

    for kind in ("StorageClass", "PersistentVolume", "Namespace"):
        assert len(set(names(lab, kind))) == 2, kind


def test_what_holds_data_is_protected_where_the_stack_says_so() -> None:
    holding = ("PersistentVolume", "PersistentVolumeClaim", "StorageClass")
    open_ones = deployed("sandbox")
    # Made once, and known to the database for ever.
    secrets = [r for r in HOME.of_kind("RandomPassword") if r.parent == "open-webui"]

    assert [resource.name for resource in secrets if not resource.protect] == []
    assert len(secrets) == 2

    assert [
        resource.name for kind in holding for resource in HOME.of_kind(kind) if not resource.protect
    ] == []
    assert [
        n.name for n in HOME.of_kind("Namespace") if n.parent == "storage" and not n.protect
    ] == []
    assert [key for key, resource in open_ones.resources.items() if resource.protect] == []
