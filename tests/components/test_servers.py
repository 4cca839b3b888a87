"""Several model servers in one stack: settings, plan, objects and network policies."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import (
    RESERVED,
    Deployment,
    deploy,
    deploy_program,
    deployed,
    environment,
    gpu_config,
    read,
    small_ollama_stack,
    stack_config,
    two_servers,
)
from jsonschema import Draft7Validator

import config
from config import SettingsError, capacity
from config.schema import schema

VARIANT = {"name": "m:1b", "base": "x:1b", "context": 4096}


def errors(raw: dict[str, Any]) -> list[str]:
    """Return the lines of the SettingsError."""
    with pytest.raises(SettingsError) as caught:
        read(raw)
    return str(caught.value).splitlines()


def test_a_server_inherits_from_ollama_what_it_does_not_set() -> None:
    raw = two_servers(parallel=2)
    raw["ollama"] |= {"context_length": 4096, "keep_alive": "1h"}
    settings = read(raw)
    big = settings.model_servers["servers.big"]

    assert [*settings.model_servers] == ["ollama", "servers.big"]
    assert (big.context_length, big.keep_alive, big.parallel) == (4096, "1h", 2)
    assert (settings.ollama.parallel, settings.node_of(big)) == (1, "big")
    assert big.names == ["llama3.3:70b", "llama3.2:3b"]
    # Only Ollama has the embedding model.
    assert settings.models_on(big) == big.names
    assert settings.model_set == [*settings.models_on(settings.ollama), "llama3.3:70b"]


def test_a_server_on_its_own_node_may_inherit_everything_but_the_node() -> None:
    raw = two_servers()
    raw["nodes"]["big"]["disk"]["path"] = raw["nodes"]["evo4t"]["disk"]["path"]
    raw["servers"] = {"big": {"node": "big"}}
    settings = read(raw)

    assert settings.servers["big"].volume == settings.ollama.volume
    assert settings.servers["big"].names == settings.ollama.names


@pytest.mark.parametrize(
    ("server", "line"),
    [
        ({"models": ["llama3.2:3b", "gemma2:4b"]}, "models[1]: got 'gemma2:4b', want a model of"),
        ({"models": ["a:1b", "a:1b"]}, "models[1]: got 'a:1b', want each model once"),
        ({"models": ["some:instruct"]}, "models[0]: got 'some:instruct', want a name with its"),
        ({"models": [VARIANT]}, "models[0].base: got 'x:1b', want one of servers.big.models that"),
        ({"modells": []}, "modells: unknown key, did you mean models?"),
        ({"cpu": "8"}, "cpu: got '8', want a number of cores"),
        ({"node": "other"}, "node: got 'other', want one of the nodes: evo4t, big"),
        ({"loaded_models": 0}, "loaded_models: got 0, want a whole number, 1 or more"),
        ({"model_sizes": {"no:1b": "1Gi"}}, "model_sizes.no:1b: got '1Gi', want a size for one of"),
        (
            {"models": ["gemma3:1b"], "image": "ollama/ollama:0.1.0"},
            "image: got 'ollama/ollama:0.1.0', want 0.6.0 or newer for gemma3:1b",
        ),
        (
            {"volume": {"path": "/mnt/evo4t/x", "size": "1Gi"}},
            "volume.path: got '/mnt/evo4t/x', want a directory below /mnt/big, the disk of big",
        ),
        (
            {"volume": {"path": "/mnt/big/x", "size": "1Gi"}},
            "volume.size: got '1Gi', want 42Gi or more for the files",
        ),
        (
            {"memory": {"request": "9Gi", "limit": "9Gi"}},
            "memory.request: got '9Gi', want 44Gi or more, for llama3.3:70b at once; it fits",
        ),
        (
            {"models": ["gpt-oss:120b", "llama3.3:70b"], "loaded_models": 2, "parallel": 16},
            "loaded_models: got 2, want models that fit: llama3.3:70b, gpt-oss:120b need",
        ),
        (
            {"node": "evo4t", "volume": {"path": "/mnt/evo4t/models/x", "size": "1Gi"}},
            "volume.path: got '/mnt/evo4t/models/x', want a directory outside of ollama.volume",
        ),
    ],
)
def test_an_invalid_value_of_a_server_is_reported_by_its_own_key(
    server: dict[str, Any], line: str
) -> None:
    lines = errors(two_servers(**server))

    assert lines[0].startswith(f"homelab:servers.big.{line}"), lines
    assert [other for other in lines if not other.startswith("homelab:servers.big.")] == []


@pytest.mark.parametrize(
    "name", ["ollama", "Big", "a_b", "1a", "a-", "x" * 41, "a.b", "models", "x-gateway"]
)
def test_a_server_name_that_is_no_dns_label_is_refused(name: str) -> None:
    raw = two_servers()
    raw["servers"] = {name: raw["servers"]["big"]}

    (line,) = errors(raw)
    assert line.startswith(f"homelab:servers.{name}: got '{name}', want a DNS label")


@pytest.mark.parametrize("change", [{"cpu": "x"}, {"context_length": 1}, {"models": ["gemma2:4b"]}])
def test_an_invalid_value_that_a_server_inherits_is_reported_once(change: dict[str, Any]) -> None:
    raw = two_servers()
    del raw["servers"]["big"]["models"]
    raw["ollama"] |= change
    raw["webui"].pop("task_model")

    (line,) = errors(raw)
    assert line.startswith("homelab:ollama.")


def test_an_invalid_section_ollama_is_reported_once() -> None:
    assert [line.partition(" ")[0] for line in errors({**two_servers(), "ollama": None})] == [
        "homelab:ollama:"
    ]


def test_the_schema_needs_only_the_node_of_a_server_and_rejects_unknown_keys() -> None:
    raw = two_servers()
    for server, is_valid in (({"node": "big"}, True), ({"nodes": "big"}, False)):
        raw["servers"] = {"big": server}
        file = {"config": {f"homelab:{key}": value for key, value in raw.items()}}
        assert Draft7Validator(schema()).is_valid(file) is is_valid


def test_the_volumes_of_all_servers_of_a_node_must_fit_on_its_disk() -> None:
    raw = two_servers(volume={"path": "/mnt/big/models", "size": "901Gi"})

    assert errors(raw) == [
        "homelab:nodes.big.disk.size: got '900Gi', want 901Gi or more for its volumes:"
        " servers.big.volume.size 901Gi"
    ]


def test_a_gpu_is_for_one_server_only() -> None:
    raw = gpu_config()
    raw["servers"] = {"more": {"volume": {"path": "/mnt/evo4t/more", "size": "50Gi"}}}
    raw["servers"]["more"]["models"] = ["llama3.2:3b"]

    assert errors(raw)[0] == (
        "homelab:servers.more.node: got 'evo4t', want another node: ollama has its GPU"
    )


def test_a_model_that_does_not_fit_is_reported_with_the_server_where_it_fits() -> None:
    raw = two_servers(models=["llama3.2:3b"])
    raw["ollama"]["models"] = ["llama3.2:3b", "gpt-oss:120b"]
    raw["nodes"]["evo4t"]["memory"] = "64Gi"

    assert errors(raw)[0].endswith(
        "; it fits without gpt-oss:120b; gpt-oss:120b fits on servers.big"
    )

    # With too little memory, or too small a disk, that server is not suggested.
    for change in ({"memory": {"request": "20Gi", "limit": "20Gi"}}, {"volume": SMALL}):
        changed = {**raw, "servers": {"big": raw["servers"]["big"] | change}}
        assert errors(changed)[0].endswith("; it fits without gpt-oss:120b")


SMALL = {"path": "/mnt/big/models", "size": "50Gi"}


def test_servers_of_one_node_share_its_memory() -> None:
    raw = stack_config("home")
    more = {"path": "/mnt/evo4t/more", "size": "100Gi"}
    raw["servers"] = {"more": {"volume": more, "models": ["gpt-oss:20b"], "cpu": 1}}
    plans = config.plan(read(raw), RESERVED)
    first, second = plans.servers["ollama"], plans.servers["servers.more"]
    sizes = [int(plan.memory.request.removesuffix("Gi")) * capacity.GIB for plan in (first, second)]

    assert second.available == first.available - sizes[0]
    rest = capacity.SYSTEM_RESERVE.memory + RESERVED.memory + capacity.GIB
    assert plans.requests["evo4t"].memory == sum(sizes) + rest

    raw["nodes"]["evo4t"]["memory"] = "40Gi"
    assert errors(raw)[0].startswith("homelab:servers.more.models: got ['gpt-oss:20b'], want")


def test_the_plan_of_all_servers_is_one_table() -> None:
    settings = read(two_servers())
    _, head, *lines = config.table(settings, config.plan(settings, RESERVED)).splitlines()
    rows = [line.split()[:2] for line in lines[:6]]

    assert head.split()[:2] == ["server", "model"]
    assert rows == [
        *(["ollama", name] for name in settings.models_on(settings.ollama)),
        *(["servers.big", name] for name in ["llama3.3:70b", "llama3.2:3b"]),
    ]
    assert [line.partition(":")[0] for line in lines[6:]] == [
        *(*["ollama"] * 3, *["servers.big"] * 3),
        *("evo4t", "big"),
    ]
    # tokens/s with 256 GB/s instead of 89.6.
    assert lines[5].split()[-1] == "127"


def pods(deployment: Deployment) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield server, namespace and labels of each pod template."""
    for resource in (*deployment.of_kind("Deployment"), *deployment.of_kind("Job")):
        labels = resource.inputs["spec"]["template"]["metadata"]["labels"]
        yield resource.parent, resource.inputs["metadata"]["namespace"], labels


def selectors(spec: Any) -> Iterator[dict[str, str]]:
    """Yield the labels of each selector of pods in the same namespace."""
    if isinstance(spec, list):
        for item in spec:
            yield from selectors(item)
    elif isinstance(spec, dict) and "namespaceSelector" not in spec:
        for key, value in spec.items():
            if key == "matchLabels" or (key == "selector" and "matchLabels" not in value):
                yield value
            yield from selectors(value)


def shared(deployment: Deployment) -> list[str]:
    """Return names that two objects have, and selectors that match pods of another server."""
    objects = [(resource, resource.inputs["metadata"]) for resource in deployment.objects()]
    names = [(it.type, metadata.get("namespace"), metadata["name"]) for it, metadata in objects]
    return [str(name) for name in names if names.count(name) > 1] + [
        f"{resource.name}: {selector}"
        for resource, metadata in objects
        for selector in selectors(resource.inputs.get("spec"))
        for server, namespace, labels in pods(deployment)
        if server != resource.parent
        and namespace == metadata["namespace"]
        and selector.items() <= labels.items()
    ]


def two() -> None:
    small_ollama_stack("ollama", "one", "models")
    small_ollama_stack("ollama-big", "one", "models-big")


def three() -> None:
    two()
    small_ollama_stack("ollama-far", "two", "models")


@pytest.mark.parametrize(("program", "count"), [(two, 2), (three, 3)])
def test_servers_share_no_name_and_no_pods(program: Callable[[], None], count: int) -> None:
    deployment = deploy(program)

    assert len({server for server, _, _ in pods(deployment)}) == count
    assert shared(deployment) == []


def test_no_accepted_server_name_gives_two_objects_the_same_name() -> None:
    for name in ("service", "program", "job", "client", "default", "x-deployment"):
        raw = two_servers()
        raw["servers"] = {name: raw["servers"]["big"]}
        deployment = deploy_program("home", raw)
        names = [(r.type, str(r.inputs["metadata"])) for r in deployment.objects()]
        counts = {names.count(item) for item in names}

        assert counts == {1}


def test_open_webui_uses_all_servers_and_embeds_on_the_first() -> None:
    deployment = deployed("two servers")

    def page(deployment: Deployment) -> tuple[dict[str, Any], dict[str, str]]:
        inputs = deployment["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
        template = inputs["spec"]["template"]
        (container,) = template["spec"]["containers"]
        return environment(container), template["metadata"]["labels"]

    env, labels = page(deployment)
    first, big = (f"http://{name}-service.ollama-stack:11434" for name in ("ollama", "ollama-big"))
    assert env["OLLAMA_BASE_URLS"] == f"{first};{big}"
    assert env["RAG_OLLAMA_BASE_URL"] == env["OLLAMA_BASE_URL"] == first
    assert int(env["AIOHTTP_CLIENT_TIMEOUT_MODEL_LIST"]) < 10
    assert labels["homelab/ollama-client"] == labels["homelab/ollama-big-client"] == "true"
    assert "OLLAMA_BASE_URLS" not in page(deployed())[0]


def test_servers_are_in_the_order_of_their_names() -> None:
    """Pulumi sorts them; the doctor, which reads the file, asks the page by their number."""
    raw = two_servers()
    volume = {"path": "/mnt/evo4t/also", "size": "50Gi"}
    raw["servers"]["also"] = {"volume": volume, "models": ["llama3.2:1b"], "cpu": 1}

    assert [*read(raw).model_servers] == ["ollama", "servers.also", "servers.big"]


def test_the_editors_model_may_be_on_any_server() -> None:
    raw = two_servers(models=["codellama:13b"], context_length=4096)
    raw["ollama"]["models"] = ["llama3.2:3b"]
    editor = deploy_program("home", raw).outputs["ide_config"]

    assert "codellama:13b" in editor
    assert "4096" in editor


def test_each_server_has_its_own_models_memory_node_and_series() -> None:
    deployment, plans = deployed("two servers"), config.plan(read(two_servers()), RESERVED)

    for name, key, node in (("ollama", "ollama", "evo4t"), ("ollama-big", "servers.big", "big")):
        inputs = deployment[f"kubernetes:apps/v1:Deployment::{name}-deployment"].inputs
        pod = inputs["spec"]["template"]["spec"]
        (ollama,), (gateway,) = pod["initContainers"], pod["containers"]
        env = environment(gateway)
        files = deployment[f"kubernetes:core/v1:ConfigMap::{name}-program"].inputs["data"]

        claim = name.replace("ollama", "models", 1)
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim}
        assert pod["nodeSelector"] == {"kubernetes.io/hostname": node}
        assert ollama["resources"]["requests"]["memory"] == plans.servers[key].memory.request
        assert env["OTEL_RESOURCE_ATTRIBUTES"].endswith(f"service.instance.id={name}")
        assert ("nomic-embed-text" in files["models.json"]) == (name == "ollama")
        assert ("llama3.3:70b" in files["models.json"]) == (name == "ollama-big")
