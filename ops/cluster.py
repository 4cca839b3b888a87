"""A cluster as its API shows it; nothing here can change it."""

import json
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_kube_config
from urllib3.exceptions import HTTPError

# Seconds to connect, and for an answer.
LIMITS = (5, 30)
LAST_DAYS = 30
"""Days before its end from which a certificate is told of."""
EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
# All kinds in two requests instead of one for each group (API server 1.30 and newer).
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# Names and owners without contents, of which a list of dashboards has megabytes.
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Key = tuple[str, str, str, str]
"""An object: the group of its API (`""` for the core), kind, namespace (`""` for none), name."""


class UnreadableError(RuntimeError):
    """What could not be read and why, in one line."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object that the API server knows, in one version."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "") -> str:
        """Give where its objects, or the one named, are."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{root}{place}/{self.plural}" + (f"/{name}" if name else "")


def certificate_days(about: Configuration) -> float:
    """Days until the API server's certificate ends; raises UnreadableError if it is not trusted."""
    url, tls = urlsplit(about.host), ssl.create_default_context(cafile=about.ssl_ca_cert)
    try:
        return _days((url.hostname, url.port or 443), tls, about.tls_server_name or url.hostname)
    except OSError as error:
        why = "no answer within 3 s" if isinstance(error, TimeoutError) else error
        raise UnreadableError(f"{about.host}: {why}") from error


def kubelet_days(about: Configuration, port: int = 10250) -> float | None:
    """Days until the certificate of the kubelet beside the API server ends; 0 if it has.

    None if there is no answer, or it is not of the cluster's own authority: an API server that
    knows no other would not look at it.
    """
    tls = ssl.create_default_context(cafile=about.ssl_ca_cert)
    tls.check_hostname = False  # it has the node's name
    try:
        return _days((urlsplit(about.host).hostname, port), tls, None)
    except ssl.SSLCertVerificationError as error:
        return 0 if error.verify_code == EXPIRED else None
    except OSError:
        return None


def _days(at: tuple[str | None, int], tls: ssl.SSLContext, name: str | None) -> float:
    """Days until the certificate of this address ends; raises OSError."""
    with (
        socket.create_connection(at, 3) as plain,
        tls.wrap_socket(plain, server_hostname=name) as sealed,
    ):
        certificate: Any = sealed.getpeercert()
    return (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400


class Cluster:
    """The cluster of a kubeconfig's context; safe to share between threads."""

    def __init__(self, context: str, kubeconfig: Path | None = None) -> None:
        """Read `kubeconfig`, or the one that `KUBECONFIG` names; raises UnreadableError."""
        chosen = Configuration()
        # What is listed and what is compared, at once.
        chosen.connection_pool_maxsize = 16
        load: Any = load_kube_config
        try:
            file = str(kubeconfig) if kubeconfig else None
            load(file, context, client_configuration=chosen, persist_config=False)
        except (ConfigException, OSError) as error:
            line = " ".join(str(error).split())
            raise UnreadableError(f"kubeconfig, context {context!r}: {line}") from error
        self.configuration = chosen
        self._api = ApiClient(chosen)

    def ask(self, path: str, accept: str = "application/json", **query: str) -> Any:
        """Give what is at `path`, None if nothing is there; raises UnreadableError."""
        return self._call("GET", path, accept, query, None)

    def review(self, kind: str, spec: Mapping[str, Any]) -> bool:
        """Ask the API server's authorizer, by a review of this kind; raises UnreadableError."""
        path, accept = f"/apis/authorization.k8s.io/v1/{kind}", "application/json"
        return bool(self._call("POST", path, accept, {}, {"spec": spec})["status"]["allowed"])

    def _call(
        self, method: str, path: str, accept: str, query: Mapping[str, str], body: object
    ) -> Any:
        request = self._api.param_serialize(
            method,
            path,
            query_params=[*query.items()],
            header_params={"Accept": accept},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer: Any = self._api.call_api(*request, _request_timeout=LIMITS)
            text = answer.read()
        except HTTPError as error:
            raise UnreadableError(f"{path}: no answer: {error}") from error
        if answer.status == 404:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            found = {"message": text[:200].decode(errors="replace")}
        if answer.status not in (200, 201):
            why = found.get("message") if isinstance(found, dict) else found
            raise UnreadableError(f"{path}: {answer.status} {why or answer.reason}")
        return found

    @cached_property
    def kinds(self) -> dict[tuple[str, str], Kind]:
        """Every kind by API version and name, the versions of a group in its own order.

        Those of a server that is away are not among them, as of metrics-server at times.
        """
        found = {}
        for root in ("/api", "/apis"):
            for group in self.read(root, DISCOVERY)["items"]:
                for kind in _kinds(group):
                    version = f"{kind.group}/{kind.version}" if kind.group else kind.version
                    found[version, kind.name] = kind
        return found

    def get(self, obj: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give the live object with the kind, name and namespace of `obj`, or None.

        Raises UnreadableError, also if the API server does not know the kind.
        """
        if not (kind := self.kinds.get((obj["apiVersion"], obj["kind"]))):
            what = f"{obj['apiVersion']} {obj['kind']} {obj['metadata']['name']}"
            raise UnreadableError(f"{what}: the API server does not know this kind")
        metadata = obj["metadata"]
        found: dict[str, Any] | None = self.ask(
            kind.path(metadata.get("namespace", ""), metadata["name"])
        )
        return found

    def list(self, kind: Kind, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """Give all objects of a kind in `namespace` whose labels fit `selector`."""
        query = {"labelSelector": selector} if selector else {}
        items: list[dict[str, Any]] = self.read(kind.path(namespace), **query)["items"]
        return items

    def read(self, path: str, accept: str = "application/json", **query: str) -> Any:
        """Give what is at `path`; raises UnreadableError, also if nothing is there."""
        if (found := self.ask(path, accept, **query)) is None:
            raise UnreadableError(f"{path}: the API server does not know it")
        return found


def _kinds(group: Mapping[str, Any]) -> Iterable[Kind]:
    """The kinds of one group, those that its server says now."""
    name = group["metadata"].get("name", "")
    for version in group["versions"]:
        if version.get("freshness", "Current") != "Current":
            continue
        for resource in version.get("resources", []):
            yield Kind(
                group=name,
                version=version["version"],
                name=resource["responseKind"]["kind"],
                plural=resource["resource"],
                namespaced=resource["scope"] == "Namespaced",
            )
