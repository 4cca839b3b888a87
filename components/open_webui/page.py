"""Open WebUI, the chat page, with its Service, network policy and secrets."""

from typing import NotRequired, TypedDict

from pulumi import ComponentResource, CustomTimeouts, Input, Output, ResourceOptions
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.batch.v1 import Job
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    ContainerPortArgsDict,
    ProbeArgsDict,
    Secret,
    VolumeArgsDict,
)
from pulumi_kubernetes.networking.v1 import NetworkPolicyIngressRuleArgsDict
from pulumi_random import RandomPassword

from components._kubernetes import (
    RESTRICTED,
    SLOW_PULL,
    Pod,
    Telemetry,
    environment,
    labels,
    otel_service,
    pod_spec,
    policy,
    resources,
    secret_variable,
    selector,
    service,
    volume,
)
from components.open_webui.environment import FIXED

PORT = 8080


class ChatModels(TypedDict):
    """Ollama's API, and the models for each purpose."""

    url: Input[str]
    """URL of Ollama's API."""
    further_urls: NotRequired[list[Input[str]]]
    """URLs of more model servers' APIs. Default: none."""
    client_labels: dict[str, str]
    """Labels by which network policies allow a pod to reach it."""
    default: str
    """Model of new chats."""
    embedding: str
    """Model that embeds documents."""
    prefixes: NotRequired[list[str]]
    """Prefixes of documents and of queries for that model. Default: none."""
    task: NotRequired[str | None]
    """Model that writes the titles of chats. Default: the chat's own model."""
    forward_users: NotRequired[bool]
    """Send Ollama a header with the user's ID. Default: false."""


class PageAccess(TypedDict):
    """Addresses of the page, and who may use them."""

    client_cidrs: list[str]
    """CIDRs that may open the page."""
    lan_address: NotRequired[str | None]
    """Address on the home network. Default: none."""
    address_pool: NotRequired[Input[str] | None]
    """MetalLB pool of `lan_address`."""
    tailnet_address: NotRequired[str | None]
    """Tailscale address of the node, opened as a `hostPort`. Default: none."""
    origins: NotRequired[list[str]]
    """More origins of the page: URLs, or hostnames at its port. Default: none."""
    trusted_email_header: NotRequired[str | None]
    """Header with the e-mail address of a user whom a proxy has authenticated; not together with an
    address. Default: none."""
    api_paths: NotRequired[list[str]]
    """Paths that API keys allow. Default: API keys are disabled."""


class OpenWebUIArgs(TypedDict):
    """Inputs of an `OpenWebUI`."""

    namespace: Input[str]
    """Namespace to run in."""
    claim_name: Input[str]
    """Claim of the volume for accounts, chats and uploaded files."""
    pod: Pod
    admin_email: str
    """E-mail address of the first account."""
    models: ChatModels
    access: PageAccess
    telemetry: Telemetry
    depends_on: NotRequired[list[Job]]
    """Jobs that must complete before a changed image is rolled out. Default: none."""
    protect: NotRequired[bool]
    """Protect the generated secrets, which the data on the volume depends on. Default: false."""


class OpenWebUI(ComponentResource):
    """Open WebUI with an admin account and without sign-up."""

    urls: list[str]
    """URLs of the page by address, the home network's first."""
    origins: list[str]
    """Allowed origins of requests: `urls`, and the origins of `access`."""
    admin_password: Output[str]
    """Initial password of the first account (secret)."""

    def __init__(self, name: str, args: OpenWebUIArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("homelab:index:OpenWebUI", name, {}, opts)
        child = ResourceOptions(parent=self)
        access, models = args["access"], args["models"]
        lan, tailnet = access.get("lan_address"), access.get("tailnet_address")
        if (header := access.get("trusted_email_header")) and (lan or tailnet):
            # A client that bypasses the proxy could forge the header, and sign in as anyone.
            raise ValueError(f"trusted_email_header: got {header!r}, want none beside an address")
        self.urls = [f"http://{address}:{PORT}" for address in (lan, tailnet) if address]
        origins = [
            origin if "://" in origin else f"http://{origin}:{PORT}"
            for origin in access.get("origins", ())
        ]
        self.origins = list(dict.fromkeys([*self.urls, *origins]))

        # The database has the first password's hash, and values encrypted with the first key.
        protected = ResourceOptions(parent=self, protect=args.get("protect", False))
        self.admin_password = RandomPassword(
            f"{name}-admin-password", length=24, special=False, opts=protected
        ).result
        key = RandomPassword(f"{name}-secret-key", length=48, special=False, opts=protected)
        secret = Secret(
            f"{name}-secret",
            metadata={"name": name, "namespace": args["namespace"], "labels": labels(name)},
            string_data={
                "WEBUI_SECRET_KEY": key.result,
                "WEBUI_ADMIN_PASSWORD": self.admin_password,
            },
            opts=child,
        )

        clients: NetworkPolicyIngressRuleArgsDict = {
            "from_": [{"ip_block": {"cidr": cidr}} for cidr in access["client_cidrs"]],
            "ports": [{"protocol": "TCP", "port": PORT}],
        }
        policy(name, args["namespace"], selector(name), self, ingress=[clients])

        volumes: list[VolumeArgsDict] = [
            volume("data", args["claim_name"]),
            {"name": "tmp", "empty_dir": {"size_limit": "2Gi"}},
        ]
        container = _container(args, self.urls, self.origins, secret.metadata["name"])
        Deployment(
            f"{name}-deployment",
            metadata={"name": name, "namespace": args["namespace"], "labels": labels(name)},
            spec={
                # SQLite allows one writer, and a hostPort one pod.
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"match_labels": selector(name)},
                "template": {
                    "metadata": {
                        "labels": {
                            **labels(name),
                            **models["client_labels"],
                            **args["telemetry"]["pod_labels"],
                        }
                    },
                    "spec": pod_spec(container, volumes, args["pod"].get("node")),
                },
            },
            opts=ResourceOptions(
                parent=self,
                depends_on=args.get("depends_on", []),
                custom_timeouts=CustomTimeouts(create=SLOW_PULL, update=SLOW_PULL),
            ),
        )

        service(
            f"{name}-service",
            f"{name}-service-local",
            args["namespace"],
            selector(name),
            (PORT, "http"),
            self,
            address=lan,
            pool=access.get("address_pool") or "",
        )

        self.register_outputs({"urls": self.urls})


def _container(
    args: OpenWebUIArgs, urls: list[str], origins: list[str], secret: Input[str]
) -> ContainerArgsDict:
    """Return Open WebUI's container, configured by its environment only."""
    port: ContainerPortArgsDict = {"name": "http", "container_port": PORT}
    if tailnet := args["access"].get("tailnet_address"):
        port["host_port"], port["host_ip"] = PORT, tailnet
    probe: ProbeArgsDict = {"http_get": {"path": "/health", "port": "http"}, "timeout_seconds": 5}
    keys = ("WEBUI_SECRET_KEY", "WEBUI_ADMIN_PASSWORD")
    return {
        "name": "open-webui",
        "image": args["pod"]["image"],
        "env": [
            *environment(_settings(args, urls, origins)),
            *(secret_variable(key, secret) for key in keys),
        ],
        "ports": [port],
        # Migrations run before the port opens, half an hour where there are many chats, and a
        # database that was left in the middle of one can never be opened again; so the pod is not
        # restarted as long as `up` waits. An unknown path answers 200: mind the spelling.
        "startup_probe": {**probe, "period_seconds": 5, "failure_threshold": 1440},
        "readiness_probe": {**probe, "http_get": {"path": "/ready", "port": "http"}},
        "liveness_probe": {**probe, "period_seconds": 30, "failure_threshold": 4},
        "resources": resources(args["pod"]),
        "security_context": RESTRICTED,
        "volume_mounts": [
            {"name": "data", "mount_path": "/data"},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }


def _settings(args: OpenWebUIArgs, urls: list[str], origins: list[str]) -> dict[str, Input[str]]:
    """Return Open WebUI's environment."""
    models = args["models"]
    settings: dict[str, Input[str]] = {
        **FIXED,
        "WEBUI_ADMIN_EMAIL": args["admin_email"],
        "OLLAMA_BASE_URL": models["url"],
        "DEFAULT_MODELS": models["default"],
        "RAG_EMBEDDING_MODEL": models["embedding"],
        "RAG_OLLAMA_BASE_URL": models["url"],
    }
    if further := models.get("further_urls"):
        settings |= {
            "OLLAMA_BASE_URLS": Output.concat(
                models["url"], *(part for url in further for part in (";", url))
            ),
            # The list of models waits for every server, by default 10 s for a dead one.
            "AIOHTTP_CLIENT_TIMEOUT_MODEL_LIST": "3",
        }
    document, query = models.get("prefixes", ["", ""])
    if document:
        settings["RAG_EMBEDDING_CONTENT_PREFIX"] = document
    if query:
        settings["RAG_EMBEDDING_QUERY_PREFIX"] = query
    if urls:
        settings["WEBUI_URL"] = urls[0]
    if origins:
        # The websocket, which streams the answers, rejects all other origins.
        settings["CORS_ALLOW_ORIGIN"] = ";".join(origins)
    if paths := args["access"].get("api_paths"):
        settings |= {
            "ENABLE_API_KEYS": "true",
            # Without restrictions, an admin's key would allow everything that a session does.
            "ENABLE_API_KEYS_ENDPOINT_RESTRICTIONS": "true",
            "API_KEYS_ALLOWED_ENDPOINTS": ",".join(paths),
        }
    if task_model := models.get("task"):
        settings["TASK_MODEL"] = task_model
    if models.get("forward_users"):
        settings["ENABLE_FORWARD_USER_INFO_HEADERS"] = "true"
    settings |= {
        "ENABLE_OTEL": "true",
        "ENABLE_OTEL_METRICS": "true",
        # Selects OTLP over HTTP for metrics, in spite of its name; the endpoint is used as is.
        "OTEL_METRICS_OTLP_SPAN_EXPORTER": "http",
        "OTEL_METRICS_EXPORTER_OTLP_ENDPOINT": args["telemetry"]["otlp_url"],
        **otel_service("open-webui", args["namespace"], "open-webui"),
    }
    if header := args["access"].get("trusted_email_header"):
        settings["WEBUI_AUTH_TRUSTED_EMAIL_HEADER"] = header
    return settings
