"""Programs for the tests of the stand-in."""

from typing import Any

import pulumi_kubernetes as k8s
import yaml
from pulumi import CustomResource, CustomTimeouts, Resource, ResourceOptions
from stand_in_lab import Body, Lab

# Kind, API version, name, the rest; in an order in which each only needs what is above it.
TABLE = """
- [StorageClass, storage.k8s.io/v1, NS-local, {provisioner: kubernetes.io/no-provisioner,
   volumeBindingMode: WaitForFirstConsumer, reclaimPolicy: Retain}]
- [PersistentVolume, v1, NS-a, {spec: &volume {capacity: {storage: 10Gi},
   accessModes: [ReadWriteOnce], storageClassName: NS-local, local: {path: /data},
   persistentVolumeReclaimPolicy: Retain, claimRef: {namespace: NS, name: a},
   nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [
   {key: kubernetes.io/os, operator: In, values: [linux]}]}]}}}}]
- [PersistentVolume, v1, NS-b, {spec: {<<: *volume, claimRef: {namespace: NS, name: b}}}]
- [PersistentVolume, v1, NS-c, {spec: {<<: *volume, claimRef: {namespace: NS, name: c}}}]
- [Namespace, v1, NS, {}]
- [PersistentVolumeClaim, v1, a, {spec: &claim {accessModes: [ReadWriteOnce],
   storageClassName: NS-local, volumeName: NS-a, resources: {requests: {storage: 10Gi}}}}]
- [PersistentVolumeClaim, v1, b, {spec: {<<: *claim, volumeName: NS-b}}]
- [ConfigMap, v1, settings, {data: {a: "1", empty: ""}}]
- [Deployment, apps/v1, ollama, {spec: {strategy: {type: Recreate}, replicas: 1,
   selector: {matchLabels: {app: ollama}}, template: {metadata: {labels: {app: ollama}},
   spec: {hostNetwork: false, volumes: [{name: d, persistentVolumeClaim: {claimName: a}}],
   containers: [{name: main, image: ollama, env: [{name: X, value: ""}],
   ports: [{containerPort: 80, hostPort: 11434, hostIP: 127.0.0.1}],
   volumeMounts: [{name: d, mountPath: /d}],
   resources: {requests: {cpu: 1000m, memory: 32Gi}}}]}}}}]
- [IPAddressPool, metallb.io/v1beta1, NS, {spec: {addresses: [192.168.77.1/32]}}]
- [L2Advertisement, metallb.io/v1beta1, NS, {spec: {ipAddressPools: [NS]}}]
- [Service, v1, chat, {spec: {type: LoadBalancer, selector: {app: ollama},
   ports: [{port: 80}]}}]
- [Service, v1, ollama, {spec: {selector: {app: ollama}, ports: [{port: 11434}]}}]
- [Job, batch/v1, pull, {spec: {template: {spec: {restartPolicy: Never,
   containers: [{name: pull, image: busybox}]}}}}]
- [NetworkPolicy, networking.k8s.io/v1, closed, {spec: {podSelector: {},
   ingress: [{from: [{namespaceSelector: {}}]}]}}]
- [PrometheusRule, monitoring.coreos.com/v1, rules, {spec: {groups: [{name: g,
   rules: [{alert: Down, expr: up == 0, for: 5m}]}]}}]
"""
OUTSIDE = {"StorageClass": "", "PersistentVolume": "", "Namespace": ""} | dict.fromkeys(
    ("IPAddressPool", "L2Advertisement"), "metallb-system"
)


def table(lab: Lab) -> Body:
    def body(on: ResourceOptions) -> None:
        made: list[Resource] = []
        for kind, version, name, rest in yaml.safe_load(TABLE.replace("NS", lab.namespace)):
            metadata = {"name": name}
            if namespace := OUTSIDE.get(kind, lab.namespace):
                metadata["namespace"] = namespace
            # Up to the namespace each waits for all before it, so that the volumes go last.
            after = ResourceOptions(depends_on=made[:5])
            module = version if "/" in version else f"core/{version}"
            props = {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}
            options = ResourceOptions.merge(on, after)
            made.append(
                CustomResource(f"kubernetes:{module}:{kind}", f"{kind}-{name}", props, options)
            )

    return body


def settings(lab: Lab, *names: str, **more: Any) -> Body:
    def body(on: ResourceOptions) -> None:
        for name in names:
            metadata = {"name": name, "namespace": lab.namespace}
            props = {"metadata": metadata, "data": {"a": "1", "empty": ""}} | more
            k8s.core.v1.ConfigMap(name, opts=on, **props)

    return body


def pods(image: str, memory: str = "1Gi", **spec: Any) -> Any:
    container = {"name": "main", "image": image, "resources": {"requests": {"memory": memory}}}
    return {"metadata": {"labels": {"app": "o"}}, "spec": {"containers": [container], **spec}}


def deployment(lab: Lab, memory: str, seconds: int = 3, **options: Any) -> Body:
    def body(on: ResourceOptions) -> None:
        limits = CustomTimeouts(create=f"{seconds}s", update="30s")
        k8s.apps.v1.Deployment(
            "ollama",
            metadata={"name": "ollama", "namespace": lab.namespace},
            spec={"selector": {"match_labels": {"app": "o"}}, "template": pods("a", memory)},
            opts=ResourceOptions.merge(on, ResourceOptions(custom_timeouts=limits, **options)),
        )

    return body
