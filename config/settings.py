"""What the owner writes in a stack file: each key, what it means and what it may be.

A type says what a value must be by itself; what takes several keys is in `config/checks.py`.
"""

import re
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal
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
"""Where Tailscale takes its addresses from (RFC 6598, shared address space)."""


def _is_range(text: str) -> bool:
    first, last = map(IPv4Address, text.split("-"))
    return first <= last


def _is_origin(text: str) -> bool:
    """As browsers write it (RFC 6454, 6.1), without a usual port; a bare name has no port."""
    scheme, _, host = text.rpartition("://")
    return not host.endswith(":443" if scheme == "https" else ":80") and bool(
        scheme or ":" not in host
    )


def _is_zone(text: str) -> bool:
    return text in available_timezones()


SECRETS = {
    "ntfy": (
        "[A-Za-z0-9_-]{1,64}( [A-Za-z0-9_]+)?",
        "a topic, and after a blank a token if it has one",
    ),
    "pushover": ("[A-Za-z0-9]{30}", "an application's token, 30 letters and digits"),
    "email": (r"[^\n]+", "the password of the mail account"),
    "telegram": ("[0-9]+:[A-Za-z0-9_-]+", "a bot's token, such as 123456:ABC-DEF"),
    "webhook": (r"https?://\S+", "a URL, https://…"),
}
"""Ways that alerts can go: what the secret of each looks like, and in words."""

Text = Annotated[str, Field(min_length=1), Want("text that is not empty")]
Count = Annotated[int, Field(ge=1, le=10_000), Want("a whole number, 1 or more")]
CountOrNone = Annotated[int, Field(ge=0, le=10_000), Want("a whole number, 0 or more")]
Cores = Annotated[
    float,
    Field(gt=0, le=10_000, description="Cores to be scheduled with."),
    Want("a number of cores, more than 0"),
]
# 0 would let Ollama choose up to 262144 by the memory it finds, and fill it.
Tokens = Annotated[int, Field(ge=512, le=1024**2), Want("512 to 1048576 tokens, such as 8192")]
Size = Annotated[
    str,
    Want("a size with its unit, such as 100Gi", quantities.PATTERN, lambda s: 0 < size(s) < 2**60),
]
Time = Annotated[str, Want("a time such as 30m or 2h, or '-1' in quotes", "^(-1|([0-9]+[smh])+)$")]
Directory = Annotated[
    str,
    # Metrics have it as /proc/mounts does.
    Want(
        "an absolute path without . or .. or a slash at its end, such as /mnt/data",
        r"^(/([^/.]|\.[^/.]|\.\.[^/])[^/]*)+$",
    ),
]
IPV4 = r"^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$"
Url = Annotated[str, Want("a URL, https://…", r"^https?://\S+$")]
Address = Annotated[str, Want("an IPv4 address such as 192.168.1.100", IPV4, IPv4Address)]
PoolAddress = Annotated[str, Want("an address of network.pool", IPV4, IPv4Address)]
Image = Annotated[
    str,
    # latest, main and 0.12 all move; only a full version stays what it was.
    Want(
        "one version, as name:1.2.3 or name:1.2.3@sha256:<64 hex digits>",
        r"^[^\s:@]+:v?[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9_.-]*(@sha256:[0-9a-f]{64})?$",
    ),
    Field(description="One exact version of its image."),
]


def _listed(name: str) -> str:
    """The name as Ollama lists it; the library's names are in lower case."""
    short = re.sub(r"^(registry\.ollama\.ai/)?(library/)?", "", name, flags=re.IGNORECASE)
    return short if "/" in short else short.lower()


# What the page is given: it knows a model by the name that Ollama lists.
Listed = Annotated[str, AfterValidator(_listed)]
ModelName = Annotated[
    str,
    Want(
        "family:tag with a fixed tag, not latest, such as llama3.2:3b",
        "^([A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+$",
        lambda name: not canonical(name).endswith(":latest"),
    ),
    AfterValidator(_listed),
]
NodeName = Annotated[
    str, Want("a node's name, as kubectl get nodes prints it", "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
NodeOfPart = Annotated[
    str | None,
    Field(description="Where it runs and has its volume; the first node if it is not set."),
]
Origin = Annotated[
    str,
    Want(
        "a name such as evo4t.lan, or a URL such as https://chat.example.org, in lower case,"
        " without a path or usual port, and without *, by which any web page could read the chats",
        "^(https?://)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?$",
        _is_origin,
    ),
]


Chart = Annotated[
    str,
    Want(
        "a folder, a .tgz, or an oci:// or https:// reference",
        r"^((oci|https)://\S+|\.{0,2}/\S+|\S+\.tgz)$",
    ),
]


class Section(BaseModel):
    """An object of the stack file: it has no other keys, and no value is turned into another."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )


class Network(Section):
    """The home network, and MetalLB in it."""

    lan: Annotated[str, Want("a network such as 192.168.1.0/24", check=IPv4Network)]
    """The home network."""
    pool: Annotated[
        str, Want("a range from low to high, such as 192.168.1.101-192.168.1.102", check=_is_range)
    ]
    """Addresses that MetalLB may hand out: in the home network, outside the router's DHCP range."""
    metallb: Literal["helm", "addon"] = "helm"
    """`helm` installs MetalLB; `addon` finds the one of MicroK8s."""

    @property
    def metallb_chart(self) -> str | None:
        """Version of MetalLB to install, or None where MicroK8s' addon runs it."""
        return versions.METALLB if self.metallb == "helm" else None


class Volume(Section):
    """A directory and the room in it."""

    path: Directory
    """The directory, made by hand; of a disk, where it is mounted."""
    size: Size
    """What is planned for it, and of a disk what it holds; nothing enforces it."""


class GPU(Section):
    """The GPU of a node, as docs/gpu.md says how to find it."""

    memory: Size
    """What models may use of it; a part of the node's memory."""
    groups: Annotated[
        list[Annotated[int, Field(ge=1), Want("a group's number, as ls -ln /dev/dri shows it")]],
        Field(min_length=1),
        Want("the numbers that ls -ln /dev/dri shows as the group of each device"),
    ]
    """Numbers of the groups that may open its devices."""


class Node(Section):
    """A machine, and what it can give to pods."""

    address: Address
    """Its address on the home network."""
    cpus: Count
    """Cores; all requests must fit."""
    memory: Size
    """Memory; all requests must fit."""
    disk: Volume
    """The data disk; all volumes must be on it and fit."""
    # A single channel of DDR3 has 6; the fastest stacked memory has 8000.
    memory_bandwidth: (
        Annotated[
            float, Field(ge=5, le=8000), Want("GB/s, such as 89.6 for two channels of DDR5-5600")
        ]
        | None
    ) = None
    """GB/s of its memory; dashboards then show tokens/s as a share of what it allows."""
    profile: Annotated[
        str,
        Want(f"one of {', '.join(PROFILES)}", f"^({'|'.join(PROFILES)})$"),
        Field(json_schema_extra={"enum": [*PROFILES]}),
    ] = "cpu"
    """Where models run: `cpu`, or a machine whose GPU is known (docs/gpu.md)."""
    gpu: GPU | None = None


class Memory(Section):
    """Memory of a pod."""

    request: Size
    """What it is scheduled with."""
    limit: Size
    """At which it is killed."""

    @field_validator("limit")
    @classmethod
    def _no_less_than_the_request(cls, limit: str, info: ValidationInfo) -> str:
        if (request := info.data.get("request")) and size(limit) < size(request):
            raise ValueError(f"at least the request, {request}")
        return limit


class Parameters(Section):
    """Parameters of a variant: of `Options` in Ollama's api/types.go those that shape an answer.

    Ollama passes over what it does not know.
    """

    num_ctx: Annotated[None, Want("nothing here: it is the `context` of the variant")] = None
    frequency_penalty: float | None = None
    min_p: float | None = None
    num_keep: int | None = None
    num_predict: int | None = None
    presence_penalty: float | None = None
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None


class Model(Section):
    """A model of a registry, or a variant that is made from another one of the list, its `base`."""

    name: ModelName
    """Which one; a variant has a name of its own."""
    base: Listed | None = None
    """The model of the list that this variant is made from."""
    digest: (
        Annotated[str, Want("64 hex digits, as the Job's log has them", "^[0-9a-f]{64}$")] | None
    ) = None
    """The digest that it must have."""
    keep_alive: Time | None = None
    """Load it at once, and keep it loaded so long after each use."""
    context: Tokens | None = None
    """Tokens of context of the variant."""
    system: Text | None = None
    """System prompt of the variant."""
    template: Text | None = None
    """Template of the variant."""
    parameters: Parameters | None = Field(default=None, validate_default=True)

    @field_validator("digest", "context", "system", "template", "parameters")
    @classmethod
    def _goes_with_the_base(cls, value: object, info: ValidationInfo) -> object:
        key, data = info.field_name, info.data
        if value is not None and data.get("base") and key == "digest":
            raise ValueError("nothing for a variant: the digest of its base pins it")
        if value is not None and data.get("base", "") is None and key != "digest":
            raise ValueError("nothing without a base: only a variant has its own")
        own = (value, *(data.get(other, "wrong") for other in ("context", "system", "template")))
        if key == "parameters" and data.get("base") and own == (None,) * 4:
            raise ValueError("a context, system, template or parameters, to differ from its base")
        return value


class Ollama(Section):
    """The model server."""

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
    """Models to have, each a name or an object; a new chat starts with the first."""
    volume: Volume
    """Where the models are."""
    memory: Memory | None = None
    """Its memory; planned if it is not set (docs/operate.md#does-it-fit)."""
    image: Image = versions.OLLAMA_IMAGE
    gateway_image: Image = versions.GATEWAY_IMAGE
    """Runs gateway and model Job; has Python 3.11 or newer, aiohttp and OpenTelemetry's SDK."""
    cpu: Cores = 8.0
    context_length: Tokens = 8192
    """Tokens of context for each request."""
    parallel: Count = 1
    """Requests that a model answers at once."""
    kv_cache: Literal["f16", "q8_0", "q4_0"] = "f16"
    """How the context is kept: q8_0 takes half of the memory, q4_0 a quarter, less exactly."""
    loaded_models: Count | None = None
    """Models in memory at once; if it is not set as many as fit, at most 3."""
    prompt_cache: Size = "1Gi"
    """Old prompts kept by each loaded model."""
    keep_alive: Time = "30m"
    """How long an unused model stays loaded."""
    model_sizes: dict[str, Size] | None = None
    """How large the files of models are that the catalogue does not have, by name."""
    dry_run: bool = False
    """The model Job only says what it would do."""
    refreshed: Text | None = None
    """Another text, such as a date, pulls every declared tag again."""
    node: NodeOfPart = None

    @property
    def names(self) -> list[str]:
        """The models' names, the default one first."""
        return [model.name for model in self.models]

    def named(self, name: str) -> Model | None:
        """What is declared of a model; None if it is not in the list."""
        same = (one for one in self.models if canonical(one.name) == canonical(name))
        return next(same, None)

    @property
    def loaded_at_once(self) -> int:
        """How many weights the Job loads: the first model's, and all that are to stay loaded."""
        return len({canonical(one.base or one.name) for one in self.loaded})

    @property
    def loaded(self) -> list[Model]:
        """The models that the Job loads: the first, and each that is to stay loaded."""
        return [self.models[0], *(one for one in self.models[1:] if one.keep_alive)]

    @property
    def prompt_cache_mib(self) -> int:
        """The prompt cache of one loaded model in MiB, as llama.cpp takes it."""
        return size(self.prompt_cache) // 1024**2


class Backup(Section):
    """Backups of the chat page."""

    volume: Volume
    """A directory on another disk than the data."""
    hours: Literal[1, 2, 3, 4, 6, 8, 12, 24] = 24
    """Hours between two."""
    keep_daily: Count = 7
    """Days of which the last one is kept."""
    keep_weekly: CountOrNone = 5
    """Weeks of which the last one is kept."""
    keep_monthly: CountOrNone = 12
    """Months of which the last one is kept."""
    image: Image = versions.RESTIC_IMAGE

    @property
    def schedule(self) -> str:
        """When, as cron writes it: at three in the morning, or every so many hours."""
        return "0 3 * * *" if self.hours == 24 else f"0 */{self.hours} * * *"

    @property
    def keep(self) -> dict[str, int]:
        """How many are kept: all of the last day, and the last of so many days, weeks, months."""
        kept = {"daily": self.keep_daily, "weekly": self.keep_weekly, "monthly": self.keep_monthly}
        return {"last": 24 // self.hours, **kept}


class WebUI(Section):
    """The chat page, on port 8080."""

    volume: Volume
    """Where accounts, chats and files are."""
    memory: Memory
    admin_email: Annotated[
        str, Want("an e-mail address, such as me@example.com", r"^[^@\s]+@[^@\s]+$")
    ]
    """Who signs in first."""
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
    """The Tailscale address of its node."""
    origins: list[Origin] | None = None
    """Further names under which browsers open it: `NAME` is `http://NAME:8080`, or a whole URL."""
    trusted_email_header: Text | None = None
    """Header by which a proxy signs people in, whose URL is one of `origins`."""
    embedding_model: ModelName = "nomic-embed-text:v1.5"
    """Reads documents; is pulled with the others."""
    task_model: Listed | None = None
    """Names chats; one of `ollama.models`."""
    image: Image = versions.OPEN_WEBUI_IMAGE
    cpu: Cores = 0.5
    node: NodeOfPart = None
    backup: Backup | None = None


class Email(Section):
    """A mail account that sends alerts; `homelab:notifySecret` is its password."""

    to: Annotated[str, Want("an e-mail address, such as me@example.com", r"^[^@\s]+@[^@\s]+$")]
    """Who gets them."""
    sender: Annotated[str, Want("an e-mail address, such as me@example.com", r"^[^@\s]+@[^@\s]+$")]
    """Address and user name of the account."""
    smarthost: Annotated[
        str, Want("host:port, such as smtp.example.com:587", r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")
    ]
    """Where the account sends; TLS is asked for."""


class Notify(Section):
    """Where alerts go: one way of five, with its secret in `homelab:notifySecret`."""

    ntfy: Url | None = None
    """An ntfy server, such as https://ntfy.sh; the secret is the topic, then a token if need be."""
    pushover: Text | None = None
    """A user key; the secret is the token of an application."""
    email: Email | None = None
    telegram: (
        Annotated[int, Want("the number of a chat, such as -1001234567890", check=bool)] | None
    ) = None
    """The number of a chat; the secret is the token of a bot."""
    webhook: Literal["text", "content", "message"] | None = None
    """The key that takes the message (Slack: text, Discord: content); the secret is the URL."""
    heartbeat: Url | None = None
    """Is asked every five minutes as long as alerts come through: it misses the server itself."""
    timezone: Annotated[str, Want("a time zone, such as Europe/Berlin", check=_is_zone)] = "UTC"
    """Warnings come from 8 to 22 o'clock there."""

    @property
    def way(self) -> str:
        """The way that is set, as its key; empty if none is."""
        return next((way for way in SECRETS if getattr(self, way, None) is not None), "")


class Observability(Section):
    """Prometheus and Grafana."""

    lan_address: PoolAddress
    """Grafana's address on the home network, on port 3000."""
    volume: Volume
    """Prometheus' history, which keeps 80 % of it."""
    chart_version: Annotated[
        str, Want("one exact version, such as 88.5.3", r"^[0-9]+\.[0-9]+\.[0-9]+$")
    ] = versions.KUBE_PROMETHEUS_STACK
    """Version of the chart kube-prometheus-stack."""
    label_users: bool = False
    """Count tokens by user, under a pseudonym."""
    runbook: Annotated[
        str, Want("docs/runbook.md or its address, http…", r"^(docs/runbook\.md|https?://\S+)$")
    ] = "docs/runbook.md"
    """Address of that page, if it is published: alerts and panels lead there."""
    notify: Notify | None = None
    node: NodeOfPart = None

    @property
    def retention_size(self) -> str:
        """How much history Prometheus keeps: 80 % of its volume.

        The limit leaves out the write-ahead log and the block being written.
        """
        return f"{size(self.volume.size) * 8 // 10 // 1024**2}MiB"


class Settings(Section):
    """Every key of a stack file under `homelab:`."""

    context: Text
    """Name of the cluster's context in the kubeconfig."""
    nodes: Annotated[
        dict[NodeName, Node],
        Field(min_length=1),
        Want("at least one node by its name, with its address, cpus, memory and disk"),
    ]
    """The machines, by their names as kubectl get nodes prints them."""
    network: Network
    ollama: Ollama
    webui: WebUI
    observability: Observability
    charts: dict[Literal["kube-prometheus-stack", "metallb"], Chart] = {}
    """Where Helm finds a chart, by its name: a folder (`/srv/chart`, `./chart`), a `.tgz`, an
    `oci://` reference, or an `https://` one to a repository or a `.tgz`. The public ones if not
    set."""
    notifySecret: str = ""  # noqa: N815
    """The secret of `observability.notify`: `pulumi config set --secret homelab:notifySecret`."""
    protect: bool = True
    """Refuse to delete or replace what holds data."""

    @property
    def model_set(self) -> list[str]:
        """The models to chat with and the one that reads documents, each once."""
        names = [*self.ollama.names, self.webui.embedding_model]
        return list({canonical(name): name for name in names}.values())

    @property
    def completion_model(self) -> str | None:
        """The model that completes code in an editor; None where no editor reaches the page."""
        is_reached = self.webui.lan_address or self.webui.tailnet_address
        return ide.completion_model(self.ollama.names) if is_reached else None

    @property
    def parts(self) -> dict[str, Ollama | WebUI | Observability]:
        """The sections that run on a node and keep data there, by key."""
        return {"ollama": self.ollama, "webui": self.webui, "observability": self.observability}

    @property
    def reached_from(self) -> list[str]:
        """CIDRs that may open the chat page.

        Callers from the tailnet may appear with their own address or with the node's.
        """
        lan = [self.network.lan] if self.webui.lan_address else []
        tailnet = [str(TAILNET)] if self.webui.tailnet_address else []
        return [*lan, *tailnet, *(f"{node.address}/32" for node in self.nodes.values())]

    @property
    def memory_bandwidth(self) -> float:
        """Bytes/s of the memory that models run in; 0 where the owner has not said."""
        return (self.node_of_models.memory_bandwidth or 0) * 1e9

    @property
    def node_of_models(self) -> Node:
        """The machine that models run on."""
        return self.nodes[self.node_of(self.ollama)]

    @property
    def profile(self) -> Profile:
        """How models run on that machine."""
        return PROFILES[self.node_of_models.profile]

    @property
    def gpu(self) -> GPU | None:
        """The GPU that models run on; None where they run on the processor."""
        return self.node_of_models.gpu if self.profile.device else None

    @property
    def gpu_memory(self) -> int | None:
        """Bytes that models may fill on the GPU, which are not more memory but a part of it."""
        overhead = int(self.profile.environment.get("OLLAMA_GPU_OVERHEAD", 0))
        return size(self.gpu.memory) - overhead if self.gpu else None

    def node_of(self, part: Ollama | WebUI | Observability) -> str:
        """The node that a part runs on: the one it names, or the first."""
        return part.node or next(iter(self.nodes))
