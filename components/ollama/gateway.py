"""The gateway: the container of Ollama's pod that authorizes, limits and measures requests."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pulumi import Input, Resource, ResourceOptions
from pulumi_kubernetes.core.v1 import (
    ConfigMap,
    ContainerArgsDict,
    EnvVarArgsDict,
    ProbeArgsDict,
    Secret,
    VolumeArgsDict,
)
from pulumi_kubernetes.meta.v1 import ObjectMetaArgsDict
from pulumi_random import RandomPassword

from components._kubernetes import (
    RESTRICTED,
    environment,
    files,
    labels,
    read_files,
    secret_variable,
)

PORT = 11434
GRACE = 300
"""Seconds for running answers after SIGTERM: 1500 tokens at 5 tokens/s."""

TERMINATION = GRACE + 30
"""`terminationGracePeriodSeconds`: the preStop hook, the answers, and a last push of metrics."""


class Gateway:
    """The gateway's ConfigMap and Secret, and its parts of Ollama's pod."""

    volume: VolumeArgsDict
    """The volume with the program."""

    def __init__(self, name: str, namespace: Input[str], parent: Resource) -> None:
        """Create its ConfigMap and Secret in `namespace`."""
        program = read_files(Path(__file__).parent / "programs", "gateway*.py", "model_name.py")
        child = ResourceOptions(parent=parent)
        self._name = f"{name}-gateway"
        self._fingerprint = hashlib.sha256(json.dumps(program, sort_keys=True).encode()).hexdigest()
        metadata: ObjectMetaArgsDict = {
            "name": self._name,
            "namespace": namespace,
            "labels": labels(name),
        }
        self.volume = files(
            "gateway",
            ConfigMap(f"{self._name}-program", metadata=metadata, data=program, opts=child),
        )
        keys = {
            key: RandomPassword(f"{self._name}-{key}", length=48, special=False, opts=child).result
            for key in ("manage-token", "user-key")
        }
        secret = Secret(f"{self._name}-secret", metadata=metadata, string_data=keys, opts=child)
        self._secret = secret.metadata["name"]

    @property
    def annotations(self) -> dict[str, str]:
        """Pod annotations: a changed program restarts the pod, and `kubectl exec` enters Ollama."""
        return {
            "homelab/gateway": self._fingerprint[:8],
            "kubectl.kubernetes.io/default-container": "ollama",
        }

    def token(self, variable: str) -> EnvVarArgsDict:
        """Return an environment variable with the token that allows changing models."""
        return secret_variable(variable, self._secret, "manage-token")

    def container(
        self, image: Input[str], upstream: str, settings: Mapping[str, Input[str]]
    ) -> ContainerArgsDict:
        """Return the container, a proxy of `upstream`, a `host:port` inside the pod.

        `settings` are more variables of `programs/gateway_settings.py`.
        """
        probe: ProbeArgsDict = {"http_get": {"path": "/", "port": "http"}, "timeout_seconds": 5}
        addresses: dict[str, Input[str]] = {
            "GATEWAY_LISTEN": f"0.0.0.0:{PORT}",
            "GATEWAY_UPSTREAM": f"http://{upstream}",
            "GATEWAY_GRACE_SECONDS": str(GRACE),
        }
        return {
            "name": "gateway",
            "image": image,
            "command": ["python3", "-u", "/gateway/gateway.py"],
            "env": [
                *environment({**addresses, **settings}),
                self.token("GATEWAY_MANAGE_TOKEN"),
                secret_variable("GATEWAY_USER_KEY", self._secret, "user-key"),
            ],
            "ports": [{"name": "http", "container_port": PORT}],
            "readiness_probe": {**probe, "period_seconds": 10},
            # The path goes on to Ollama, whose own liveness probe restarts it earlier.
            "liveness_probe": {**probe, "period_seconds": 30, "failure_threshold": 10},
            # Until the Service sends no more requests to this pod.
            "lifecycle": {"pre_stop": {"sleep": {"seconds": 5}}},
            # Measured: 52 MB and 0.13 cores with 200 streams, 311 MB under attack.
            "resources": {
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"memory": "512Mi"},
            },
            "security_context": RESTRICTED,
            "volume_mounts": [{"name": "gateway", "mount_path": "/gateway", "read_only": True}],
        }
