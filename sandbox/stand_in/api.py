"""The sandbox's API server, and no other."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import load_kube_config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.discovery import LazyDiscoverer
from kubernetes.dynamic.exceptions import DynamicApiError, ResourceNotFoundError
from urllib3.exceptions import HTTPError

from sandbox.stand_in.base import RefusedError

CONTEXT = "homelab-sandbox"
FIELD_MANAGER = "pulumi-sandbox"
# The official provider takes over from these two; any other manager is a conflict.
# Source: fixCSAFieldManagers in provider/pkg/await/await.go of pulumi-kubernetes.
YIELDING = frozenset({"kubectl", "before-first-apply"})
# Seconds to connect, and for an answer.
LIMITS = (5, 60)


class ServerError(RefusedError):
    """A request the API server refused, with its message."""

    def __init__(self, error: DynamicApiError) -> None:
        self.code: int = error.status
        try:
            status = json.loads(error.body or "")
        except (TypeError, ValueError):
            status = {"message": error.body or error.reason}
        super().__init__(f"{status.get('message')} ({self.code} {error.reason})")
        self.causes: list[dict[str, str]] = (status.get("details") or {}).get("causes") or []

    @property
    def fields(self) -> list[str]:
        """List the fields the server complained about."""
        return [cause["field"] for cause in self.causes if cause.get("field")]

    @property
    def yields(self) -> bool:
        """Tell whether every field in conflict belongs to a manager that gives way."""
        found = [re.match(r'conflict with "([^"]+)"', cause["message"]) for cause in self.causes]
        return bool(found) and all(match and match[1] in YIELDING for match in found)


class UnknownKindError(RefusedError):
    """A kind the API server does not serve, perhaps not yet."""


class _InMemory(LazyDiscoverer):
    """Discovery without the client's cache file, which outlives the cluster it describes."""

    def _write_cache(self) -> None:
        pass


def checked_server(kubeconfig: Path) -> str:
    """Give the API server's address in `kubeconfig`.

    Raises RefusedError unless the file has the sandbox's context and that is on this machine.
    """
    try:
        config = yaml.safe_load(kubeconfig.read_text())
        contexts = {entry["name"]: entry["context"] for entry in config["contexts"]}
        clusters = {entry["name"]: entry["cluster"]["server"] for entry in config["clusters"]}
        server = str(clusters[contexts[CONTEXT]["cluster"]])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        message = f"{kubeconfig}: no usable context {CONTEXT}: {error!r}"
        raise RefusedError(message) from error
    if urlsplit(server).hostname != "127.0.0.1":
        message = f"{kubeconfig}: {CONTEXT} is {server}, not a server on 127.0.0.1"
        raise RefusedError(message)
    return server


class Cluster:
    """Objects of any kind, by server-side apply; safe to share between threads."""

    def __init__(self, kubeconfig: Path) -> None:
        self.server = checked_server(kubeconfig)
        configuration = Configuration()
        load: Any = load_kube_config
        load(str(kubeconfig), CONTEXT, client_configuration=configuration, persist_config=False)
        # An HTTPS_PROXY in the environment is not meant for this machine's own cluster.
        configuration.proxy = None
        # The engine runs many creates at once; each needs its connection.
        configuration.connection_pool_maxsize = 64
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], Any] = {}
        self._connect: Any = DynamicClient
        self._client: Any = None
        self._api = ApiClient(configuration)
        self._no_cache = str(kubeconfig) + ".not-written"

    def kind(self, api_version: str, kind: str) -> Any:
        """Find how to address `kind`; look again if unknown, as definitions may be new.

        Raises UnknownKindError.
        """
        with self._lock:
            if (api_version, kind) not in self._kinds:
                prefix = "apis" if "/" in api_version else "api"
                try:
                    if self._client is None:
                        self._client = self._connect(self._api, self._no_cache, _InMemory)
                    found = self._client.resources.get(
                        prefix=prefix, api_version=api_version, kind=kind
                    )
                except ResourceNotFoundError as error:
                    message = f"the API server knows no {kind} in {api_version}"
                    raise UnknownKindError(message) from error
                except HTTPError as error:
                    raise self._unreachable(error) from error
                self._kinds[api_version, kind] = found
            return self._kinds[api_version, kind]

    def namespaced(self, obj: dict[str, Any]) -> bool:
        """Tell whether `obj` lives in a namespace; false for a kind not (yet) known."""
        try:
            return bool(self.kind(obj["apiVersion"], obj["kind"]).namespaced)
        except UnknownKindError:
            return False

    def get(self, obj: dict[str, Any]) -> dict[str, Any] | None:
        """Get the live object with the kind, name and namespace of `obj`."""
        try:
            return self._send("get", self._path(obj))[0]
        except ServerError as error:
            if error.code != 404:
                raise
            return None

    def find(self, api_version: str, kind: str, namespace: str, selector: str = "") -> Any:
        """List the objects of a kind in `namespace` whose labels fit `selector`."""
        path = self.kind(api_version, kind).path(namespace=namespace)
        return self._send("get", path, labelSelector=selector)[0]["items"]

    def apply(
        self, obj: dict[str, Any], *, force: bool = False, dry_run: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """Apply `obj` server-side: the result, and what the server warns about."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        try:
            return self._send("patch", self._path(obj), obj, force=str(force).lower(), **query)
        except ServerError as error:
            if error.code != 409 or not error.yields:
                raise
            return self._send("patch", self._path(obj), obj, force="true", **query)

    def delete(self, obj: dict[str, Any], propagation: str) -> None:
        """Ask for the deletion of `obj`; an object already gone is no error."""
        try:
            self._send("delete", self._path(obj), propagationPolicy=propagation)
        except ServerError as error:
            if error.code != 404:
                raise

    def _path(self, obj: dict[str, Any]) -> str:
        kind = self.kind(obj["apiVersion"], obj["kind"])
        namespace = obj["metadata"].get("namespace") if kind.namespaced else None
        return str(kind.path(name=obj["metadata"]["name"], namespace=namespace))

    def _send(
        self, method: str, path: str, body: Any = None, **query: str
    ) -> tuple[dict[str, Any], list[str]]:
        try:
            answer = self._client.request(
                method,
                path,
                body=body,
                query_params=[(key, value) for key, value in query.items() if value],
                content_type="application/apply-patch+yaml" if method == "patch" else None,
                serialize=False,
                _request_timeout=LIMITS,
            )
        except DynamicApiError as error:
            raise ServerError(error) from error
        except HTTPError as error:
            raise self._unreachable(error) from error
        return json.loads(answer.data), list(_warnings(answer.headers))

    def _unreachable(self, error: HTTPError) -> RefusedError:
        return RefusedError(f"no answer from {self.server}: {error}")


def _warnings(headers: Any) -> Iterator[str]:
    for header in headers.getlist("Warning"):
        yield from (text.replace('\\"', '"') for text in re.findall(r'"((?:[^"\\]|\\.)*)"', header))
