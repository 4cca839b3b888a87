"""Local volumes on the nodes' disks, with their claims and namespaces."""

from typing import NotRequired, TypedDict

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_kubernetes.core.v1 import (
    Namespace,
    NodeSelectorTermArgsDict,
    PersistentVolume,
    PersistentVolumeClaim,
)
from pulumi_kubernetes.storage.v1 import StorageClass

from components._kubernetes import SKIP_AWAIT, labels, pod_security


class LocalVolume(TypedDict):
    """A directory on a node, and the claim that it is reserved for."""

    path: str
    """Directory on the node; it must exist, or its pod stays in ContainerCreating."""
    size: str
    """Capacity, such as `500Gi`; a local volume does not enforce it."""
    namespace: str
    """Namespace of the claim; one of the component's `namespaces`."""
    node: str
    """Host name of the node."""
    claim: NotRequired[str]
    """Name of a claim that an operator creates. Default: the component creates the claim."""


class LocalStorageArgs(TypedDict):
    """Inputs of a `LocalStorage`."""

    volumes: dict[str, LocalVolume]
    """Volumes by name, which is also the name of the claim that is created."""
    namespaces: dict[str, str]
    """Pod Security level of each namespace to create, by name."""
    class_name: NotRequired[str]
    """Name of the StorageClass. Default: `local-path`."""


class LocalStorage(ComponentResource):
    """A StorageClass without provisioner, and retained volumes with their claims."""

    class_name: Output[str]
    """The StorageClass of the volumes."""
    namespaces: dict[str, Output[str]]
    """Name of each namespace, once it exists."""
    claims: dict[str, Output[str]]
    """Name of each claim that was created, by volume."""

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
            opts=_child(self, immutable=["reclaimPolicy", "volumeBindingMode"]),
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
                    # Without a uid, so that a recreated volume binds to a recreated claim.
                    "claim_ref": {
                        "api_version": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": volume["namespace"],
                        "name": volume.get("claim", key),
                    },
                },
                opts=_child(self, immutable=["spec.nodeAffinity"]),
            )
            for key, volume in args["volumes"].items()
        }

        namespaces = {
            key: Namespace(
                f"{name}-{key}",
                metadata={"name": key, "labels": {**labels(key), **pod_security(level)}},
                # A volume cannot be deleted before its claim, and an operator's claim is deleted
                # with its namespace, so `destroy` must delete the namespace first.
                opts=ResourceOptions(parent=self, depends_on=[*volumes.values()]),
            )
            for key, level in args["namespaces"].items()
        }
        self.namespaces = {key: object_.metadata["name"] for key, object_ in namespaces.items()}

        self.claims = {
            key: PersistentVolumeClaim(
                f"{name}-{key}-claim",
                metadata={
                    "name": key,
                    "namespace": self.namespaces[volume["namespace"]],
                    "labels": labels("storage"),
                    # The provider waits for the phase Pending, which a claim that binds at once
                    # never shows.
                    "annotations": SKIP_AWAIT,
                },
                spec={
                    "storage_class_name": self.class_name,
                    "volume_name": volumes[key].metadata["name"],
                    "access_modes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": volume["size"]}},
                },
                # The API server rejects a resize of a claim on a local volume; the volume has the
                # new capacity, and a recreated claim takes it over.
                opts=ResourceOptions(parent=self, ignore_changes=["spec.resources"]),
            ).metadata["name"]
            for key, volume in args["volumes"].items()
            if "claim" not in volume
        }

        self.register_outputs({"class_name": self.class_name})


def _host(node: Input[str]) -> NodeSelectorTermArgsDict:
    """Return the node selector term for one node."""
    return {
        "match_expressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]
    }


def _child(parent: ComponentResource, immutable: list[str]) -> ResourceOptions:
    """Return options of an object with `immutable` fields."""
    return ResourceOptions(parent=parent, replace_on_changes=immutable, delete_before_replace=True)
