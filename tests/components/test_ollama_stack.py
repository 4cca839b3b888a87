"""What the model server promises."""

import hashlib
import json
import re
from typing import Any

import pytest
from gateway_settings import Settings
from harness import (
    RESERVED,
    Deployment,
    Registration,
    deploy_program,
    deployed,
    environment,
    read,
    stack_config,
)
from sync_models import DeclaredModel

from config import plan

SERVER = "kubernetes:apps/v1:Deployment::ollama-deployment"
JOB = "kubernetes:batch/v1:Job::ollama-job"


@pytest.fixture
def home() -> Deployment:
    """The stack `home`."""
    return deployed()


def pod(deployment: Deployment) -> dict[str, Any]:
    """Return the pod spec of the model server."""
    return dict(deployment[SERVER].inputs["spec"]["template"]["spec"])


def containers(deployment: Deployment) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the containers of Ollama and of its gateway."""
    (ollama,), (gateway,) = pod(deployment)["initContainers"], pod(deployment)["containers"]
    return ollama, gateway


@pytest.fixture
def ollama(home: Deployment) -> dict[str, Any]:
    """Ollama's container in the stack `home`."""
    return containers(home)[0]


@pytest.fixture
def gateway(home: Deployment) -> dict[str, Any]:
    """The gateway's container in the stack `home`."""
    return containers(home)[1]


def secret_keys(container: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The Secret and key that each variable refers to."""
    values = {
        e["name"]: e["valueFrom"]["secretKeyRef"] for e in container["env"] if "valueFrom" in e
    }
    return {name: (reference["name"], reference["key"]) for name, reference in values.items()}


def jobs_of(models: list[Any], **keys: object) -> str:
    config = stack_config("home")
    config["ollama"] |= {"models": models, **keys}
    config["webui"]["task_model"] = None
    job: Registration = deploy_program("home", config)[JOB]
    name: str = job.inputs["metadata"]["name"]
    return name


def test_a_changed_model_list_is_another_job_and_nothing_else_is(home: Deployment) -> None:
    name = home[JOB].inputs["metadata"]["name"]
    declared = stack_config("home")["ollama"]["models"]

    assert jobs_of(declared) == name
    assert jobs_of([declared[0], *declared[:0:-1]]) == name
    assert jobs_of(declared, context_length=4096) == name
    # Another one is loaded first.
    assert jobs_of(declared[::-1]) != name
    assert jobs_of([*declared[:-1], {"name": declared[-1], "digest": "0" * 64}]) != name
    assert jobs_of(declared, dry_run=True) != name
    assert jobs_of(declared, refreshed="2026-12-01") != name
    assert jobs_of([*declared, "llama3.1:8b"]) != name
    assert jobs_of(declared[:1]) != name


def declared_to(lab: Deployment) -> list[dict[str, Any]]:
    """The models in the Job's file, each of which its program understands."""
    data = lab["kubernetes:core/v1:ConfigMap::ollama-program"].inputs["data"]
    models: list[dict[str, Any]] = json.loads(data["models.json"])["models"]
    assert [DeclaredModel(**model).name for model in models]
    return models


def test_the_job_is_told_every_model_that_something_needs(home: Deployment) -> None:
    names = [model["name"] for model in declared_to(home)]
    chat = home["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
    page = environment(chat["spec"]["template"]["spec"]["containers"][0])

    assert names == sorted(home.outputs["models"])
    assert page["RAG_EMBEDDING_MODEL"] in names
    assert page["DEFAULT_MODELS"] in names
    assert page["TASK_MODEL"] in names
    assert [m["name"] for m in declared_to(home) if m.get("load")] == [page["DEFAULT_MODELS"]]


def test_a_declared_model_reaches_the_job_whole() -> None:
    config = stack_config("home")
    pinned = {"name": "llama3.2:3b", "digest": "0" * 64, "keep_alive": "-1"}
    variant: dict[str, Any] = {
        "name": "my-codellama:16k",
        "base": "codellama:7b",
        "context": 16384,
        "system": "Be short.",
        "template": "{{ .Prompt }}",
        "parameters": {"temperature": 0.2, "stop": ["END"]},
    }
    embedding = {"name": "nomic-embed-text:v1.5", "digest": "1" * 64}
    config["ollama"]["models"] = [pinned, "codellama:7b", variant, embedding]
    deployment = deploy_program("home", config)

    del variant["context"]
    variant["parameters"]["num_ctx"] = 16384
    assert declared_to(deployment) == [
        {"name": "codellama:7b"},
        pinned | {"load": True},
        variant,
        embedding,
    ]
    assert deployment.outputs["models"] == [
        *("llama3.2:3b", "codellama:7b", "my-codellama:16k", "nomic-embed-text:v1.5")
    ]


def test_a_dry_run_is_one_word_of_the_owner(home: Deployment) -> None:
    config = stack_config("home")
    config["ollama"]["dry_run"] = True

    def arguments(lab: Deployment) -> list[str]:
        job = lab[JOB].inputs
        (container,) = job["spec"]["template"]["spec"]["containers"]
        values: list[str] = container["args"]
        return values

    assert arguments(home) == ["/workload/models.json"]
    assert arguments(deploy_program("home", config)) == ["--dry-run", "/workload/models.json"]


def test_the_job_keeps_its_ledger_beside_the_models_and_cannot_reach_them(
    home: Deployment, ollama: dict[str, Any]
) -> None:
    job = home[JOB].inputs["spec"]["template"]["spec"]
    (container,) = job["containers"]
    (ledger,) = [it for it in container["volumeMounts"] if it["name"] == "models"]
    (volume,) = [it for it in job["volumes"] if it["name"] == "models"]
    claims = [it for it in pod(home)["volumes"] if it["name"] == "models"]

    assert [volume] == claims
    assert environment(container)["LEDGER_FOLDER"] == ledger["mountPath"]
    models = environment(ollama)["OLLAMA_MODELS"].removeprefix("/data/")
    assert ledger["subPath"] not in ("", models)
    assert "/" not in ledger["subPath"]


def test_the_server_has_the_memory_and_the_number_of_models_that_are_planned(
    ollama: dict[str, Any],
) -> None:
    planned = plan(read(stack_config("home")), RESERVED).servers["ollama"]
    bounds = ollama["resources"]

    assert bounds["requests"]["memory"] == planned.memory.request == "19Gi"
    assert bounds["limits"]["memory"] == planned.memory.limit == "24Gi"
    assert environment(ollama)["OLLAMA_MAX_LOADED_MODELS"] == str(planned.loaded_models) == "3"


def test_what_the_owner_says_of_memory_is_taken_as_it_is() -> None:
    config = stack_config("home")
    config["ollama"] |= {"memory": {"request": "40Gi", "limit": "64Gi"}, "loaded_models": 1}
    ollama, _ = containers(deploy_program("home", config))

    assert ollama["resources"]["requests"]["memory"] == "40Gi"
    assert ollama["resources"]["limits"]["memory"] == "64Gi"
    assert environment(ollama)["OLLAMA_MAX_LOADED_MODELS"] == "1"


def test_a_changed_model_list_leaves_the_server_alone_unless_larger_ones_are_in_it(
    home: Deployment,
) -> None:
    config = stack_config("home")

    def server(*more: str) -> object:
        changed = {**config, "ollama": {**config["ollama"]}}
        changed["ollama"]["models"] = [*config["ollama"]["models"], *more]
        resource = deploy_program("home", changed)
        return resource[SERVER].inputs

    assert server("llama3.2:1b") == home[SERVER].inputs
    assert server("llama3.1:8b") != home[SERVER].inputs


def test_a_smaller_context_comes_with_the_attention_that_it_needs(ollama: dict[str, Any]) -> None:
    config = stack_config("home")
    config["ollama"]["kv_cache"] = "q8_0"
    quantized, _ = containers(deploy_program("home", config))

    assert environment(ollama)["OLLAMA_KV_CACHE_TYPE"] == "f16"
    assert "OLLAMA_FLASH_ATTENTION" not in environment(ollama)
    assert environment(quantized)["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert environment(quantized)["OLLAMA_FLASH_ATTENTION"] == "1"


def test_nothing_reaches_ollama_around_the_gateway(
    home: Deployment, ollama: dict[str, Any], gateway: dict[str, Any]
) -> None:
    settings = environment(gateway)
    (service,) = [s for s in home.of_kind("Service") if s.name == "ollama-service"]
    (port,) = service.inputs["spec"]["ports"]

    # The pod's own loopback: no Service, probe or neighbour gets there.
    assert environment(ollama)["OLLAMA_HOST"].startswith("127.0.0.1:")
    assert settings["GATEWAY_UPSTREAM"] == f"http://{environment(ollama)['OLLAMA_HOST']}"
    assert "ports" not in ollama
    assert [named["name"] for named in gateway["ports"]] == [port["targetPort"]]
    assert settings["GATEWAY_LISTEN"] == f"0.0.0.0:{gateway['ports'][0]['containerPort']}"


def test_probes_go_through_the_gateway_and_ollama_is_asked_from_inside(
    ollama: dict[str, Any], gateway: dict[str, Any]
) -> None:
    assert {gateway[f"{kind}Probe"]["httpGet"]["port"] for kind in ("readiness", "liveness")} == {
        "http"
    }
    for kind in ("startup", "liveness"):
        assert ollama[f"{kind}Probe"]["exec"]["command"] == ["ollama", "ls"]
    patience = gateway["livenessProbe"], ollama["livenessProbe"]
    mine, its = (probe["periodSeconds"] * probe["failureThreshold"] for probe in patience)
    # Otherwise a dead Ollama would have its gateway started anew instead of itself.
    assert mine > its


def test_running_answers_are_finished_before_anything_ends(
    home: Deployment, ollama: dict[str, Any], gateway: dict[str, Any]
) -> None:
    # A sidecar ends after the containers beside it.
    assert ollama["restartPolicy"] == "Always"
    pause = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = int(environment(gateway)["GATEWAY_GRACE_SECONDS"])

    # The gateway itself takes 10 s more: it cuts what is left, and pushes once again.
    assert pod(home)["terminationGracePeriodSeconds"] >= pause + grace + 15


def test_every_setting_of_the_gateway_is_one_that_it_knows(gateway: dict[str, Any]) -> None:
    own = {name: value for name, value in environment(gateway).items() if "GATEWAY" in name}
    secret = dict.fromkeys(secret_keys(gateway), "generated")
    settings = Settings.parse(own | secret)

    assert settings.bandwidth == 89.6e9
    assert settings.bytes_read()["gemma3:4b"] == 2.5e9
    assert settings.user_label == "off"
    assert settings.manage_token == settings.user_key == "generated"


def test_the_ceiling_that_the_gateway_reports_is_the_planned_one(gateway: dict[str, Any]) -> None:
    own = {name: value for name, value in environment(gateway).items() if "GATEWAY" in name}
    settings = Settings.parse(own | dict.fromkeys(secret_keys(gateway), "generated"))
    config = stack_config("home")
    config["ollama"]["models"] += ["gpt-oss:20b"]
    lines = [line for line in plan(read(config), RESERVED).servers["ollama"].models if line.ceiling]

    assert [line.name for line in lines] == config["ollama"]["models"]
    for line in lines:
        bytes_read = settings.bytes_read().get(line.name, line.shape.size)
        assert settings.bandwidth / bytes_read == pytest.approx(line.ceiling, rel=1e-5)


def test_models_are_changed_only_with_a_generated_token(
    home: Deployment, gateway: dict[str, Any]
) -> None:
    resource = home["kubernetes:core/v1:Secret::ollama-gateway-secret"]
    secret = resource.inputs["metadata"]["name"]
    (puller,) = home[JOB].inputs["spec"]["template"]["spec"]["containers"]

    assert secret_keys(gateway) == {
        "GATEWAY_MANAGE_TOKEN": (secret, "manage-token"),
        "GATEWAY_USER_KEY": (secret, "user-key"),
    }
    assert secret_keys(puller) == {"MANAGE_TOKEN": (secret, "manage-token")}
    # Whole, or each value for itself: nothing of it is in the open.
    assert resource.secrets & {"stringData", "stringData.manage-token"}
    assert resource.secrets & {"stringData", "stringData.user-key"}


def test_the_gateway_runs_the_mounted_program_and_a_changed_one_is_another_pod(
    home: Deployment, gateway: dict[str, Any]
) -> None:
    files = home["kubernetes:core/v1:ConfigMap::ollama-gateway-program"].inputs
    (mount,) = gateway["volumeMounts"]
    program = gateway["command"][-1].removeprefix(mount["mountPath"] + "/")
    source = files["data"]
    imported = set(
        re.findall(r"^from (gateway_\w+|model_name)", "".join(source.values()), re.MULTILINE)
    )

    assert program in source
    assert {f"{module}.py" for module in imported} <= set(source)
    metadata = home[SERVER].inputs["spec"]["template"]["metadata"]
    text = json.dumps(source, sort_keys=True).encode()
    assert hashlib.sha256(text).hexdigest().startswith(metadata["annotations"]["homelab/gateway"])


def test_only_the_page_and_the_job_reach_the_server(home: Deployment) -> None:
    policies = {policy.name: policy.inputs["spec"] for policy in home.of_kind("NetworkPolicy")}
    server = policies["ollama-policy"]
    (rule,) = server["ingress"]
    (peer,) = rule["from"]
    allowed = peer["podSelector"]["matchLabels"].items()
    templates = {
        resource.name: resource.inputs["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for resource in home.of_kind(kind)
    }

    assert {name for name, labels in templates.items() if allowed <= labels.items()} == {
        "open-webui-deployment",
        "ollama-job",
    }
    assert "namespaceSelector" not in peer
    assert [port["port"] for port in rule["ports"]] == [11434]


def test_the_namespace_is_closed_but_for_what_a_policy_opens(home: Deployment) -> None:
    closed = home["kubernetes:networking.k8s.io/v1:NetworkPolicy::ollama-default-deny-policy"]

    assert closed.inputs["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_server_reaches_the_registry_but_nothing_in_the_house(home: Deployment) -> None:
    spec = home["kubernetes:networking.k8s.io/v1:NetworkPolicy::ollama-policy"].inputs["spec"]
    blocks = [
        peer["ipBlock"] for rule in spec["egress"] for peer in rule["to"] if "ipBlock" in peer
    ]

    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0"]
    assert {"192.168.0.0/16", "10.0.0.0/8", "100.64.0.0/10"} <= set(blocks[0]["except"])
