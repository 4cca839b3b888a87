"""What an owner may write wrong, and the one line that answers it."""

import copy
from typing import Any

import pytest
from harness import deploy_program, stack_config
from pulumi import RunError

from config import SettingsError, models, read
from config.quantities import Request, requested, size

TWO_NODES = {
    "evo4t": {
        "address": "192.168.1.100",
        "cpus": 24,
        "memory": "93Gi",
        "disk": {"path": "/mnt/evo4t", "size": "931Gi"},
    },
    "spare": {
        "address": "192.168.1.99",
        "cpus": 4,
        "memory": "16Gi",
        "disk": {"path": "/mnt/spare", "size": "100Gi"},
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The house with the key at `path` set to `value`, or without it if that is `...`."""
    raw = copy.deepcopy(stack_config("home"))
    *above, last = path.split("/")
    section = raw
    for key in above:
        section = section[key]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return raw


BAD: list[tuple[str, object, str]] = [
    # the wrong type, or a key nobody reads
    ("ollama", "yes", "homelab:ollama: 'yes' must be an object with the keys models, "),
    ("ollama/models", "llama3.2:3b", "homelab:ollama.models: 'llama3.2:3b' must be a list"),
    ("ollama/models", None, "homelab:ollama.models: is empty and must be a list"),
    ("network", None, "homelab:network: is empty and must be an object with the keys lan, pool"),
    ("ollama/models", [7], "homelab:ollama.models[0]: 7 must be a text or an object with the keys"),
    ("ollama/parallel", "2", "homelab:ollama.parallel: '2' must be a whole number"),
    ("ollama/parallel", True, "homelab:ollama.parallel: True must be a whole number"),
    ("ollama/cpu", "four", "homelab:ollama.cpu: 'four' must be a number"),
    ("protect", "no", "homelab:protect: 'no' must be true or false"),
    ("nodes", [], "homelab:nodes: [] must be an object"),
    ("ollama/modles", [], "homelab:ollama.modles: unknown key; known are models, memory"),
    ("nodes/evo4t/disk/mount", "/", "homelab:nodes.evo4t.disk.mount: unknown key; known are path"),
    ("ollama/memory", {}, "homelab:ollama.memory.request: missing; it must be set"),
    ("network/lan", ..., "homelab:network.lan: missing; it must be set"),
    # backups
    ("webui/backup", {}, "homelab:webui.backup.volume: missing; it must be set"),
    (
        "webui/backup",
        {"volume": {"path": "/mnt/evo4t/backup", "size": "1Gi"}},
        "homelab:webui.backup.volume.path: /mnt/evo4t/backup must be on another disk than the data",
    ),
    (
        "webui/backup",
        {"volume": {"path": "/mnt", "size": "1Gi"}},
        "homelab:webui.backup.volume.path: '/mnt' must be a directory on another disk, such as",
    ),
    (
        "webui/backup",
        {"volume": {"path": "/mnt/backup/x", "size": "1"}},
        "homelab:webui.backup.volume.size: '1' must be a size with its unit",
    ),
    (
        "webui/backup",
        {"volume": {"path": "/mnt/backup/x", "size": "1Gi"}, "hours": 5},
        "homelab:webui.backup.hours: 5 must be one of 1, 2, 3, 4, 6, 8, 12, 24",
    ),
    (
        "webui/backup",
        {"volume": {"path": "/mnt/backup/x", "size": "1Gi"}, "keep_daily": 0},
        "homelab:webui.backup.keep_daily: 0 must be at least 1",
    ),
    (
        "webui/backup",
        {"volume": {"path": "/mnt/backup/x", "size": "1Gi"}, "image": "restic/restic:latest"},
        "homelab:webui.backup.image: 'restic/restic:latest' must name one version",
    ),
    # machines
    ("nodes", {}, "homelab:nodes: {} must name at least one node"),
    ("webui/node", "evo5", "homelab:webui.node: 'evo5' must be one of the nodes: evo4t"),
    ("nodes/evo4t/cpus", 0, "homelab:nodes.evo4t.cpus: 0 must be more than 0"),
    (
        "nodes/evo4t/memory_bandwidth",
        89.6e9,
        "homelab:nodes.evo4t.memory_bandwidth: 8.96e+10 must be GB/s, such as 89.6",
    ),
    (
        "observability/runbook",
        "runbook",
        "homelab:observability.runbook: 'runbook' must be docs/runbook.md or its address, http",
    ),
    (
        "observability/label_users",
        "on",
        "homelab:observability.label_users: 'on' must be true or false",
    ),
    ("nodes/evo4t/memory", "93", "homelab:nodes.evo4t.memory: '93' must be a size with its unit"),
    (
        "nodes/evo4t/disk/path",
        "mnt/evo4t",
        "homelab:nodes.evo4t.disk.path: 'mnt/evo4t' must be where the disk is mounted",
    ),
    # addresses
    ("network/lan", "192.168.1.7/24", "homelab:network.lan: '192.168.1.7/24' must be a network"),
    ("network/pool", "192.168.1.101", "homelab:network.pool: '192.168.1.101' must be a range"),
    (
        "network/pool",
        "192.168.1.102-192.168.1.101",
        "homelab:network.pool: 192.168.1.102-192.168.1.101 runs backwards; it must be"
        " 192.168.1.101-192.168.1.102",
    ),
    (
        "network/pool",
        "192.168.1.100-192.168.1.110",
        "homelab:network.pool: 192.168.1.100-192.168.1.110 must not contain 192.168.1.100,"
        " which evo4t has",
    ),
    (
        "network/pool",
        "192.168.2.101-192.168.2.102",
        "homelab:network.pool: 192.168.2.101-192.168.2.102 must lie within network.lan,"
        " 192.168.1.0/24",
    ),
    (
        "nodes/evo4t/address",
        "10.0.0.1",
        "homelab:nodes.evo4t.address: '10.0.0.1' must be an address within network.lan",
    ),
    (
        "webui/lan_address",
        "192.168.1.103",
        "homelab:webui.lan_address: '192.168.1.103' must be an address of network.pool,"
        " 192.168.1.101-192.168.1.102",
    ),
    (
        "observability/lan_address",
        "192.168.1.101",
        "homelab:observability.lan_address: 192.168.1.101 must differ from webui.lan_address",
    ),
    (
        "observability/lan_address",
        "grafana",
        "homelab:observability.lan_address: 'grafana' must be an address of network.pool",
    ),
    (
        "webui/tailnet_address",
        "192.168.1.100",
        "homelab:webui.tailnet_address: '192.168.1.100' must be the node's Tailscale address,"
        " within 100.64.0.0/10",
    ),
    ("network/metallb", "yes", "homelab:network.metallb: 'yes' must be helm or addon"),
    (
        "webui/trusted_email_header",
        "Tailscale-User-Login",
        "homelab:webui.trusted_email_header: 'Tailscale-User-Login' must not be set together with"
        " lan_address or tailnet_address",
    ),
    ("webui/origins", "evo4t.lan", "homelab:webui.origins: 'evo4t.lan' must be a list"),
    (
        "webui/origins",
        ["evo4t.lan", "*"],
        "homelab:webui.origins[1]: '*' must be one name or URL; with * any page that somebody has",
    ),
    ("webui/origins", ["https://*.ts.net"], "homelab:webui.origins[0]: 'https://*.ts.net' must be"),
    *(
        ("webui/origins", [wrong], f"homelab:webui.origins[0]: {wrong!r} must be a name such as")
        for wrong in (
            "",
            "Evo4t",
            "evo4t:8080",
            "evo4t/",
            "https://evo4t/",
            "https://evo4t/chat",
            "https://evo4t:443",
            "http://evo4t:80",
            "ftp://evo4t",
            "https://me@evo4t",
            "a;b",
            "-evo4t",
        )
    ),
    # disk
    ("ollama/volume/size", "lots", "homelab:ollama.volume.size: 'lots' must be a size with its"),
    ("ollama/volume/size", "0Gi", "homelab:ollama.volume.size: '0Gi' must be a size with its unit"),
    (
        "ollama/volume/size",
        "1Ti",
        "homelab:nodes.evo4t.disk.size: 931Gi is 243 GiB less than its volumes, 1174 GiB",
    ),
    (
        "webui/volume/path",
        "/home/webui",
        "homelab:webui.volume.path: '/home/webui' must be a directory below /mnt/evo4t",
    ),
    (
        "webui/volume/path",
        "/mnt/evo4t/../etc",
        "homelab:webui.volume.path: '/mnt/evo4t/../etc' must be a directory below /mnt/evo4t",
    ),
    ("webui/volume/path", "/mnt/evo4t", "homelab:webui.volume.path: '/mnt/evo4t' must be a direct"),
    (
        "webui/volume/path",
        "/mnt/evo4t/models",
        "homelab:webui.volume.path: /mnt/evo4t/models must not share a directory with"
        " ollama.volume.path, /mnt/evo4t/models",
    ),
    (
        "webui/volume/path",
        "/mnt/evo4t/models/webui",
        "homelab:webui.volume.path: /mnt/evo4t/models/webui must not share a directory with",
    ),
    # the pods
    (
        "ollama/memory",
        {"request": "64Gi", "limit": "32Gi"},
        "homelab:ollama.memory.limit: 32Gi must be at least the request, 64Gi",
    ),
    (
        "ollama/memory",
        {"request": "96Gi", "limit": "96Gi"},
        "homelab:nodes.evo4t.memory: 93Gi is 9.7 GiB less than what is requested on it",
    ),
    ("ollama/cpu", 24, "homelab:nodes.evo4t.cpus: 24 is 1.93 less than what is requested on it"),
    ("ollama/cpu", float("nan"), "homelab:ollama.cpu: nan must be more than 0"),
    ("nodes", {"Evo_4T": TWO_NODES["evo4t"]}, "homelab:nodes.Evo_4T: 'Evo_4T' must be a node's"),
    (
        "ollama/models",
        ["llama3.2:3b; rm -rf /"],
        "homelab:ollama.models[0]: 'llama3.2:3b; rm -rf /' must be family:tag, such as llama3.2:3b",
    ),
    ("ollama/cpu", 0, "homelab:ollama.cpu: 0 must be more than 0"),
    (
        "ollama/context_length",
        0,
        "homelab:ollama.context_length: 0 must be 512 to 1048576 tokens, such as 8192",
    ),
    ("ollama/loaded_models", 0, "homelab:ollama.loaded_models: 0 must be more than 0"),
    ("ollama/prompt_cache", "1024", "homelab:ollama.prompt_cache: '1024' must be a size with its"),
    ("ollama/keep_alive", "long", "homelab:ollama.keep_alive: 'long' must be a time such as 30m"),
    (
        "ollama/image",
        "ollama/ollama",
        "homelab:ollama.image: 'ollama/ollama' must name one version, as name:1.2.3",
    ),
    ("ollama/image", "ollama/ollama:latest", "homelab:ollama.image: 'ollama/ollama:latest' must"),
    ("webui/image", "open-webui:0.12", "homelab:webui.image: 'open-webui:0.12' must name one"),
    (
        "webui/image",
        "open-webui:v0.12.4@sha256:abc",
        "homelab:webui.image: 'open-webui:v0.12.4@sha256:abc' must name one version",
    ),
    (
        "observability/chart_version",
        "88",
        "homelab:observability.chart_version: '88' must be one exact version, such as 88.5.3",
    ),
    ("webui/admin_email", "me", "homelab:webui.admin_email: 'me' must be an e-mail address"),
    # what is declared of a model
    *(
        ("ollama/models", ["llama3.2:3b", declared], f"homelab:ollama.models[1]{message}")
        for declared, message in (
            ({"digest": "a80c"}, ".name: missing; it must be set"),
            ({"name": "gemma2:4b"}, ": 'gemma2:4b' does not exist in the Ollama library"),
            (
                {"name": "gemma3:4b", "digest": "a2af6cc3eb7f"},
                ".digest: 'a2af6cc3eb7f' must be 64 hex digits",
            ),
            (
                {"name": "gemma3:4b", "keep_alive": "30"},
                ".keep_alive: '30' must be a time such as 30m",
            ),
            (
                {"name": "nomic-embed-text:v1.5", "keep_alive": "-1"},
                ".keep_alive: must not be set for webui.embedding_model",
            ),
            (
                {"name": "gemma3:4b", "context": 4096},
                ".context: needs a base to make this model from, and a name of its own",
            ),
            ({"name": "gemma3:4b", "system": "Be short."}, ".system: needs a base"),
            ({"name": "gemma3:4b", "template": "{{ .Prompt }}"}, ".template: needs a base"),
            ({"name": "gemma3:4b", "parameters": {}}, ".parameters: needs a base"),
        )
    ),
    *(
        (
            "ollama/models",
            ["llama3.2:3b", {"name": "mine:3b", "base": "llama3.2:3b", **declared}],
            f"homelab:ollama.models[1]{message}",
        )
        for declared, message in (
            (
                {"name": "llama3.2:1b", "context": 4096},
                ": 'llama3.2:1b' must have a name of its own, such as my-llama3.2:1b",
            ),
            ({}, ".base: needs one of context, system, template, parameters"),
            (
                {"base": "gemma3:4b", "context": 4096},
                ".base: 'gemma3:4b' must be one of ollama.models: llama3.2:3b",
            ),
            ({"base": "mine:3b", "context": 4096}, ".base: 'mine:3b' must be one of"),
            ({"context": 100}, ".context: 100 must be 512 to 1048576 tokens"),
            ({"system": ""}, ".system: '' must not be empty"),
            ({"context": 4096, "digest": "0" * 64}, ".digest: must not be set for a variant"),
            ({"parameters": {"num_ctx": 4096}}, ".parameters.num_ctx: unknown; known are "),
            ({"parameters": {"temperature": "hot"}}, ".parameters.temperature: 'hot' must be a nu"),
            ({"parameters": {"top_k": 1.5}}, ".parameters.top_k: 1.5 must be a whole number"),
            ({"parameters": {"seed": True}}, ".parameters.seed: True must be a whole number"),
            ({"parameters": {"stop": "END"}}, ".parameters.stop: 'END' must be a list of texts"),
        )
    ),
    (
        "ollama",
        stack_config("home")["ollama"]
        | {"loaded_models": 1, "models": ["llama3.2:3b", {"name": "a:1b", "keep_alive": "-1"}]},
        "homelab:ollama.loaded_models: 1 must be at least 2, for the first model and each with a",
    ),
    ("ollama/dry_run", "yes", "homelab:ollama.dry_run: 'yes' must be true or false"),
    # what fits; the smallest change is the subject of test_capacity.py
    ("ollama/kv_cache", "q5", "homelab:ollama.kv_cache: 'q5' must be one of f16, q8_0, q4_0"),
    (
        "ollama/model_sizes",
        {"llama3.2:3b": "4"},
        "homelab:ollama.model_sizes.llama3.2:3b: '4' must be a size with its unit",
    ),
    (
        "ollama/model_sizes",
        {"llama3.1:8b": "4Gi"},
        "homelab:ollama.model_sizes.llama3.1:8b: must be one of llama3.2:3b, codellama:7b,",
    ),
    (
        "ollama/models",
        ["llama3.2:3b", "mistral:instruct"],
        "homelab:ollama.models[1]: 'mistral:instruct' is not in the catalogue and its name has no"
        " size; say how large its files are: ollama.model_sizes: {mistral:instruct: 4Gi}",
    ),
    (
        "ollama/image",
        "ollama/ollama:0.5.0",
        "homelab:ollama.image: 'ollama/ollama:0.5.0' must be 0.6.0 or newer for gemma3:4b",
    ),
    # the models
    ("ollama/models", [], "homelab:ollama.models: [] must name at least one model"),
    (
        "ollama/models",
        ["gemma2:4b"],
        "homelab:ollama.models[0]: 'gemma2:4b' does not exist in the Ollama library;"
        " there are gemma2:2b, gemma2:9b, gemma2:27b, gemma3:4b",
    ),
    (
        "ollama/models",
        ["llama3.2:7b"],
        "homelab:ollama.models[0]: 'llama3.2:7b' does not exist in the Ollama library",
    ),
    (
        "ollama/models",
        ["llama3.2"],
        "homelab:ollama.models[0]: 'llama3.2' must be family:tag, such as llama3.2:1b",
    ),
    (
        "ollama/models",
        ["mistral:latest"],
        "homelab:ollama.models[0]: 'mistral:latest' must name a fixed tag, not latest",
    ),
    (
        "ollama/models",
        ["llama3.2:3b", "llama3.2:3b"],
        "homelab:ollama.models[1]: 'llama3.2:3b' must be listed once",
    ),
    ("ollama/models", ["a b:1"], "homelab:ollama.models[0]: 'a b:1' must be family:tag"),
    (
        "webui/embedding_model",
        "nomic-embed-text:7b",
        "homelab:webui.embedding_model: 'nomic-embed-text:7b' does not exist",
    ),
    (
        "webui/task_model",
        "llama3.2:1b",
        "homelab:webui.task_model: 'llama3.2:1b' must be one of ollama.models: llama3.2:3b",
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{p}={v}" for p, v, _ in BAD])
def test_bad_input_is_answered_by_one_line(path: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(changed(path, value))

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_bad_input_registers_nothing() -> None:
    with pytest.raises(RunError, match=r"gemma2:4b"):
        deploy_program("home", changed("ollama/models", ["gemma2:4b"]))


@pytest.mark.parametrize("stack", ["home", "sandbox"])
def test_the_stack_files_are_accepted(stack: str) -> None:
    assert read(stack_config(stack)).context


def test_a_page_without_any_address_is_refused() -> None:
    raw = changed("webui/lan_address", ...)
    del raw["webui"]["tailnet_address"]

    with pytest.raises(SettingsError, match=r"homelab:webui.lan_address: missing"):
        read(raw)


def test_each_node_is_measured_with_what_runs_on_it() -> None:
    raw = changed("nodes", TWO_NODES)
    raw["observability"] |= {"node": "spare", "volume": {"path": "/mnt/spare/p", "size": "50Gi"}}
    assert read(raw).node_of(read(raw).observability) == "spare"

    raw["webui"]["node"] = "spare"
    with pytest.raises(SettingsError, match=r"webui.volume.path.* below /mnt/spare"):
        read(raw)

    raw["webui"]["volume"]["path"] = "/mnt/spare/open-webui"
    with pytest.raises(SettingsError, match=r"nodes.spare.disk.size: 100Gi is 50 GiB less"):
        read(raw)


def test_two_nodes_may_not_share_an_address() -> None:
    twice = {**TWO_NODES, "spare": {**TWO_NODES["spare"], "address": "192.168.1.100"}}

    with pytest.raises(SettingsError, match=r"192.168.1.100 must differ from nodes.evo4t.address"):
        read(changed("nodes", twice))


@pytest.mark.parametrize(
    "name",
    ["codellama:7b", "mistral:7b", "llama3.2:3b-instruct-q4_K_M", "hf.co/someone/gemma2:4b"],
)
def test_a_model_that_may_exist_is_accepted(name: str) -> None:
    assert models.problem(name) is None


def test_quantities_are_read_as_kubernetes_does() -> None:
    assert [size(text) for text in ("1k", "1Ki", "1.5Gi", "500G")] == [
        1000,
        1024,
        1.5 * 1024**3,
        500 * 1000**3,
    ]
    assert requested(
        {"a": {"resources": {"requests": {"cpu": "50m", "memory": "1Gi"}}}, "b": {"resources": {}}}
    ) == Request(0.05, 1024**3)
