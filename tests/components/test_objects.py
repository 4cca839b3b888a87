"""Rules for every Kubernetes object of the program."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from harness import RESERVED, Deployment, Registration, deployed, read, stack_config

import config
from config.capacity import SYSTEM_RESERVE
from config.quantities import size

KUBERNETES = "1.36"
CUSTOM = ("metallb.io/", "monitoring.coreos.com/")
DEVICE = "amd.com/gpu"
WRITTEN = ("DATA_DIR", "HOME", "LEDGER_FOLDER", "OLLAMA_MODELS", "STATIC_DIR")


@pytest.fixture(params=["home", "sandbox", "gpu", "backups"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """The deployment of each of these stacks."""
    return deployed(request.param)


def pods(deployment: Deployment) -> Iterator[tuple[Registration, dict[str, Any]]]:
    """Yield each pod template with the resource that has it."""
    for resource in deployment.objects():
        spec = resource.inputs.get("spec") or {}
        template = spec.get("jobTemplate", {"spec": spec})["spec"].get("template")
        if template:
            yield resource, template


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a pod template, init containers first."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def test_every_builtin_object_fits_the_api_schema(deployment: Deployment) -> None:
    builtin = [
        resource
        for resource in deployment.objects()
        if not resource.inputs["apiVersion"].startswith(CUSTOM)
    ]

    assert len(builtin) > 20
    for resource in builtin:
        kubernetes_validate.validate(resource.inputs, KUBERNETES, strict=True)


def test_every_object_has_name_and_labels_and_every_namespaced_one_its_namespace(
    deployment: Deployment,
) -> None:
    cluster_wide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "Namespace",
        "PersistentVolume",
        "StorageClass",
    }
    bare = [
        resource.name
        for resource in deployment.objects()
        if not resource.inputs["metadata"].get("name")
        or "app.kubernetes.io/name" not in resource.inputs["metadata"]["labels"]
        or ("namespace" in resource.inputs["metadata"]) == (resource.inputs["kind"] in cluster_wide)
    ]

    assert bare == []


def test_a_selector_matches_exactly_one_pod_template(deployment: Deployment) -> None:
    templates = [
        (resource.inputs["metadata"]["namespace"], template["metadata"]["labels"])
        for resource, template in pods(deployment)
    ]
    for service in deployment.of_kind("Service"):
        namespace = service.inputs["metadata"]["namespace"]
        selector = service.inputs["spec"]["selector"].items()
        if service.inputs["metadata"]["name"] == "grafana-external":
            continue  # selects a pod of the chart
        matches = [
            labels
            for place, labels in templates
            if place == namespace and selector <= labels.items()
        ]
        assert len(matches) == 1, service.name
    for resource in deployment.of_kind("Deployment"):
        selector = resource.inputs["spec"]["selector"]["matchLabels"].items()
        assert selector <= resource.inputs["spec"]["template"]["metadata"]["labels"].items()


def test_a_service_targets_a_port_that_its_pod_has(deployment: Deployment) -> None:
    for service in deployment.of_kind("Service"):
        selector = service.inputs["spec"]["selector"].items()
        for _, template in pods(deployment):
            if selector <= template["metadata"]["labels"].items():
                names = [p["name"] for c in template["spec"]["containers"] for p in c["ports"]]
                assert {p["targetPort"] for p in service.inputs["spec"]["ports"]} <= set(names)


def test_only_the_two_addresses_are_open_to_the_home_network(deployment: Deployment) -> None:
    outside = {
        service.inputs["metadata"]["name"]: service.inputs["spec"]
        for service in deployment.of_kind("Service")
        if service.inputs["spec"].get("type", "ClusterIP") != "ClusterIP"
    }

    assert set(outside) == {"open-webui-service-local", "grafana-external"}
    # A node port would expose the Service on every address of the node.
    assert {spec["allocateLoadBalancerNodePorts"] for spec in outside.values()} == {False}
    assert not [
        resource
        for resource in deployment.objects()
        if "externalIPs" in resource.inputs.get("spec", {})
    ]


def test_every_pod_is_restricted_and_bounded(deployment: Deployment) -> None:
    templates = list(pods(deployment))

    assert len(templates) == (6 if deployment is deployed("backups") else 3)
    for resource, template in templates:
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, resource.name
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


def test_every_directory_that_a_container_writes_to_is_a_mount(deployment: Deployment) -> None:
    for resource, template in pods(deployment):
        for container in containers(template):
            mounts = [path["mountPath"] for path in container["volumeMounts"]]
            for variable in container["env"]:
                if variable["name"] in WRITTEN:
                    under = [path for path in mounts if variable["value"].startswith(path)]
                    assert under, f"{resource.name}: {variable['name']}"


def test_every_image_tag_is_a_full_version(deployment: Deployment) -> None:
    for _, template in pods(deployment):
        for container in containers(template):
            assert re.search(r":v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?$", container["image"])


def test_every_deployment_recreates_because_of_host_port_and_volumes(
    deployment: Deployment,
) -> None:
    for resource in deployment.of_kind("Deployment"):
        assert resource.inputs["spec"]["strategy"]["type"] == "Recreate"


def test_pods_mount_exactly_the_declared_claims(deployment: Deployment) -> None:
    claims = {
        claim.inputs["metadata"]["name"] for claim in deployment.of_kind("PersistentVolumeClaim")
    }
    mounted = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, template in pods(deployment)
        for volume in template["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }

    assert mounted == claims


def test_a_custom_resource_has_no_empty_field(deployment: Deployment) -> None:
    def empty(value: Any, path: str) -> list[str]:
        if value in (None, {}, []):
            return [path]
        inner = value.items() if isinstance(value, dict) else []
        return [field for key, item in inner for field in empty(item, f"{path}.{key}")]

    for resource in deployment.objects():
        if resource.inputs["apiVersion"].startswith(CUSTOM):
            assert empty(resource.inputs["spec"], resource.name) == []


def test_the_plan_counts_the_requests_of_the_containers() -> None:
    planned = config.plan(read(stack_config("home")), RESERVED)
    chart = RESERVED.memory
    requested = 0
    for _, template in pods(deployed()):
        for container in containers(template):
            requested += size(container["resources"]["requests"]["memory"])
    counted = planned.requests["evo4t"].memory - SYSTEM_RESERVE.memory - chart

    # The reserve includes gateway and model Job.
    assert 0 <= requested - counted < SYSTEM_RESERVE.memory / 8


def test_up_waits_two_hours_for_pods_and_for_nothing_else_that_needs_an_image(
    deployment: Deployment,
) -> None:
    """A kubelet pulls images one after the other, so any pod may wait for the slowest pull."""

    def hours(resource: Registration, operation: str) -> float:
        match = re.fullmatch(r"(\d+)h", resource.timeouts[operation])
        return float(match[1]) if match else 0

    unawaited = [*deployment.of_kind("Service"), *deployment.of_kind("PersistentVolumeClaim")]
    pods = [*deployment.of_kind("Deployment"), *deployment.of_kind("Job")]
    releases = deployment.of_kind("Release")
    assert len(unawaited) >= 5
    assert len(pods) >= 3
    assert releases

    for resource in unawaited:
        assert resource.inputs["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true", (
            resource.name
        )
    for resource in releases:
        assert resource.inputs["skipAwait"] is True, resource.name
    for resource in pods:
        assert min(hours(resource, "create"), hours(resource, "update")) >= 2, resource.name
    # For a new kind, check what the provider waits for.
    assert {resource.inputs["kind"] for resource in deployment.objects()} <= {
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
