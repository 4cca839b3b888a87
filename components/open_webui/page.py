"""The chat page: its account, its data, and the two ways to reach it."""

from typing import NotRequired, TypedDict

from pulumi import ComponentResource, CustomTimeouts, Input, Output, ResourceOptions
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.batch.v1 import Job
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    ContainerPortArgsDict,
    EnvVarArgsDict,
    ProbeArgsDict,
    Secret,
    VolumeArgsDict,
)
from pulumi_kubernetes.networking.v1 import NetworkPolicyIngressRuleArgsDict
from pulumi_random import RandomPassword

from components._kubernetes import (
    NOWHERE,
    RESTRICTED,
    SLOW_PULL,
    Pod,
    Telemetry,
    environment,
    labels,
    otel_service,
    pod,
    policy,
    resources,
    selector,
    service,
    volume,
)
from components.open_webui.environment import FIXED

PORT = 8080


class ChatModels(TypedDict):
    """The model server, and which of its models the page uses for what."""

    url: Input[str]
    """Where the model server answers."""
    further_urls: NotRequired[list[Input[str]]]
    """URLs of more model servers. Default: none."""
    client_labels: dict[str, str]
    """Labels that open the way there."""
    default: str
    """Model that a new chat starts with."""
    embedding: str
    """Model that documents are indexed with."""
    prefixes: NotRequired[list[str]]
    """What that model wants a document, and a query, to begin with. Default: nothing."""
    task: NotRequired[str | None]
    """Model that names chats. Default: the one that is chatted with."""
    name_users: NotRequired[bool]
    """Whether the model server gets a header with the user's id. Default: false."""


class PageAccess(TypedDict):
    """From where, by which names and with what the page is reached."""

    reached_from: list[str]
    """CIDRs that may open the page."""
    lan_address: NotRequired[str | None]
    """Address on the home network. Default: none."""
    address_pool: NotRequired[Input[str] | None]
    """MetalLB pool that has `lan_address`."""
    tailnet_address: NotRequired[str | None]
    """The node's Tailscale address, where the pod itself listens. Default: none."""
    origins: NotRequired[list[str]]
    """Further names of the page: a URL as a browser opens it, or a name at this port.
    Default: none."""
    trusted_email_header: NotRequired[str | None]
    """Header in which a proxy names who is signed in; refused with an address. Default: none."""
    api_paths: NotRequired[list[str]]
    """Paths that an API key is good for. Default: there are no API keys."""


class OpenWebUIArgs(TypedDict):
    """Inputs of an `OpenWebUI`."""

    namespace: Input[str]
    """Namespace to run in."""
    claim_name: Input[str]
    """Claim of the volume that keeps accounts, chats and files."""
    pod: Pod
    admin_email: str
    """E-mail address that the first account signs in with."""
    models: ChatModels
    access: PageAccess
    telemetry: NotRequired[Telemetry]
    """Default: nothing is pushed."""
    after: NotRequired[list[Job]]
    """Jobs that have to end before a changed image is rolled out. Default: none."""
    protect: NotRequired[bool]
    """Refuse to lose the generated secrets, which the data on the volume depends on.
    Default: false."""


class OpenWebUI(ComponentResource):
    """Open WebUI with one admin account from the first second and no sign-up."""

    urls: list[str]
    """Where the page is reached, the home network first."""
    origins: list[str]
    """What a browser may say that it opened: all of `urls`, and each of the further names."""
    admin_password: Output[str]
    """Password of the first account (secret); one changed in the page is not known here."""

    def __init__(self, name: str, args: OpenWebUIArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("homelab:index:OpenWebUI", name, {}, opts)
        child = ResourceOptions(parent=self)
        access, models = args["access"], args["models"]
        lan, tailnet = access.get("lan_address"), access.get("tailnet_address")
        telemetry = args.get("telemetry", NOWHERE)
        if access.get("trusted_email_header") and (lan or tailnet):
            # Whoever reaches the page directly could send the header himself and be anyone.
            raise ValueError("trusted_email_header: must not be set together with an address")
        self.urls = [f"http://{address}:{PORT}" for address in (lan, tailnet) if address]
        named = [
            one if "://" in one else f"http://{one}:{PORT}" for one in access.get("origins", ())
        ]
        self.origins = list(dict.fromkeys([*self.urls, *named]))

        # The database knows the first password and is sealed with the first key for ever.
        kept = ResourceOptions(parent=self, protect=args.get("protect", False))
        self.admin_password = RandomPassword(
            f"{name}-admin-password", length=24, special=False, opts=kept
        ).result
        key = RandomPassword(f"{name}-secret-key", length=48, special=False, opts=kept)
        secret = Secret(
            f"{name}-secret",
            metadata={"name": name, "namespace": args["namespace"], "labels": labels(name)},
            string_data={
                "WEBUI_SECRET_KEY": key.result,
                "WEBUI_ADMIN_PASSWORD": self.admin_password,
            },
            opts=child,
        )

        callers: NetworkPolicyIngressRuleArgsDict = {
            "from_": [{"ip_block": {"cidr": cidr}} for cidr in access["reached_from"]],
            "ports": [{"protocol": "TCP", "port": PORT}],
        }
        policy(name, args["namespace"], selector(name), self, ingress=[callers])

        volumes: list[VolumeArgsDict] = [
            volume("data", args["claim_name"]),
            {"name": "tmp", "empty_dir": {"size_limit": "2Gi"}},
        ]
        container = _container(args, self.urls, self.origins, secret.metadata["name"])
        Deployment(
            f"{name}-deployment",
            metadata={"name": name, "namespace": args["namespace"], "labels": labels(name)},
            spec={
                # SQLite has one writer, and a host port one listener.
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"match_labels": selector(name)},
                "template": {
                    "metadata": {
                        "labels": {
                            **labels(name),
                            **models["client_labels"],
                            **telemetry["pod_labels"],
                        }
                    },
                    "spec": pod(container, volumes, args["pod"].get("node")),
                },
            },
            opts=ResourceOptions(
                parent=self,
                depends_on=args.get("after", []),
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
    """The one container; the environment is the only source of its settings."""
    port: ContainerPortArgsDict = {"name": "http", "container_port": PORT}
    if tailnet := args["access"].get("tailnet_address"):
        port["host_port"], port["host_ip"] = PORT, tailnet
    probe: ProbeArgsDict = {"http_get": {"path": "/health", "port": "http"}, "timeout_seconds": 5}
    secrets: list[EnvVarArgsDict] = [
        {"name": key, "value_from": {"secret_key_ref": {"name": secret, "key": key}}}
        for key in ("WEBUI_SECRET_KEY", "WEBUI_ADMIN_PASSWORD")
    ]
    return {
        "name": "open-webui",
        "image": args["pod"]["image"],
        "env": [*environment(_settings(args, urls, origins)), *secrets],
        "ports": [port],
        # Migrations run before the port opens. Any unknown path answers 200: mind the spelling.
        "startup_probe": {**probe, "period_seconds": 5, "failure_threshold": 60},
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
    """Open WebUI's environment."""
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
        # The websocket, over which answers come, is refused to pages of any other.
        settings["CORS_ALLOW_ORIGIN"] = ";".join(origins)
    if paths := args["access"].get("api_paths"):
        settings |= {
            "ENABLE_API_KEYS": "true",
            # Without, a key of the admin's would be as good as a sign-in.
            "ENABLE_API_KEYS_ENDPOINT_RESTRICTIONS": "true",
            "API_KEYS_ALLOWED_ENDPOINTS": ",".join(paths),
        }
    if task_model := models.get("task"):
        settings["TASK_MODEL"] = task_model
    if models.get("name_users"):
        settings["ENABLE_FORWARD_USER_INFO_HEADERS"] = "true"
    if telemetry := args.get("telemetry"):
        settings |= {
            "ENABLE_OTEL": "true",
            "ENABLE_OTEL_METRICS": "true",
            # This one counts for metrics, and with it the endpoint is taken as it is written.
            "OTEL_METRICS_OTLP_SPAN_EXPORTER": "http",
            "OTEL_METRICS_EXPORTER_OTLP_ENDPOINT": telemetry["otlp_url"],
            **otel_service("open-webui", args["namespace"], "open-webui"),
        }
    if header := args["access"].get("trusted_email_header"):
        settings["WEBUI_AUTH_TRUSTED_EMAIL_HEADER"] = header
    return settings
