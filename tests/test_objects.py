"""Rules for every object: the API's own schema, and this project's."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from harness import (
    RESERVED,
    Deployment,
    Registration,
    backup_config,
    deploy_program,
    deployed,
    gpu_config,
    read,
    stack_config,
)

import config
from config.capacity import SYSTEM_RESERVE
from config.quantities import size

KUBERNETES = "1.36"
CUSTOM = ("metallb.io/", "monitoring.coreos.com/")
STACKS = {stack: deployed(stack) for stack in ("home", "sandbox")}
STACKS["gpu"] = deploy_program("home", gpu_config())
STACKS["with backups"] = deploy_program("home", backup_config())
DEVICE = "amd.com/gpu"
WRITTEN = ("DATA_DIR", "HOME", "LEDGER_FOLDER", "OLLAMA_MODELS", "STATIC_DIR")

every_stack = pytest.mark.parametrize("lab", STACKS.values(), ids=STACKS.keys())


def pods(lab: Deployment) -> Iterator[tuple[Registration, dict[str, Any]]]:
    """Every pod spec with the object that it belongs to."""
    for made in lab.objects():
        spec = made.inputs.get("spec") or {}
        template = spec.get("jobTemplate", {"spec": spec})["spec"].get("template")
        if template:
            yield made, template


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    """Every container of a pod; those that start first are sidecars that stay."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


@every_stack
def test_every_builtin_object_fits_the_api_schema(lab: Deployment) -> None:
    builtin = [made for made in lab.objects() if not made.inputs["apiVersion"].startswith(CUSTOM)]

    assert len(builtin) > 20
    for made in builtin:
        kubernetes_validate.validate(made.inputs, KUBERNETES, strict=True)


@every_stack
def test_every_object_has_a_name_labels_and_where_it_needs_one_a_namespace(lab: Deployment) -> None:
    cluster_wide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "Namespace",
        "PersistentVolume",
        "StorageClass",
    }
    bare = [
        made.name
        for made in lab.objects()
        if not made.inputs["metadata"].get("name")
        or "app.kubernetes.io/name" not in made.inputs["metadata"]["labels"]
        or ("namespace" in made.inputs["metadata"]) == (made.inputs["kind"] in cluster_wide)
    ]

    assert bare == []


@every_stack
def test_selectors_meet_labels(lab: Deployment) -> None:
    templates = [
        (made.inputs["metadata"]["namespace"], template["metadata"]["labels"])
        for made, template in pods(lab)
    ]
    for service in lab.of_kind("Service"):
        namespace = service.inputs["metadata"]["namespace"]
        wanted = service.inputs["spec"]["selector"].items()
        if service.inputs["metadata"]["name"] == "grafana-external":
            continue  # selects a pod of the chart
        met = [
            labels for where, labels in templates if where == namespace and wanted <= labels.items()
        ]
        assert len(met) == 1, service.name
    for made in lab.of_kind("Deployment"):
        wanted = made.inputs["spec"]["selector"]["matchLabels"].items()
        assert wanted <= made.inputs["spec"]["template"]["metadata"]["labels"].items()


@every_stack
def test_a_service_targets_a_port_that_its_pod_has(lab: Deployment) -> None:
    for service in lab.of_kind("Service"):
        wanted = service.inputs["spec"]["selector"].items()
        for _, template in pods(lab):
            if wanted <= template["metadata"]["labels"].items():
                names = [p["name"] for c in template["spec"]["containers"] for p in c["ports"]]
                assert {p["targetPort"] for p in service.inputs["spec"]["ports"]} <= set(names)


@every_stack
def test_only_the_two_addresses_are_open_to_the_home_network(lab: Deployment) -> None:
    outside = {
        service.inputs["metadata"]["name"]: service.inputs["spec"]
        for service in lab.of_kind("Service")
        if service.inputs["spec"].get("type", "ClusterIP") != "ClusterIP"
    }

    assert set(outside) == {"open-webui-service-local", "grafana-external"}
    # A node port would be a second way in, on every address of the node.
    assert {spec["allocateLoadBalancerNodePorts"] for spec in outside.values()} == {False}
    assert not [made for made in lab.objects() if "externalIPs" in made.inputs.get("spec", {})]


@every_stack
def test_every_pod_is_restricted_and_bounded(lab: Deployment) -> None:
    found = list(pods(lab))

    assert len(found) == (6 if lab is STACKS["with backups"] else 3)
    for made, template in found:
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, made.name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert set(container["resources"]["requests"]) - {DEVICE} == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@every_stack
def test_what_a_container_writes_is_a_mount_as_its_own_root_is_read_only(lab: Deployment) -> None:
    for made, template in pods(lab):
        for container in containers(template):
            mounts = [one["mountPath"] for one in container["volumeMounts"]]
            for variable in container["env"]:
                if variable["name"] in WRITTEN:
                    under = [one for one in mounts if variable["value"].startswith(one)]
                    assert under, f"{made.name}: {variable['name']}"


@every_stack
def test_every_image_is_one_version(lab: Deployment) -> None:
    for _, template in pods(lab):
        for container in containers(template):
            assert re.search(r":v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?$", container["image"])


@every_stack
def test_a_host_port_and_a_volume_with_one_writer_need_recreate(lab: Deployment) -> None:
    for made in lab.of_kind("Deployment"):
        assert made.inputs["spec"]["strategy"]["type"] == "Recreate"


@every_stack
def test_every_claim_that_a_pod_mounts_is_made(lab: Deployment) -> None:
    claims = {claim.inputs["metadata"]["name"] for claim in lab.of_kind("PersistentVolumeClaim")}
    mounted = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, template in pods(lab)
        for volume in template["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }

    assert mounted == claims


@every_stack
def test_a_custom_resource_has_no_empty_field(lab: Deployment) -> None:
    def empty(value: Any, path: str) -> list[str]:
        if value in (None, {}, []):
            return [path]
        inner = value.items() if isinstance(value, dict) else []
        return [found for key, item in inner for found in empty(item, f"{path}.{key}")]

    for made in lab.objects():
        if made.inputs["apiVersion"].startswith(CUSTOM):
            assert empty(made.inputs["spec"], made.name) == []


def test_what_is_checked_against_the_node_is_what_is_requested() -> None:
    planned = config.plan(read(stack_config("home")), RESERVED)["ollama"]
    chart = RESERVED.memory
    asked = 0
    for _, template in pods(STACKS["home"]):
        for container in containers(template):
            asked += size(container["resources"]["requests"]["memory"])
    checked = planned.requested["evo4t"].memory - SYSTEM_RESERVE.memory - chart

    # The gateway is small and the model Job short: both are counted in the reserve.
    assert 0 <= asked - checked < SYSTEM_RESERVE.memory / 8


@every_stack
def test_nothing_is_waited_for_that_waits_for_an_image_but_pods_for_two_hours(
    lab: Deployment,
) -> None:
    """A kubelet pulls one image after the other, so the slowest of all is before every other."""

    def hours(made: Registration, what: str) -> float:
        found = re.fullmatch(r"(\d+)h", made.timeouts[what])
        return float(found[1]) if found else 0

    unawaited = [*lab.of_kind("Service"), *lab.of_kind("PersistentVolumeClaim")]
    pods = [*lab.of_kind("Deployment"), *lab.of_kind("Job")]
    releases = lab.of_kind("Release")
    assert len(unawaited) >= 5
    assert len(pods) >= 3
    assert releases

    for made in unawaited:
        assert made.inputs["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true", made.name
    for made in releases:
        assert made.inputs["skipAwait"] is True, made.name
    for made in pods:
        assert min(hours(made, "create"), hours(made, "update")) >= 2, made.name
    # Of these the provider knows when they are ready, or has nothing to wait for; a kind that is
    # new here needs a look at what its waits depend on.
    assert {made.inputs["kind"] for made in lab.objects()} <= {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CronJob",
        "Deployment",
        "IPAddressPool",
        "Job",
        "L2Advertisement",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "Secret",
        "Service",
        "ServiceAccount",
        "StorageClass",
    }
