"""What the model server promises."""

from typing import Any

from harness import Registration, deploy_program, stack_config

HOME = deploy_program("home")
SERVER = HOME["kubernetes:apps/v1:Deployment::ollama-deployment"].inputs
JOB = HOME["kubernetes:batch/v1:Job::ollama-job"].inputs


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def jobs_of(models: list[str], **keys: object) -> str:
    config = stack_config("home")
    config["ollama"] |= {"models": models, **keys}
    config["webui"]["task_model"] = models[0]
    job: Registration = deploy_program("home", config)["kubernetes:batch/v1:Job::ollama-job"]
    name: str = job.inputs["metadata"]["name"]
    return name


def test_a_changed_model_list_is_another_job_and_nothing_else_is() -> None:
    name = JOB["metadata"]["name"]
    declared = stack_config("home")["ollama"]["models"]

    assert jobs_of(declared) == name
    assert jobs_of(declared[::-1]) == name
    assert jobs_of(declared, context_length=4096) == name
    assert jobs_of([*declared, "llama3.1:8b"]) != name
    assert jobs_of(declared[:1]) != name


def test_the_job_pulls_every_model_that_something_needs() -> None:
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    page = environment(
        HOME["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs["spec"]["template"]
    )

    assert sorted(container["args"]) == sorted(HOME.outputs["models"])
    assert page["RAG_EMBEDDING_MODEL"] in container["args"]
    assert page["DEFAULT_MODELS"] in container["args"]
    assert page["TASK_MODEL"] in container["args"]


def test_the_job_runs_the_mounted_program_on_an_image_that_is_there_anyway() -> None:
    pod = JOB["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program = HOME["kubernetes:core/v1:ConfigMap::ollama-program"].inputs
    (mount,) = container["volumeMounts"]
    script = container["command"][-1].removeprefix(mount["mountPath"] + "/")
    chat = HOME["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
    (page,) = chat["spec"]["template"]["spec"]["containers"]

    assert pod["volumes"][0]["configMap"]["name"] == program["metadata"]["name"]
    assert "import" in program["data"][script]
    assert container["image"] == page["image"]


def test_the_job_has_no_time_to_live() -> None:
    # It would vanish, and be drift.
    assert "ttlSecondsAfterFinished" not in JOB["spec"]


def test_nothing_is_left_for_ollama_to_guess() -> None:
    settings = environment(SERVER["spec"]["template"])

    for name in (
        "OLLAMA_CONTEXT_LENGTH",
        "OLLAMA_NUM_PARALLEL",
        "OLLAMA_MAX_LOADED_MODELS",
        "LLAMA_ARG_CACHE_RAM",
    ):
        assert int(settings[name]) > 0
    # Any text that is not 0 or false is true to Ollama.
    assert settings["OLLAMA_NO_CLOUD"] == "1"
    (container,) = SERVER["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings["HOME"] in mounts
    assert settings["OLLAMA_MODELS"].startswith(settings["HOME"])


def test_a_slow_start_is_not_taken_for_a_dead_server() -> None:
    (container,) = SERVER["spec"]["template"]["spec"]["containers"]
    startup = container["startupProbe"]

    assert startup["periodSeconds"] * startup["failureThreshold"] >= 180
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")} == {
        "/"
    }


def test_only_the_page_and_the_job_reach_the_server() -> None:
    policies = {policy.name: policy.inputs["spec"] for policy in HOME.of_kind("NetworkPolicy")}
    server = policies["ollama-policy"]
    (rule,) = server["ingress"]
    (peer,) = rule["from"]
    allowed = peer["podSelector"]["matchLabels"].items()
    templates = {
        made.name: made.inputs["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for made in HOME.of_kind(kind)
    }

    assert {name for name, labels in templates.items() if allowed <= labels.items()} == {
        "open-webui-deployment",
        "ollama-job",
    }
    assert "namespaceSelector" not in peer
    assert [port["port"] for port in rule["ports"]] == [11434]


def test_the_namespace_is_closed_but_for_what_a_policy_opens() -> None:
    closed = HOME["kubernetes:networking.k8s.io/v1:NetworkPolicy::ollama-default-deny-policy"]

    assert closed.inputs["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_server_reaches_the_registry_but_nothing_in_the_house() -> None:
    spec = HOME["kubernetes:networking.k8s.io/v1:NetworkPolicy::ollama-policy"].inputs["spec"]
    blocks = [
        peer["ipBlock"] for rule in spec["egress"] for peer in rule["to"] if "ipBlock" in peer
    ]

    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0"]
    assert {"192.168.0.0/16", "10.0.0.0/8", "100.64.0.0/10"} <= set(blocks[0]["except"])
