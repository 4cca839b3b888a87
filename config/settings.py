"""The keys of a stack file, with their types and defaults.

A type validates one value; `config/checks.py` validates several keys together.
"""

import re
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from config import ide, quantities, versions
from config.errors import Want
from config.hosts import PROFILES, Profile
from config.model_name import canonical
from config.quantities import size

TAILNET = IPv4Network("100.64.0.0/10")
"""The range of Tailscale's addresses (RFC 6598, shared address space)."""


def _is_range(text: str) -> bool:
    first, last = map(IPv4Address, text.split("-"))
    return first <= last


def _is_origin(text: str) -> bool:
    """Match an origin as browsers send it (RFC 6454, 6.1), or a hostname without a port."""
    scheme, _, host = text.rpartition("://")
    return not host.endswith(":443" if scheme == "https" else ":80") and bool(
        scheme or ":" not in host
    )


SECRETS = {
    "ntfy": (
        "[A-Za-z0-9_-]{1,64}( [A-Za-z0-9_]+)?",
        "a topic, followed by a space and an access token if it needs one",
    ),
    "pushover": ("[A-Za-z0-9]{30}", "an application's API token, 30 letters and digits"),
    "email": (r"[^\n]+", "the password of the mail account"),
    "telegram": ("[0-9]+:[A-Za-z0-9_-]+", "a bot's token, such as 123456:ABC-DEF"),
    "webhook": (r"https?://\S+", "a URL, https://…"),
}
"""Pattern and description of `notifySecret`, by receiver."""

NonEmpty = Annotated[str, Field(min_length=1), Want("a non-empty string")]
Count = Annotated[int, Field(ge=1, le=10_000), Want("a whole number, 1 or more")]
CountOrNone = Annotated[int, Field(ge=0, le=10_000), Want("a whole number, 0 or more")]
Cores = Annotated[
    float,
    Field(gt=0, le=10_000, description="CPU request, in cores."),
    Want("a number of cores, more than 0"),
]
# With 0, Ollama chooses up to 262144 tokens by the memory it detects, and fills it.
Tokens = Annotated[int, Field(ge=512, le=1024**2), Want("512 to 1048576 tokens, such as 8192")]
Size = Annotated[
    str,
    Want("a size with its unit, such as 100Gi", quantities.PATTERN, lambda s: 0 < size(s) < 2**60),
]
Duration = Annotated[
    str, Want("a duration such as 30m or 2h, or '-1' in quotes", "^(-1|([0-9]+[smh])+)$")
]
Directory = Annotated[
    str,
    # Normalized, because metrics label a mount point as /proc/mounts has it.
    Want(
        "an absolute path without ., .. or a trailing slash, such as /mnt/data",
        r"^(/([^/.]|\.[^/.]|\.\.[^/])[^/]*)+$",
    ),
]
IPV4 = r"^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$"
Url = Annotated[str, Want("a URL, https://…", r"^https?://\S+$")]
Lan = Annotated[str, Want("a network such as 192.168.1.0/24", r"^[0-9.]+/[0-9]{1,2}$", IPv4Network)]
Address = Annotated[str, Want("an IPv4 address such as 192.168.1.100", IPV4, IPv4Address)]
PoolAddress = Annotated[str, Want("an address in network.pool", IPV4, IPv4Address)]
Email = Annotated[str, Want("an e-mail address, such as me@example.com", r"^[^@\s]+@[^@\s]+$")]
TimeZone = Annotated[
    str,
    Want("a time zone, such as Europe/Berlin", check=lambda text: text in available_timezones()),
]
Image = Annotated[
    str,
    # Tags such as latest, main and 0.12 move; a full version does not.
    Want(
        "an image with a full version, as name:1.2.3 or name:1.2.3@sha256:<64 hex digits>",
        r"^[^\s:@]+:v?[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9_.-]*(@sha256:[0-9a-f]{64})?$",
    ),
    Field(description="Container image, with a full version."),
]


def _listed_name(name: str) -> str:
    """Return the name as `/api/tags` lists it; names of Ollama's library are lower case."""
    short = re.sub(r"^(registry\.ollama\.ai/)?(library/)?", "", name, flags=re.IGNORECASE)
    return short if "/" in short else short.lower()


# Open WebUI identifies a model by the name that Ollama lists.
ListedName = Annotated[str, AfterValidator(_listed_name)]
ModelName = Annotated[
    str,
    Want(
        "family:tag with a tag other than latest, such as llama3.2:3b",
        "^([A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+$",
        lambda name: not canonical(name).endswith(":latest"),
    ),
    AfterValidator(_listed_name),
]
NodeName = Annotated[
    str, Want("a node's name, as kubectl get nodes prints it", "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
ServerName = Annotated[
    str,
    Want(
        "a DNS label of at most 40 characters, other than ollama, without clients, deny, gateway or"
        " models at its end",
        "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$",
        # With these, names of a server's objects would be those of another server's.
        lambda name: not re.search("(^|-)(ollama|clients|deny|gateway|models)$", name),
    ),
]
WorkloadNode = Annotated[
    str | None,
    Field(description="Node of its pods and volume; needed if there are several."),
]
Origin = Annotated[
    str,
    Want(
        "a hostname such as evo4t.lan, or a URL such as https://chat.example.org, in lower case,"
        " without a path, default port or *, which would let any website read the chats",
        "^(https?://)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?$",
        _is_origin,
    ),
]


Chart = Annotated[
    str,
    Want(
        "a directory, a .tgz, or an oci:// or https:// reference",
        r"^((oci|https)://\S+|\.{0,2}/\S+|\S+\.tgz)$",
    ),
]


class Section(BaseModel):
    """An object of the stack file, without other keys and without conversion of values."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )


class Network(Section):
    """The home network, and MetalLB's addresses in it."""

    lan: Lan
    """CIDR of the home network."""
    pool: Annotated[
        str, Want("a range from low to high, such as 192.168.1.101-192.168.1.102", check=_is_range)
    ]
    """Addresses that MetalLB assigns: in the home network, outside the router's DHCP range."""
    metallb: Literal["helm", "addon"] = "helm"
    """`helm` installs MetalLB; `addon` uses MicroK8s' addon."""

    @property
    def metallb_chart(self) -> str | None:
        """Version of MetalLB's chart; None if MicroK8s' addon runs it."""
        return versions.METALLB if self.metallb == "helm" else None


class Volume(Section):
    """A directory on a node, and its size."""

    path: Directory
    """An existing directory; of a disk, its mount point."""
    size: Size
    """Capacity, for planning only: nothing limits what is written to the directory."""


class GPU(Section):
    """The GPU of a node; docs/gpu.md says how to find these values."""

    memory: Size
    """GPU memory that models may use; it is part of the node's memory."""
    groups: Annotated[
        list[Annotated[int, Field(ge=1), Want("a group ID, as ls -ln /dev/dri prints it")]],
        Field(min_length=1),
        Want("the group IDs that ls -ln /dev/dri prints"),
    ]
    """IDs of the groups that may open its devices."""


class Node(Section):
    """A machine of the cluster, and its capacity."""

    address: Address
    """Its address on the home network."""
    cpus: Count
    """Cores; the requests of all its pods must fit."""
    memory: Size
    """Memory; the requests of all its pods must fit."""
    disk: Volume
    """The data disk; all volumes must be on it and fit."""
    # One channel of DDR3 has 6 GB/s, the fastest stacked memory 8000 GB/s.
    memory_bandwidth: (
        Annotated[
            float, Field(ge=5, le=8000), Want("GB/s, such as 89.6 for two channels of DDR5-5600")
        ]
        | None
    ) = None
    """Memory bandwidth in GB/s; dashboards then show tokens/s relative to its upper bound."""
    profile: Annotated[
        str,
        Want(f"one of {', '.join(PROFILES)}", f"^({'|'.join(PROFILES)})$"),
        Field(json_schema_extra={"enum": [*PROFILES]}),
    ] = "cpu"
    """Where models run: `cpu`, or a machine with a supported GPU (docs/gpu.md)."""
    gpu: GPU | None = None


class Memory(Section):
    """Memory of a container."""

    request: Size
    """Memory request."""
    limit: Size
    """Memory limit; above it the container is OOM-killed."""

    @field_validator("limit")
    @classmethod
    def _at_least_the_request(cls, limit: str, info: ValidationInfo) -> str:
        if (request := info.data.get("request")) and size(limit) < size(request):
            raise ValueError(f"at least the request, {request}")
        return limit


class Parameters(Section):
    """Parameters of a variant: those of Ollama's `Options` (api/types.go) that affect the answer.

    They are listed here because Ollama ignores unknown parameters.
    """

    num_ctx: Annotated[None, Want("nothing: set the variant's `context`")] = None
    """Not allowed: the variant's `context` is this parameter."""
    frequency_penalty: float | None = None
    """Penalty for a token, times its number in the last `repeat_last_n` tokens."""
    min_p: float | None = None
    """Minimum probability of a token, relative to that of the most likely one."""
    num_keep: int | None = None
    """Tokens at the start of the prompt to keep when the context is full."""
    num_predict: int | None = None
    """Maximum of tokens in an answer; -1 for no maximum."""
    presence_penalty: float | None = None
    """Penalty for a token that is in the last `repeat_last_n` tokens."""
    repeat_last_n: int | None = None
    """Tokens that the penalties look back on; -1 for the context."""
    repeat_penalty: float | None = None
    """Divides the score of a repeated token; 1 for no penalty."""
    seed: int | None = None
    """Seed of the random numbers; the same prompt then gets the same answer."""
    stop: list[str] | None = None
    """Texts that end an answer."""
    temperature: float | None = None
    """Randomness of an answer, from 0."""
    top_k: int | None = None
    """Number of most likely tokens to choose from."""
    top_p: float | None = None
    """Sum of the probabilities of the tokens to choose from."""
    typical_p: float | None = None
    """Sum of the probabilities of the most typical tokens to choose from."""


class Model(Section):
    """A model to pull, or a variant created from another model of the list, its `base`."""

    name: ModelName
    """Name and tag; a variant needs a new name."""
    base: ListedName | None = None
    """The model of the list that this variant is created from."""
    digest: Annotated[str, Want("64 hex digits, as the Job logs them", "^[0-9a-f]{64}$")] | None = (
        None
    )
    """The digest that the pulled model must have."""
    keep_alive: Duration | None = None
    """Load the model after each deployment, and keep it loaded this long after its last use."""
    context: Tokens | None = None
    """Context length of the variant, in tokens."""
    system: NonEmpty | None = None
    """System prompt of the variant."""
    template: NonEmpty | None = None
    """Prompt template of the variant."""
    parameters: Parameters | None = Field(default=None, validate_default=True)

    @field_validator("digest", "context", "system", "template", "parameters")
    @classmethod
    def _matches_the_base(cls, value: object, info: ValidationInfo) -> object:
        key, data = info.field_name, info.data
        if value is not None and data.get("base") and key == "digest":
            raise ValueError("nothing for a variant: set the digest of its base")
        if value is not None and data.get("base", "") is None and key != "digest":
            raise ValueError("nothing without a base: only variants have it")
        changes = (value, *(data.get(key, "invalid") for key in ("context", "system", "template")))
        if key == "parameters" and data.get("base") and changes == (None,) * 4:
            raise ValueError("a context, system, template or parameters: a variant changes one")
        return value


class Ollama(Section):
    """Ollama, the model server."""

    models: Annotated[
        list[
            Annotated[
                Model,
                BeforeValidator(
                    lambda raw: {"name": raw} if isinstance(raw, str) else raw,
                    json_schema_input_type=ModelName | Model,
                ),
                Want(f"a name or an object with the keys {', '.join(Model.model_fields)}"),
            ]
        ],
        Field(min_length=1),
        Want("a list of at least one model, such as [llama3.2:3b]"),
    ]
    """Models, each a name or an object; the first is the default of new chats."""
    volume: Volume
    """The models' files."""
    memory: Memory | None = None
    """Memory of Ollama; if not set, planned from its models (docs/operate.md#does-it-fit)."""
    image: Image = versions.OLLAMA_IMAGE
    gateway_image: Annotated[
        Image,
        Field(
            description="Image of the gateway and the model Job, with a full version: Python 3.11"
            " or newer, aiohttp, uvloop and OpenTelemetry's SDK."
        ),
    ] = versions.GATEWAY_IMAGE
    cpu: Cores = 8.0
    context_length: Tokens = 8192
    """Context length of each request, in tokens."""
    parallel: Count = 1
    """Requests that a model answers at the same time."""
    kv_cache: Literal["f16", "q8_0", "q4_0"] = "f16"
    """Type of the KV cache: q8_0 halves its memory, q4_0 quarters it, with some loss of quality."""
    loaded_models: Count | None = None
    """Models loaded at the same time; if not set, as many as fit, at most 3."""
    prompt_cache: Size = "1Gi"
    """Memory for cached prompts, for each loaded model."""
    keep_alive: Duration = "30m"
    """How long an unused model stays loaded."""
    model_sizes: dict[str, Size] | None = None
    """Size of the files of models that are not in the catalogue, by name."""
    dry_run: bool = False
    """The model Job only logs what it would change."""
    refreshed: NonEmpty | None = None
    """Any new value, such as a date, pulls every declared tag again."""
    node: WorkloadNode = None

    @property
    def names(self) -> list[str]:
        """Names of the models, the default first."""
        return [model.name for model in self.models]

    def find(self, name: str) -> Model | None:
        """Return the declared model of this name, or None."""
        same = (model for model in self.models if canonical(model.name) == canonical(name))
        return next(same, None)

    @property
    def preloaded_weights(self) -> int:
        """Number of different weights among the preloaded models."""
        return len({canonical(model.base or model.name) for model in self.preloaded})

    @property
    def preloaded(self) -> list[Model]:
        """Models that the model Job loads: the first, and each with a `keep_alive`."""
        return [self.models[0], *(model for model in self.models[1:] if model.keep_alive)]

    @property
    def prompt_cache_mib(self) -> int:
        """Prompt cache of one loaded model in MiB, as llama.cpp takes it."""
        return size(self.prompt_cache) // 1024**2


def _all_optional(schema: dict[str, Any]) -> None:
    del schema["required"]
    for value in schema["properties"].values():
        value.pop("default", None)


class Server(Ollama):
    """One more model server: keys of `ollama`; those that are not set are as in `ollama`."""

    # `config.read` fills in what is not set.
    model_config = ConfigDict(json_schema_extra=_all_optional)


class Backup(Section):
    """Backups of the chat page."""

    volume: Volume
    """A directory on another disk than the data."""
    hours: Literal[1, 2, 3, 4, 6, 8, 12, 24] = 24
    """Hours between backups."""
    keep_daily: Count = 7
    """Number of days whose last backup is kept."""
    keep_weekly: CountOrNone = 5
    """Number of weeks whose last backup is kept."""
    keep_monthly: CountOrNone = 12
    """Number of months whose last backup is kept."""
    image: Image = versions.RESTIC_IMAGE

    @property
    def schedule(self) -> str:
        """Cron schedule: at 3:00, or every `hours` hours."""
        return "0 3 * * *" if self.hours == 24 else f"0 */{self.hours} * * *"

    @property
    def keep(self) -> dict[str, int]:
        """Values of restic's `--keep-…` options, by option; all backups of the last day stay."""
        kept = {"daily": self.keep_daily, "weekly": self.keep_weekly, "monthly": self.keep_monthly}
        return {"last": 24 // self.hours, **kept}


class WebUI(Section):
    """Open WebUI, the chat page, on port 8080."""

    volume: Volume
    """Accounts, chats and uploaded files."""
    memory: Memory
    admin_email: Email
    """E-mail address of the first account, an administrator."""
    lan_address: PoolAddress | None = None
    """Its address on the home network."""
    tailnet_address: (
        Annotated[
            str,
            Want(
                f"the node's Tailscale address, within {TAILNET}",
                IPV4,
                lambda text: IPv4Address(text) in TAILNET,
            ),
        ]
        | None
    ) = None
    """Tailscale address of its node."""
    origins: list[Origin] | None = None
    """More addresses that browsers open it at: `NAME` for `http://NAME:8080`, or a whole URL."""
    trusted_email_header: NonEmpty | None = None
    """Header with the user's e-mail address, set by a proxy whose URL is one of `origins`."""
    embedding_model: ModelName = "nomic-embed-text:v1.5"
    """Model that embeds documents; pulled with `ollama.models`."""
    task_model: ListedName | None = None
    """Model that writes the titles of chats; one of `ollama.models`."""
    image: Image = versions.OPEN_WEBUI_IMAGE
    cpu: Cores = 0.5
    node: WorkloadNode = None
    backup: Backup | None = None


class Mail(Section):
    """A mail account that sends alerts; `homelab:notifySecret` is its password."""

    to: Email
    """Recipient."""
    sender: Email
    """Address and user name of the account."""
    smarthost: Annotated[
        str, Want("host:port, such as smtp.example.com:587", r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")
    ]
    """SMTP server of the account; TLS is required."""


class Notify(Section):
    """Where Alertmanager sends alerts: one of five receivers, with `homelab:notifySecret`."""

    ntfy: Url | None = None
    """An ntfy server, such as https://ntfy.sh; the secret is a topic, and a token if needed."""
    pushover: NonEmpty | None = None
    """A user key; the secret is an application's API token."""
    email: Mail | None = None
    telegram: Annotated[int, Want("a chat ID, such as -1001234567890", check=bool)] | None = None
    """A chat ID; the secret is a bot's token."""
    webhook: Literal["text", "content", "message"] | None = None
    """JSON key of the message (Slack: text, Discord: content); the secret is the URL."""
    heartbeat: Url | None = None
    """URL requested every 5 minutes while alerting works; its service reports a dead server."""
    timezone: TimeZone = "UTC"
    """Time zone of the hours for warnings, 8:00 to 22:00."""

    @property
    def receiver(self) -> str:
        """Key of the receiver that is set; empty if none is."""
        return next((key for key in SECRETS if getattr(self, key, None) is not None), "")


class Observability(Section):
    """Prometheus, Alertmanager and Grafana."""

    lan_address: PoolAddress
    """Grafana's address on the home network, on port 3000."""
    volume: Volume
    """Prometheus' data; the metrics take up to 80 % of it."""
    chart_version: Annotated[
        str, Want("a full version, such as 88.5.3", r"^[0-9]+\.[0-9]+\.[0-9]+$")
    ] = versions.KUBE_PROMETHEUS_STACK
    """Version of the chart kube-prometheus-stack."""
    label_users: bool = False
    """Count tokens for each user, under a pseudonym."""
    runbook: Annotated[
        str, Want("docs/runbook.md or its URL, http…", r"^(docs/runbook\.md|https?://\S+)$")
    ] = "docs/runbook.md"
    """URL of the runbook, if it is published; alerts and panels link to it."""
    notify: Notify | None = None
    node: WorkloadNode = None

    @property
    def retention_size(self) -> str:
        """Prometheus' `retentionSize`: 80 % of its volume.

        It does not count the write-ahead log and the head block.
        """
        return f"{size(self.volume.size) * 8 // 10 // 1024**2}MiB"


class Settings(Section):
    """Every key of a stack file under `homelab:`."""

    context: NonEmpty
    """The cluster's context in the kubeconfig."""
    nodes: Annotated[
        dict[NodeName, Node],
        Field(min_length=1),
        Want("at least one node by name, with its address, cpus, memory and disk"),
    ]
    """The machines, by node name as kubectl get nodes prints it."""
    network: Network
    ollama: Ollama
    servers: dict[ServerName, Server] = {}
    """More model servers by name: each has keys of `ollama`, and those of `ollama` if not set."""
    webui: WebUI
    observability: Observability
    charts: dict[Literal["kube-prometheus-stack", "metallb"], Chart] = {}
    """Locations of Helm charts by name: a directory, a `.tgz`, `oci://…` or `https://…`.

    A directory is written `/srv/chart` or `./chart`; an `https://` URL is that of a repository or
    of a `.tgz`. Default: the public charts.
    """
    notifySecret: str = ""  # noqa: N815
    """Secret of `observability.notify`: `pulumi config set --secret homelab:notifySecret`."""
    protect: bool = True
    """Refuse to delete or replace resources that hold data."""
    copies_kept: bool = False
    """Whether Pulumi's state, its passphrase and `backup_password` are in another place too.

    Until then, `up` and the doctor say what to copy.
    """

    @property
    def model_servers(self) -> dict[str, Ollama]:
        """All model servers by key: `ollama`, and `servers.<name>` by name.

        Sorted, because Pulumi sorts them, and their order is that of the page's list.
        """
        servers = {f"servers.{name}": server for name, server in sorted(self.servers.items())}
        return {key: server for key, server in {"ollama": self.ollama, **servers}.items() if server}

    @property
    def instances(self) -> dict[str, str]:
        """Names of the model servers' components, pods and metrics, by key."""
        return {key: key.replace("servers.", "ollama-") for key in self.model_servers}

    def with_server(self, key: str, server: Ollama) -> "Settings":
        """Return these settings with another model server at this key, not validated."""
        if key == "ollama":
            return self.model_copy(update={"ollama": server})
        servers = {**self.servers, key.removeprefix("servers."): server}
        return self.model_copy(update={"servers": servers})

    def models_on(self, server: Ollama) -> list[str]:
        """Names of the models to pull or create on this server; `ollama` embeds documents."""
        embedding = [self.webui.embedding_model] if server is self.ollama else []
        return list({canonical(name): name for name in [*server.names, *embedding]}.values())

    @property
    def model_set(self) -> list[str]:
        """Names of all models to pull or create, the embedding model included."""
        names = [name for server in self.model_servers.values() for name in self.models_on(server)]
        return list({canonical(name): name for name in names}.values())

    @property
    def completion_model(self) -> str | None:
        """Model for code completion; None if the chat page has no address for an editor."""
        has_address = self.webui.lan_address or self.webui.tailnet_address
        names = [name for server in self.model_servers.values() for name in server.names]
        return ide.completion_model(names) if has_address else None

    @property
    def workloads(self) -> dict[str, Ollama | WebUI | Observability]:
        """The sections whose pods run on one node and keep data there, by key."""
        return {**self.model_servers, "webui": self.webui, "observability": self.observability}

    @property
    def client_cidrs(self) -> list[str]:
        """CIDRs that may open the chat page.

        Requests from the tailnet may have the client's address or the node's as their source.
        """
        lan = [self.network.lan] if self.webui.lan_address else []
        tailnet = [str(TAILNET)] if self.webui.tailnet_address else []
        return [*lan, *tailnet, *(f"{node.address}/32" for node in self.nodes.values())]

    def memory_bandwidth(self, server: Ollama) -> float:
        """Return the memory bandwidth of this server's node in bytes/s; 0 if not set."""
        return (self.nodes[self.node_of(server)].memory_bandwidth or 0) * 1e9

    def profile(self, server: Ollama) -> Profile:
        """Return the profile of this server's node."""
        return PROFILES[self.nodes[self.node_of(server)].profile]

    def gpu(self, server: Ollama) -> GPU | None:
        """Return the GPU that this server's models run on; None if they run on the CPU."""
        return self.nodes[self.node_of(server)].gpu if self.profile(server).device else None

    def gpu_memory(self, server: Ollama) -> int | None:
        """Return bytes of GPU memory for models, part of the node's; None without a GPU."""
        overhead = int(self.profile(server).environment.get("OLLAMA_GPU_OVERHEAD", 0))
        gpu = self.gpu(server)
        return size(gpu.memory) - overhead if gpu else None

    def node_of(self, workload: Ollama | WebUI | Observability) -> str:
        """Return the name of the workload's node: its own setting, or the only node."""
        return workload.node or next(iter(self.nodes))
