"""Settings: a wrong value is refused with one line that has its key."""

import contextlib
import json
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness import RESERVED, deploy, deploy_program, on_node, read, stack_config
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pulumi import RunError
from pulumi.runtime.config import set_all_config
from settings_lab import BACKUP, BASE, changed, every_key, paths

import config
from config import SettingsError
from config.models import validate_name
from config.quantities import UNITS, size

TWO_NODES = {
    "evo4t": stack_config("home")["nodes"]["evo4t"],
    "spare": {
        "address": "192.168.1.99",
        "cpus": 4,
        "memory": "16Gi",
        "disk": {"path": "/mnt/spare", "size": "100Gi"},
    },
}


def refused(raw: dict[str, Any]) -> list[str]:
    """Return the lines of the SettingsError."""
    with pytest.raises(SettingsError) as caught:
        read(raw)
    return str(caught.value).splitlines()


def on_the_wire(raw: dict[str, Any]) -> dict[str, str]:
    """Return the keys as the engine passes them, as strings."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in raw.items()
    }
    return {f"homelab:{key}": text for key, text in texts.items()}


def key(path: str) -> str:
    """Return a path as error messages write it."""
    steps = [f"[{step}]" if step.isdigit() else f".{step}" for step in path.split("/")]
    return f"homelab:{''.join(steps)[1:]}"


# Keys and invalid values, by the end of the error message.
REFUSED: dict[str, list[tuple[str, object]]] = {
    # types
    "an object with the keys lan, pool, metallb": [("network", None), ("network", "yes")],
    "a list of at least one model, such as [llama3.2:3b]": [
        ("ollama/models", BASE),
        ("ollama/models", None),
        ("ollama/models", []),
    ],
    "a name or an object with the keys name, base, digest, keep_alive, context, system, template,"
    " parameters": [("ollama/models/0", 7)],
    "a list": [("webui/origins", "evo4t.lan")],
    "true or false": [
        *((key, wrong) for wrong in ("no", 0) for key in ("protect", "copies_kept")),
        ("observability/label_users", "on"),
        ("ollama/dry_run", "yes"),
    ],
    "a string": [("webui/node", 7)],
    "a non-empty string": [("ollama/refreshed", 20261201), ("context", "")],
    # numbers
    "a whole number, 1 or more": [
        *(("ollama/parallel", wrong) for wrong in ("2", True, 1.0, 0)),
        ("ollama/loaded_models", 0),
        ("nodes/evo4t/cpus", 0),
    ],
    "a number of cores, more than 0": [
        *(("ollama/cpu", wrong) for wrong in ("four", True, 0, float("nan"), float("inf")))
    ],
    "512 to 1048576 tokens, such as 8192": [("ollama/context_length", 0)],
    "GB/s, such as 89.6 for two channels of DDR5-5600": [
        *(("nodes/evo4t/memory_bandwidth", wrong) for wrong in (89.6e9, float("nan"), "89.6"))
    ],
    # sizes and times
    "a size with its unit, such as 100Gi": [
        *(
            ("webui/volume/size", wrong)
            for wrong in (
                "100",
                100,
                "1e3",
                "-5Gi",
                "lots",
                "0Gi",
                "0.0001k",
                "9999999Ti",
                "1Gi\n",
                "9" * 99,
            )
        ),
        ("nodes/evo4t/memory", "93"),
        ("ollama/prompt_cache", "1024"),
        ("ollama/model_sizes", {BASE: "4"}),
    ],
    "a duration such as 30m or 2h, or '-1' in quotes": [
        *(("ollama/keep_alive", wrong) for wrong in ("long", -1, "30", "1h\n"))
    ],
    # one of
    "helm or addon": [("network/metallb", "yes")],
    "f16, q8_0 or q4_0": [("ollama/kv_cache", "q5")],
    "an image with a full version, as name:1.2.3 or name:1.2.3@sha256:<64 hex digits>": [
        *(("ollama/image", wrong) for wrong in ("ollama/ollama", "ollama/ollama:latest")),
        ("ollama/gateway_image", "open-webui:main"),
        *(("webui/image", wrong) for wrong in ("w:0.12", "w:v0.12.4@sha256:abc")),
    ],
    "a full version, such as 88.5.3": [("observability/chart_version", "88")],
    "docs/runbook.md or its URL, http…": [("observability/runbook", "runbook")],
    "an e-mail address, such as me@example.com": [("webui/admin_email", "me")],
    # addresses and directories
    "a network such as 192.168.1.0/24": [
        # The last two are networks for Python, and refused by the API server.
        *(
            ("network/lan", wrong)
            for wrong in ("192.168.1.7/24", "192.168.1.0/255.255.255.0", "192.168.1.0")
        )
    ],
    "a range from low to high, such as 192.168.1.101-192.168.1.102": [
        ("network/pool", "192.168.1.101"),
        ("network/pool", "192.168.1.102-192.168.1.101"),
        ("network/pool", "192.168.1.101-192.168.1.102-192.168.1.103"),
    ],
    "an address within network.lan, 192.168.1.0/24": [("nodes/evo4t/address", "10.0.0.1")],
    "an IPv4 address such as 192.168.1.100": [("nodes/evo4t/address", "fe80::1")],
    "an address in network.pool, 192.168.1.101-192.168.1.102": [
        ("webui/lan_address", "192.168.1.103"),
    ],
    "an address in network.pool": [("observability/lan_address", "grafana")],
    "another address than webui.lan_address": [("observability/lan_address", "192.168.1.101")],
    "a range without 192.168.1.100, node evo4t": [("network/pool", "192.168.1.100-192.168.1.110")],
    "a range within network.lan, 192.168.1.0/24": [("network/pool", "10.0.0.1-10.0.0.2")],
    "the node's Tailscale address, within 100.64.0.0/10": [
        ("webui/tailnet_address", "192.168.1.100")
    ],
    "an absolute path without ., .. or a trailing slash, such as /mnt/data": [
        *(
            ("webui/volume/path", wrong)
            for wrong in ("mnt/x", "/mnt/evo4t/../etc", "/mnt/evo4t/x/", "/mnt/./x", "//mnt", "/")
        ),
        ("nodes/evo4t/disk/path", "mnt/evo4t"),
    ],
    "a directory below /mnt/evo4t, the disk of evo4t": [
        *(("webui/volume/path", wrong) for wrong in ("/home/webui", "/mnt/evo4t"))
    ],
    "a directory outside of ollama.volume.path, /mnt/evo4t/models": [
        *(("webui/volume/path", f"/mnt/evo4t/models{below}") for below in ("", "/webui"))
    ],
    # access
    "nothing while lan_address or tailnet_address is set": [
        ("webui/trusted_email_header", "X-Login")
    ],
    "a hostname such as evo4t.lan, or a URL such as https://chat.example.org, in lower case,"
    " without a path, default port or *, which would let any website read the chats": [
        *(
            ("webui/origins", ["evo4t.lan", wrong])
            for wrong in (
                *("", "*", "https://*.ts.net", "Evo4t", "evo4t:8080", "evo4t/", "-evo4t", "a;b"),
                *("https://evo4t/", "https://evo4t/chat", "https://evo4t:443", "http://evo4t:80"),
                *("ftp://evo4t", "https://me@evo4t", "evo4t\n"),
            )
        )
    ],
    # nodes
    "at least one node by name, with its address, cpus, memory and disk": [
        ("nodes", []),
        ("nodes", {}),
        ("nodes", None),
    ],
    "one of the nodes: evo4t": [("webui/node", "evo5")],
    # what is declared of a model
    "64 hex digits, as the Job logs them": [
        ("ollama/models/1", {"name": "gemma3:1b", "digest": "a2af6cc3eb7f"})
    ],
    "family:tag with a tag other than latest, such as llama3.2:3b": [
        *(
            ("ollama/models/0", wrong)
            for wrong in ("llama3.2", "mistral:latest", "x:LATEST", "a b:1", f"{BASE}; rm -rf /")
        )
    ],
    "a model of the Ollama library: gemma2:2b, gemma2:9b, gemma2:27b, gemma3:4b": [
        *(("ollama/models/1", f"{name}:4b") for name in ("gemma2", "Gemma2", "library/gemma2")),
        ("ollama/models/1", "registry.ollama.ai/library/Gemma2:4b-it-q4_K_M"),
    ],
    "a model of the Ollama library: llama3.2:1b, llama3.2:3b": [("ollama/models/0", "llama3.2:7b")],
    "a model of the Ollama library: nomic-embed-text:v1.5, nomic-embed-text:137m": [
        ("webui/embedding_model", "nomic-embed-text:7b")
    ],
    "a model that runs locally: this one runs at ollama.com": [
        *(
            ("ollama/models/1", name)
            for name in (
                *(
                    "gpt-oss:20b-cloud",
                    "kimi-k2:cloud",
                    "GPT-OSS:20B-Cloud",
                    "someone/mine:7b-cloud",
                ),
                *("hf.co/someone/some:cloud", "library/gpt-oss:120b-cloud"),
                {"name": "mine:cloud", "base": BASE, "context": 4096},
            )
        ),
        ("webui/embedding_model", "someone/reads:300m-cloud"),
    ],
    "a tag other than local, which Ollama ignores": [
        ("ollama/models/1", "mistral:local"),
        ("ollama/models/1", {"name": "mine:Local", "base": BASE, "context": 4096}),
    ],
    "the context of llama3.2:3b, 8192, or no keep_alive: both have the same weights, which Ollama"
    " loads once": [
        *(
            ("ollama/models/1", variant)
            for variant in (
                {"name": "mine:4k", "base": BASE, "context": 4096, "keep_alive": "-1"},
                {
                    "name": "mine:16k",
                    "base": f"library/{BASE}",
                    "context": 16384,
                    "keep_alive": "2h",
                },
            )
        )
    ],
    "each model once": [
        *(("ollama/models/1", again) for again in (BASE, f"library/{BASE}", "Llama3.2:3B"))
    ],
    "one of ollama.models: llama3.2:3b, codellama:7b, gemma3:4b": [
        ("webui/task_model", "llama3.2:1b")
    ],
    "a name with its size, or ollama.model_sizes: {mistral:instruct: 4Gi}": [
        ("ollama/models/1", "mistral:instruct")
    ],
    "a size for one of llama3.2:3b, codellama:7b, gemma3:4b, nomic-embed-text:v1.5": [
        ("ollama/model_sizes", {"llama3.1:8b": "4Gi"})
    ],
    "0.6.0 or newer for gemma3:4b": [
        *(("ollama/image", f"ollama/ollama:{tag}") for tag in ("0.5.0", "0.6.0-rc1", "v0.5.9-rocm"))
    ],
}


@pytest.mark.parametrize(
    ("path", "value", "want"),
    [(path, value, want) for want, values in REFUSED.items() for path, value in values],
)
def test_an_error_says_what_is_wanted(path: str, value: object, want: str) -> None:
    (line,) = refused(changed(path, value))

    assert line.startswith(key(path))
    assert ": got " in line
    assert line.endswith(f", want {want}")


OTHERWISE: list[tuple[str, object, str]] = [
    # unknown and missing keys
    ("ollama/modles", [], "ollama.modles: unknown key, did you mean models?"),
    ("nodes/evo4t/disk/mount", "/", "nodes.evo4t.disk.mount: unknown key, known keys: path, size"),
    ("network/lna", "x", "network.lna: unknown key, did you mean lan?"),
    ("webuii", {}, "webuii: unknown key, did you mean webui?"),
    (
        "ollama/models/1",
        {"name": "mine:3b", "base": BASE, "parameters": {"num_ctx": 4096}},
        "ollama.models[1].parameters.num_ctx: got 4096, want nothing: set the variant's `context`",
    ),
    ("network/lan", ..., "network.lan: missing, want a network such as 192.168.1.0/24"),
    ("webui/memory/limit", ..., "webui.memory.limit: missing, want a size with its unit, such as"),
    ("webui/backup", {}, "webui.backup.volume: missing, want an object with the keys path, size"),
    # keys that depend on another key
    (
        "webui/backup",
        {"volume": {"path": "/mnt/evo4t/backup", "size": "1Gi"}},
        "webui.backup.volume.path: got '/mnt/evo4t/backup', want a directory on another disk than",
    ),
    (
        "webui/backup",
        {"volume": {"path": "/mnt", "size": "1Gi"}},
        "webui.backup.volume.path: got '/mnt', want a directory on another disk than the data",
    ),
    (
        "webui/backup",
        BACKUP | {"hours": 5},
        "webui.backup.hours: got 5, want 1, 2, 3, 4, 6, 8, 12 or 24",
    ),
    (
        "webui/backup",
        BACKUP | {"keep_daily": 0},
        "webui.backup.keep_daily: got 0, want a whole number, 1 or more",
    ),
    (
        "nodes",
        {"Evo_4T": TWO_NODES["evo4t"]},
        "nodes.Evo_4T: got 'Evo_4T', want a node's name, as kubectl get nodes prints it",
    ),
    (
        "nodes",
        TWO_NODES | {"spare": TWO_NODES["spare"] | {"address": "192.168.1.100"}},
        "nodes.spare.address: got '192.168.1.100', want another address than that of nodes.evo4t",
    ),
    (
        "ollama/volume/size",
        "1Ti",
        "nodes.evo4t.disk.size: got '931Gi', want 1174Gi or more for its volumes:"
        " ollama.volume.size 1Ti, webui.volume.size 100Gi, observability.volume.size 50Gi",
    ),
    (
        "ollama/memory",
        {"request": "64Gi", "limit": "32Gi"},
        "ollama.memory.limit: got '32Gi', want at least the request, 64Gi",
    ),
    (
        "ollama/memory",
        {"request": "96Gi", "limit": "96Gi"},
        "nodes.evo4t.memory: got '93Gi', want 103Gi or more for all requests and 4 GiB",
    ),
    (
        "ollama/cpu",
        24,
        "nodes.evo4t.cpus: got 24, want 25.93 or more for all requests and 1 for the system, or a"
        " smaller ollama.cpu",
    ),
    *(
        ("ollama/models/1", {"name": "gemma3:1b"} | declared, f"ollama.models[1].{message}")
        for declared, message in (
            ({"keep_alive": "30"}, "keep_alive: got '30', want a duration such as 30m or 2h, or"),
            ({"context": 4096}, "context: got 4096, want nothing without a base: only variants"),
            ({"system": "Be short."}, "system: got 'Be short.', want nothing without a base"),
            ({"template": "t"}, "template: got 't', want nothing without a base"),
            ({"parameters": {}}, "parameters: got {}, want nothing without a base"),
        )
    ),
    (
        "ollama/models/1",
        {"name": "nomic-embed-text:v1.5", "keep_alive": "-1"},
        "ollama.models[1].keep_alive: got '-1', want nothing for webui.embedding_model",
    ),
    *(
        (
            "ollama/models/1",
            {"name": "mine:3b", "base": BASE} | declared,
            f"ollama.models[1]{message}",
        )
        for declared, message in (
            (
                {"name": "llama3.2:1b", "context": 4096},
                ": got 'llama3.2:1b', want a new name, such as my-llama3.2:1b",
            ),
            (
                {},
                ".parameters: got nothing, want a context, system, template or parameters",
            ),
            (
                {"base": "gemma3:1b", "context": 4096},
                ".base: got 'gemma3:1b', want one of ollama.models that has no base: gemma3:4b,",
            ),
            ({"base": "mine:3b", "context": 4096}, ".base: got 'mine:3b', want one of"),
            ({"context": 100}, ".context: got 100, want 512 to 1048576 tokens"),
            ({"system": ""}, ".system: got '', want a non-empty string"),
            ({"context": 4096, "digest": "0" * 64}, f".digest: got '{'0' * 64}', want nothing for"),
            (
                {"parameters": {"temperature": "hot"}},
                ".parameters.temperature: got 'hot', want a n",
            ),
            ({"parameters": {"top_k": 1.5}}, ".parameters.top_k: got 1.5, want a whole number"),
            ({"parameters": {"seed": True}}, ".parameters.seed: got true, want a whole number"),
            ({"parameters": {"stop": "END"}}, ".parameters.stop: got 'END', want a list"),
        )
    ),
    (
        "ollama",
        stack_config("home")["ollama"]
        | {"loaded_models": 1, "models": [BASE, {"name": "a:1b", "keep_alive": "-1"}]},
        "ollama.loaded_models: got 1, want 2 or more: the first model, and each with a keep_alive",
    ),
]


@pytest.mark.parametrize(
    ("charts", "message"),
    [
        (
            {"metallb": "ftp://a/b"},
            "charts.metallb: got 'ftp://a/b', want a directory, a .tgz, or an oci:// or https://",
        ),
        ({"grafana": "/a"}, "charts.grafana: got 'grafana', want kube-prometheus-stack or metallb"),
    ],
)
def test_an_invalid_chart_location_is_refused(charts: dict[str, str], message: str) -> None:
    (line,) = refused({**stack_config("home"), "charts": charts})
    assert line.startswith(f"homelab:{message}")


@pytest.mark.parametrize(("path", "value", "message"), OTHERWISE, ids=[m for _, _, m in OTHERWISE])
def test_a_wrong_value_is_one_line(path: str, value: object, message: str) -> None:
    raw = changed(path, value)
    if path != "webui/task_model":
        raw["webui"].pop("task_model")

    (line,) = refused(raw)
    assert line.startswith(f"homelab:{message}")


EVERY_KEY = [(path, value) for path, value in paths(every_key())]


@pytest.mark.parametrize(("path", "value"), EVERY_KEY, ids=[path for path, _ in EVERY_KEY])
def test_one_invalid_value_is_one_line_even_if_other_keys_depend_on_it(
    path: str, value: object
) -> None:
    mistakes: list[object] = [7 if isinstance(value, str | dict | list) else "x"]
    # This key has to be encrypted.
    mistakes += [{"secure": "v1:x:y"}] if path != "notifySecret" else []
    mistakes += ["?"] if isinstance(value, str) and path.split("/")[-1] not in FREE else []
    for mistake in mistakes:
        (line,) = refused(changed(path, mistake, every_key()))

        # A model may be its name alone.
        assert line.partition(": ")[0] == key(path).replace("].name", "]")
        assert ", want " in line


FREE = ("context", "system", "template", "refreshed", "0")
"""Keys that take any string; `0` is a stop sequence."""


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.just("name"), inner, max_size=2)
    ),
    max_leaves=4,
)


# Regression: without an image, models were not checked for their size.
@example([("ollama/image", None), ("ollama/model_sizes", None)])
@given(
    st.lists(st.tuples(st.sampled_from([path for path, _ in EVERY_KEY]), yaml_values), max_size=3)
)
@hypothesis_settings(deadline=None, max_examples=150)
def test_any_input_gives_settings_or_printable_lines(mistakes: list[tuple[str, Any]]) -> None:
    raw = every_key() | {"context": None}
    for path, value in mistakes:
        with contextlib.suppress(KeyError, IndexError, TypeError):
            raw = changed(path, value, raw)
    try:
        read(raw)
    except SettingsError as error:
        lines = str(error).split("\n")
        assert [line for line in lines if not line.isprintable()] == []
        assert {line.partition(":")[0] for line in lines} == {"homelab"}


def test_all_wrong_keys_are_reported_at_once() -> None:
    raw = changed("webui/volume/size", "100")
    raw["ollama"]["modles"] = []
    raw["ollama"]["memory"] = {}
    raw["ollama"]["models"] += ["gemma2:4b", {"digest": "a80c"}]
    del raw["network"]["metallb"], raw["network"]["lan"]
    raw["webui"] |= {"admin_email": "me", "lan_address": "10.0.0.1", "task_model": 7}
    raw["observability"]["volume"]["path"] = "/srv/prometheus"

    assert [line.partition(": ")[0].removeprefix("homelab:") for line in refused(raw)] == [
        "network.lan",
        "ollama.models[4].name",
        "ollama.models[4].digest",
        "ollama.memory.request",
        "ollama.memory.limit",
        "ollama.modles",
        "webui.volume.size",
        "webui.admin_email",
        "webui.task_model",
        "ollama.models[3]",
        "observability.volume.path",
    ]


def test_checks_of_several_keys_run_although_another_key_is_invalid() -> None:
    raw = changed("webui/admin_email", "me")
    raw["webui"] |= {"lan_address": "192.168.1.109", "task_model": "other:1b"}
    raw["nodes"]["evo4t"] |= {"memory": "8Gi", "address": "10.0.0.1"}

    assert [line.partition(" ")[0].removeprefix("homelab:") for line in refused(raw)] == [
        "webui.admin_email:",
        "nodes.evo4t.address:",
        "webui.lan_address:",
        "webui.task_model:",
        "ollama.models:",
    ]


def test_control_characters_in_keys_and_values_are_escaped_and_long_values_cut() -> None:
    raw = changed("ollama/a\nb\x1b", 1)
    raw["ollama"]["keep_alive"] = "1h\nhomelab:fake: line" + 200 * "x"
    value, name = refused(raw)

    assert name.startswith("homelab:ollama.a?b?: unknown key, known keys: models")
    assert value.startswith("homelab:ollama.keep_alive: got '1h\\nhomelab:fake: linex")
    assert len(value) < 220


def test_invalid_settings_end_the_program_with_one_line_each() -> None:
    with pytest.raises(RunError, match=r"gemma2:4b") as caught:
        deploy_program("home", changed("ollama/models", ["gemma2:4b"]) | {"protect": "no"})
    assert len(str(caught.value).splitlines()) == 2


def test_an_encrypted_value_is_not_shown() -> None:
    raw = changed("webui/admin_email", {"secure": "v1:abc:def"})
    raw["network"] = {"secure": "v1:abc:def"}
    raw["ollama"]["models"].append([{"secure": "v1:abc:def"}])
    lines = refused(raw)

    assert "v1:" not in "".join(lines)
    assert lines[:2] == [
        "homelab:network: got [secret], want a value that is not encrypted: only Pulumi can"
        " decrypt it",
        "homelab:ollama.models[3]: got [[secret]], want a name or an object with the keys name,"
        " base, digest, keep_alive, context, system, template, parameters",
    ]
    assert lines[2].startswith("homelab:webui.admin_email: got [secret], want")


IN_CLEAR = (
    "homelab:notifySecret: got a value in clear,"
    " want pulumi config set --secret homelab:notifySecret"
)


@pytest.mark.parametrize("secret", ["tk_abc", "other text", 12345, ["tk_abc"], {"secure": 7}])
def test_a_secret_in_clear_is_refused_and_not_shown(secret: object) -> None:
    with pytest.raises(SettingsError) as caught:
        config.read(stack_config("home") | {"notifySecret": secret}, RESERVED)

    assert str(caught.value) == IN_CLEAR


@pytest.mark.parametrize("by", ["engine", "environment"])
def test_a_secret_that_the_engine_did_not_decrypt_is_refused(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = stack_config("home") | {"notifySecret": "topic"}
    raw["observability"]["notify"] = {"ntfy": "https://ntfy.sh"}
    results: list[str] = []

    def program() -> None:
        for secret in (["homelab:notifySecret"], ["homelab:network"]):
            if by == "engine":
                set_all_config(on_the_wire(raw), secret)
            else:
                set_all_config({}, [])
                monkeypatch.setenv("PULUMI_CONFIG", json.dumps(on_the_wire(raw)))
                monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps(secret))
            try:
                results.append(config.load(RESERVED).notifySecret)
            except RunError as error:
                results.append(str(error))

    try:
        deploy(program)
    finally:
        set_all_config({}, [])
    assert results == ["topic", IN_CLEAR]


@pytest.mark.parametrize("by", ["engine", "environment"])
def test_a_value_that_the_engine_decrypted_is_not_shown(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = changed("network/pool", "192.168.1.103-192.168.1.104")
    raw["webui"]["admin_email"] = "me.at.home"
    wire = on_the_wire(raw)
    secret = ["homelab:network", "homelab:webui"]
    lines: list[str] = []

    def program() -> None:
        if by == "engine":
            set_all_config(wire, secret)
        try:
            config.load(RESERVED)
        except RunError as error:
            lines.extend(str(error).splitlines())

    if by == "environment":
        monkeypatch.setenv("PULUMI_CONFIG", json.dumps(wire))
        monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps(secret))
    try:
        deploy(program)
    finally:
        set_all_config({}, [])
    assert lines == [
        "homelab:webui.admin_email: got [secret], want an e-mail address, such as me@example.com",
        "homelab:webui.lan_address: got [secret], want an address in network.pool, [secret]",
        "homelab:observability.lan_address: got '192.168.1.102', want an address in network.pool,"
        " [secret]",
    ]


def test_strings_from_the_engine_become_settings() -> None:
    raw = stack_config("home")
    wire = on_the_wire(raw)
    loaded: list[config.Settings] = []
    wire["homelab:context"] = "5"
    deploy(lambda: loaded.append(config.load(RESERVED)), wire | {"kubernetes:context": "other"})

    assert loaded == [read(raw | {"context": "5"})]


def test_a_chat_page_without_any_address_is_refused() -> None:
    raw = changed("webui/lan_address", ...)
    del raw["webui"]["tailnet_address"]

    assert refused(raw) == ["homelab:webui.lan_address: missing, want an address in network.pool"]


def test_a_chat_page_behind_a_proxy_needs_the_proxys_url() -> None:
    raw = changed("webui/lan_address", ...)
    del raw["webui"]["tailnet_address"]
    raw["webui"]["trusted_email_header"] = "Tailscale-User-Login"

    assert refused(raw) == [
        "homelab:webui.origins: missing, want the URL of the proxy that sends trusted_email_header"
    ]
    raw["webui"]["origins"] = ["https://chat.example.org"]
    assert read(raw).webui.trusted_email_header


def test_with_several_nodes_each_section_names_its_own() -> None:
    """Pulumi sorts the nodes: another name would have moved all volumes."""
    raw = stack_config("home") | {"nodes": TWO_NODES}
    assert refused(raw) == [
        f"homelab:{section}.node: missing, want one of the nodes: evo4t, spare"
        for section in ("ollama", "webui", "observability")
    ]
    assert read(on_node(raw)).node_of(read(raw).webui) == "evo4t"


def test_each_nodes_disk_is_checked_with_the_volumes_on_it() -> None:
    raw = changed("nodes", TWO_NODES)
    raw["observability"] |= {"node": "spare", "volume": {"path": "/mnt/spare/p", "size": "50Gi"}}
    assert read(raw).node_of(read(raw).observability) == "spare"

    raw["webui"]["node"] = "spare"
    assert "a directory below /mnt/spare, the disk of spare" in refused(raw)[0]

    raw["webui"]["volume"]["path"] = "/mnt/spare/open-webui"
    assert refused(raw) == [
        "homelab:nodes.spare.disk.size: got '100Gi', want 150Gi or more for its volumes:"
        " webui.volume.size 100Gi, observability.volume.size 50Gi"
    ]


def test_ollama_on_a_node_with_too_little_memory_is_refused() -> None:
    raw = stack_config("example-two-nodes")
    raw["ollama"] |= {"node": "small", "volume": {"path": "/mnt/data/models", "size": "50Gi"}}

    assert refused(raw)[0].startswith("homelab:nodes.small.memory: got '16Gi'")


def test_two_nodes_may_have_the_same_directory() -> None:
    raw = changed("nodes", TWO_NODES)
    raw["nodes"]["spare"]["disk"]["path"] = "/mnt/evo4t"
    raw["observability"] |= {
        "node": "spare",
        "volume": {"path": "/mnt/evo4t/models", "size": "1Gi"},
    }

    assert read(raw).observability.volume.path == read(raw).ollama.volume.path


@pytest.mark.parametrize(
    "name",
    [
        *("codellama:7b", "mistral:7b", "llama3.2:3b-instruct-q4_K_M", "hf.co/someone/gemma2:4b"),
        # A tag without a size is not checked.
        *("codellama:code", "codellama:python", "gemma:instruct"),
        "nomic-embed-text:137m-v1.5-fp16",
    ],
)
def test_a_plausible_model_name_is_accepted(name: str) -> None:
    assert validate_name(name) is None


def test_spellings_of_the_same_model_are_one_model() -> None:
    raw = changed("ollama/models", [f"registry.ollama.ai/library/{BASE}", "CodeLlama:7b"])
    mine = {"name": "mine:7b", "base": "codellama:7b", "context": 4096}
    raw["ollama"]["models"] += [mine, "nomic-embed-text:V1.5", "Some:Instruct"]
    raw["ollama"]["model_sizes"] = {"library/some:instruct": "2Gi"}
    settings = read(raw)
    plan = config.plan(settings, RESERVED).servers["ollama"]

    assert settings.completion_model == "codellama:7b"
    assert [line.name for line in plan.models] == [
        *(BASE, "codellama:7b", "mine:7b", "nomic-embed-text:v1.5", "some:instruct")
    ]
    assert [line.name for line in plan.models if line.shape.estimated_from] == ["some:instruct"]
    assert [
        job["name"] for job in config.model_job_entries(settings.ollama.models, settings.model_set)
    ] == (settings.ollama.names)


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ("CodeLlama:7B", "codellama:7b"),
        ("library/codellama:7b", "codellama:7b"),
        ("registry.ollama.ai/library/CodeLlama:7b", "codellama:7b"),
        ("Registry.Ollama.AI/Someone/Mine:7b", "Someone/Mine:7b"),
        ("someone/Mine:7b", "someone/Mine:7b"),
        ("hf.co/Someone/Some-7B-GGUF:Q4_K_M", "hf.co/Someone/Some-7B-GGUF:Q4_K_M"),
    ],
)
def test_open_webui_gets_model_names_as_ollama_lists_them(written: str, listed: str) -> None:
    """Ollama lists a name as pulled, without its own registry and namespace."""
    raw = changed("ollama/models", [written])
    raw["webui"] |= {"task_model": written, "embedding_model": written}
    settings = read(raw)

    assert settings.ollama.names == settings.model_set == [listed]
    assert (settings.webui.task_model, settings.webui.embedding_model) == (listed, listed)
    assert config.model_job_entries(settings.ollama.models, settings.model_set)[0]["name"] == listed


@given(st.decimals(min_value="0.001", max_value=999999, places=3), st.sampled_from(sorted(UNITS)))
def test_a_size_means_the_same_as_in_kubernetes(number: Any, unit: str) -> None:
    assert abs(size(f"{number}{unit}") - number * UNITS[unit]) <= 1 + number * UNITS[unit] / 2**50


@given(st.text(alphabet="0123456789.eEkKMGTPi+- \n", max_size=8))
def test_a_string_that_is_no_size_is_refused(text: str) -> None:
    number = text.rstrip("kKMGTi")
    is_size = text[len(number) :] in UNITS and number.replace(".", "", 1).isdigit()
    is_size = is_size and number[0] != "." and number[-1] != "."
    try:
        assert size(text) >= 0
        accepted = True
    except ValueError:
        accepted = False

    assert accepted == is_size


hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?", fullmatch=True)


@given(hosts, st.sampled_from(["", "http://", "https://"]), st.none() | st.integers(1, 65535))
def test_an_origin_is_a_hostname_or_an_origin_header(
    host: str, scheme: str, port: int | None
) -> None:
    origin = f"{scheme}{host}" + ("" if port is None else f":{port}")
    usual = {"http://": 80, "https://": 443}.get(scheme)
    is_right = port is None or bool(scheme and port != usual)
    raw = changed("webui/origins", [origin])

    if is_right:
        assert read(raw).webui.origins == [origin]
        assert not scheme or urlsplit(origin).netloc
    else:
        assert len(refused(raw)) == 1


@given(st.from_regex(r"(library/)?[A-Za-z0-9_.-]{1,8}(:[A-Za-z0-9_.-]{1,6})?", fullmatch=True))
def test_the_same_name_twice_is_never_accepted(name: str) -> None:
    raw = changed("ollama/models", [name, name.upper()])
    raw["webui"].pop("task_model")
    raw["ollama"]["model_sizes"] = {name: "1Gi"}

    assert "homelab:ollama.models[" in refused(raw)[0]


@given(st.lists(st.sampled_from(["", ".", "..", "a", ".a", "..a", "a.", "..."]), max_size=4))
def test_a_directory_is_a_normalized_absolute_path(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    raw = changed("webui/volume/path", path)
    (line,) = refused(raw)

    is_normal = path == str(PurePosixPath(path)) and ".." not in parts and path != "/"
    assert line.endswith("the disk of evo4t") == (is_normal and not path.startswith("//"))
