"""What the volumes promise: the same directory for the same claim, whatever is destroyed."""

from harness import Deployment, deploy, deployed

from components import LocalStorage
from components.local_storage import LocalStorageArgs, LocalVolume


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


def test_nothing_deletes_a_directory() -> None:
    home = deployed()

    assert {
        v.inputs["spec"]["persistentVolumeReclaimPolicy"] for v in home.of_kind("PersistentVolume")
    } == {"Retain"}
    assert {c.inputs["provisioner"] for c in home.of_kind("StorageClass")} == {
        "kubernetes.io/no-provisioner"
    }


def test_two_stacks_share_no_name() -> None:
    lab = deploy(side_by_side)

    for kind in ("StorageClass", "PersistentVolume", "Namespace"):
        assert len(set(names(lab, kind))) == 2, kind


def test_what_holds_data_is_protected_where_the_stack_says_so() -> None:
    holding = ("PersistentVolume", "PersistentVolumeClaim", "StorageClass")
    home, open_ones = deployed(), deployed("sandbox")
    # Made once, and known to the database for ever.
    secrets = [r for r in home.of_kind("RandomPassword") if r.parent == "open-webui"]

    assert [resource.name for resource in secrets if not resource.protect] == []
    assert len(secrets) == 2

    assert [
        resource.name for kind in holding for resource in home.of_kind(kind) if not resource.protect
    ] == []
    assert [
        n.name for n in home.of_kind("Namespace") if n.parent == "storage" and not n.protect
    ] == []
    assert [key for key, resource in open_ones.resources.items() if resource.protect] == []
