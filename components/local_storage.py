"""Directories of the data disk as volumes, with the namespaces and claims that hold on to them."""

from typing import NotRequired, TypedDict

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_kubernetes.core.v1 import (
    Namespace,
    NodeSelectorTermArgsDict,
    PersistentVolume,
    PersistentVolumeClaim,
)
from pulumi_kubernetes.storage.v1 import StorageClass

from components._kubernetes import UNAWAITED, labels, pod_security


class Volume(TypedDict):
    """One directory, and the claim that it is kept for."""

    path: str
    """Directory on the node; it must exist, or the pod that wants it waits."""
    size: str
    """Planned size, such as `500Gi`; a local volume does not enforce it."""
    namespace: str
    """Namespace of the claim; one of the component's `namespaces`."""
    node: str
    """Host name of the machine that has the directory."""
    claim: NotRequired[str]
    """Name of a claim that an operator makes: the volume waits for it, none is made here."""


class LocalStorageArgs(TypedDict):
    """What the storage needs to know."""

    volumes: dict[str, Volume]
    """Volumes by name; a claim made here has the same name."""
    namespaces: dict[str, str]
    """Pod Security level to enforce in each namespace to make, by name."""
    class_name: NotRequired[str]
    """Name of the StorageClass. Default: `local-path`."""


class LocalStorage(ComponentResource):
    """A StorageClass without provisioner, and volumes that outlive whatever claims them."""

    class_name: Output[str]
    """The StorageClass of the volumes."""
    namespaces: dict[str, Output[str]]
    """Name of each namespace, once it exists."""
    claims: dict[str, Output[str]]
    """Name of each claim made here, by volume."""

    def __init__(
        self, name: str, args: LocalStorageArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("homelab:index:LocalStorage", name, {}, opts)

        storage_class = StorageClass(
            f"{name}-class",
            metadata={"name": args.get("class_name", "local-path"), "labels": labels("storage")},
            provisioner="kubernetes.io/no-provisioner",
            reclaim_policy="Retain",
            volume_binding_mode="WaitForFirstConsumer",
            opts=_child(self, replaced_by=["reclaimPolicy", "volumeBindingMode"]),
        )
        self.class_name = storage_class.metadata["name"]

        volumes = {
            key: PersistentVolume(
                f"{name}-{key}-volume",
                metadata={"name": f"{volume['namespace']}-{key}", "labels": labels("storage")},
                spec={
                    "storage_class_name": self.class_name,
                    "capacity": {"storage": volume["size"]},
                    "access_modes": ["ReadWriteOnce"],
                    "persistent_volume_reclaim_policy": "Retain",
                    "local": {"path": volume["path"]},
                    "node_affinity": {"required": {"node_selector_terms": [_host(volume["node"])]}},
                    # Without a uid: a volume made anew binds to a claim made anew.
                    "claim_ref": {
                        "api_version": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": volume["namespace"],
                        "name": volume.get("claim", key),
                    },
                },
                opts=_child(self, replaced_by=["spec.nodeAffinity"]),
            )
            for key, volume in args["volumes"].items()
        }

        namespaces = {
            key: Namespace(
                f"{name}-{key}",
                metadata={"name": key, "labels": {**labels(key), **pod_security(level)}},
                # A volume goes only after its claim, and an operator's claim only with its
                # namespace: destroyed the other way round, the volume would wait for ever.
                opts=ResourceOptions(parent=self, depends_on=[*volumes.values()]),
            )
            for key, level in args["namespaces"].items()
        }
        self.namespaces = {key: made.metadata["name"] for key, made in namespaces.items()}

        self.claims = {
            key: PersistentVolumeClaim(
                f"{name}-{key}-claim",
                metadata={
                    "name": key,
                    "namespace": self.namespaces[volume["namespace"]],
                    "labels": labels("storage"),
                    # Bound at once it is never seen as Pending, for which the provider waits.
                    "annotations": UNAWAITED,
                },
                spec={
                    "storage_class_name": self.class_name,
                    "volume_name": volumes[key].metadata["name"],
                    "access_modes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": volume["size"]}},
                },
                # The API server refuses to resize a claim on a local volume. The volume itself
                # carries the new size, and the claim takes it over when it is made anew.
                opts=ResourceOptions(parent=self, ignore_changes=["spec.resources"]),
            ).metadata["name"]
            for key, volume in args["volumes"].items()
            if "claim" not in volume
        }

        self.register_outputs({"class_name": self.class_name})


def _host(node: Input[str]) -> NodeSelectorTermArgsDict:
    """The node selector term that means one machine."""
    return {
        "match_expressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]
    }


def _child(parent: ComponentResource, replaced_by: list[str]) -> ResourceOptions:
    """Options for a kind with fields that the API server refuses to change in place."""
    return ResourceOptions(
        parent=parent, replace_on_changes=replaced_by, delete_before_replace=True
    )
