"""Client of a cluster's API."""

import json
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.config import ConfigException, list_kube_config_contexts, load_kube_config
from urllib3.exceptions import HTTPError
from yaml import YAMLError

# Seconds to connect, and to read.
TIMEOUTS = (5, 30)
EXPIRY_DAYS = 30
"""Days before its expiry from which a certificate is reported."""
EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
JSON = "application/json"
# Aggregated discovery: all kinds in two requests (API server 1.30 and newer).
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# Metadata only, because a list of dashboards has megabytes of data.
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class UnreadableError(RuntimeError):
    """A failure to read something, in one line with the reason."""


class Kind(NamedTuple):
    """A kind of object in one API version."""

    root: str
    """Path of the version, such as `/api/v1`."""
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of its objects, or of the object `name`."""
        scope = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{self.root}{scope}/{self.plural}" + (f"/{name}" if name else "")


def expiring(configuration: Configuration) -> list[tuple[str, str, str]]:
    """Return subject, problem and remedy of each certificate that soon is no longer valid.

    Without the API server's no command of this laptop works, without the kubelet's no `logs`.
    Raises UnreadableError.
    """
    renew = "sudo microk8s refresh-certs -e server.crt"
    certificates = (
        ("the certificate", certificate_days(configuration), renew),
        ("the kubelet's certificate", kubelet_days(configuration), "docs/upgrade.md#certificates"),
    )
    return [
        (subject, f"expires in {days:.0f} days", remedy)
        for subject, days, remedy in certificates
        if days is not None and days <= EXPIRY_DAYS
    ]


def trust(authority: str | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the authority in this file."""
    context = ssl.create_default_context(cafile=authority)
    # Strict, as by default since Python 3.13, it rejects the authority of each MicroK8s installed
    # before June 2026, which has no key usage (microk8s#4864).
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def certificate_days(configuration: Configuration) -> float:
    """Return the days until the API server's certificate expires; raises UnreadableError."""
    url, context = urlsplit(configuration.host), trust(configuration.ssl_ca_cert)
    name = configuration.tls_server_name or url.hostname
    try:
        return _days((url.hostname, url.port or 443), context, name)
    except OSError as error:
        reason = "no answer within 3 s" if isinstance(error, TimeoutError) else error
        raise UnreadableError(f"{configuration.host}: {reason}") from error


def kubelet_days(configuration: Configuration, port: int = 10250) -> float | None:
    """Return the days until the certificate of the kubelet beside the API server expires, 0 after.

    None if there is no answer, or another authority than the cluster's has signed it: the API
    server would not verify it either.
    """
    context = trust(configuration.ssl_ca_cert)
    context.check_hostname = False  # it has the node's name
    try:
        return _days((urlsplit(configuration.host).hostname, port), context, None)
    except ssl.SSLCertVerificationError as error:
        return 0 if error.verify_code == EXPIRED else None
    except OSError:
        return None


def _days(address: tuple[str | None, int], context: ssl.SSLContext, name: str | None) -> float:
    """Return the days until the certificate at this address expires; raises OSError."""
    with (
        socket.create_connection(address, 3) as connection,
        context.wrap_socket(connection, server_hostname=name) as tls,
    ):
        certificate: Any = tls.getpeercert()
    return (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400


def cause(error: BaseException) -> BaseException:
    """Return what was the first cause of an error, such as a refused connection."""
    inner = getattr(error, "reason", None)
    inner = inner if isinstance(inner, BaseException) else error.__cause__
    return cause(inner) if inner else error


def current_context() -> str:
    """Return the name of the kubeconfig's current context; raises UnreadableError."""
    try:
        name: str = list_kube_config_contexts()[1]["name"]  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, YAMLError) as error:
        raise _invalid("a current context, or CONTEXT=NAME", error) from error
    return name


@contextmanager
def readable_errors(title: str) -> Iterator[None]:
    """Raise UnreadableError with this title for errors of the official client."""
    try:
        yield
    except ApiException as error:
        raise UnreadableError(f"{title}: {error.status} {error.reason}") from error
    except HTTPError as error:
        raise UnreadableError(f"{title}: no answer: {cause(error)}") from error


def _invalid(want: str, error: Exception, kubeconfig: Path | None = None) -> UnreadableError:
    file = str(kubeconfig or os.environ.get("KUBECONFIG", "~/.kube/config"))
    line = " ".join(str(error).split()).removeprefix("Invalid kube-config file. ").rstrip(".")
    return UnreadableError(f"kubeconfig: got {file!r}, want {want}: {line} (docs/install.md)")


class Client(ApiClient):
    """An API client whose every request has TIMEOUTS: the default is to wait without end."""

    def call_api(self, *args: Any, **kwargs: Any) -> Any:
        """Do a request; raises urllib3's HTTPError if there is no answer in time."""
        kwargs["_request_timeout"] = kwargs.get("_request_timeout") or TIMEOUTS
        return super().call_api(*args, **kwargs)


class Cluster:
    """The cluster of a kubeconfig's context; thread-safe."""

    def __init__(self, context: str, kubeconfig: Path | None = None) -> None:
        """Load `kubeconfig`, by default that of `KUBECONFIG`; raises UnreadableError."""
        configuration = Configuration()
        # For the threads that list and compare objects.
        configuration.connection_pool_maxsize = 16
        # urllib3's own 3 make 20 seconds of a server that is away.
        configuration.retries = 1
        load: Any = load_kube_config
        try:
            # The client reads the variable at its import, which may be earlier.
            file = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")
            load(file, context, client_configuration=configuration, persist_config=False)
        except (ConfigException, OSError, YAMLError) as error:
            raise _invalid(f"the context {context!r}", error, kubeconfig) from error
        self.configuration = configuration
        self.api: Any = Client(configuration)
        """For the client's own classes, such as `CoreV1Api`."""
        if configuration.verify_ssl:
            tls = trust(configuration.ssl_ca_cert)
            if configuration.cert_file:
                tls.load_cert_chain(configuration.cert_file, configuration.key_file)
            # Without these files, which urllib3 would load again for each connection: while other
            # threads use the context, that ends Python with a segmentation fault.
            files = dict.fromkeys(("ca_certs", "ca_cert_data", "cert_file", "key_file"))
            pool = self.api.rest_client.pool_manager.connection_pool_kw
            pool.update(files, ssl_context=tls)

    def ask(self, path: str, accept: str = JSON, **query: str) -> Any:
        """Return the object at `path`, or None; raises UnreadableError."""
        return self.request("GET", path, None, {"Accept": accept}, query)

    def review(self, kind: str, spec: Mapping[str, Any]) -> bool:
        """Return the result of an access review of this kind; raises UnreadableError."""
        path = f"/apis/authorization.k8s.io/v1/{kind}"
        return bool(self.request("POST", path, {"spec": spec})["status"]["allowed"])

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the answer to a request, None after 404; raises UnreadableError."""
        request = self.api.param_serialize(
            method,
            path,
            query_params=[*(query or {}).items()],
            header_params={"Accept": JSON, **(headers or {})},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response: Any = self.api.call_api(*request)
            data = response.read()
        except HTTPError as error:
            host = self.configuration.host
            raise UnreadableError(f"{host}{path}: no answer: {cause(error)}") from error
        if response.status == 404:
            return None
        try:
            result = json.loads(data)
        except ValueError:
            result = {"message": data[:200].decode(errors="replace")}
        if response.status not in (200, 201):
            message = result.get("message") if isinstance(result, dict) else result
            raise UnreadableError(f"{path}: {response.status} {message or response.reason}")
        return result

    @cached_property
    def kinds(self) -> dict[tuple[str, str], Kind]:
        """Every kind by API version and name, the versions of a group in its own order.

        Without those of an API service that does not respond, as metrics-server at times.
        """
        return {
            (version, resource["responseKind"]["kind"]): Kind(
                f"{root}/{version}", resource["resource"], resource["scope"] == "Namespaced"
            )
            for root in ("/api", "/apis")
            for group in self.read(root, DISCOVERY)["items"]
            for item in group["versions"]
            if item.get("freshness", "Current") == "Current"
            for version in [f"{group['metadata'].get('name', '')}/{item['version']}".lstrip("/")]
            for resource in item.get("resources", [])
        }

    def get(self, obj: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the live object with the kind, namespace and name of `obj`, or None.

        Raises UnreadableError, also if the API server does not know the kind.
        """
        if not (kind := self.kinds.get((obj["apiVersion"], obj["kind"]))):
            title = f"{obj['apiVersion']} {obj['kind']} {obj['metadata']['name']}"
            raise UnreadableError(f"{title}: the API server does not know this kind")
        metadata = obj["metadata"]
        live: dict[str, Any] | None = self.ask(
            kind.path(metadata.get("namespace", ""), metadata["name"])
        )
        return live

    def read(self, path: str, accept: str = JSON, **query: str) -> Any:
        """Return the object at `path`; raises UnreadableError, also if there is none."""
        if (result := self.ask(path, accept, **query)) is None:
            raise UnreadableError(f"{path}: the API server does not know it")
        return result
