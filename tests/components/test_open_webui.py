"""What the chat page promises."""

from typing import Any

import pytest
from harness import Deployment, deploy, deploy_program, deployed, environment, stack_config

from components import OpenWebUI
from components._kubernetes import SLOW_PULL
from components.open_webui.page import OpenWebUIArgs
from config import prefixes

ALONE: OpenWebUIArgs = {
    "namespace": "chat",
    "claim_name": "data",
    "pod": {"image": "page:1.0.0", "cpu": 1, "memory_request": "1Gi", "memory_limit": "1Gi"},
    "admin_email": "me@example.com",
    "models": {
        "url": "http://models:11434",
        "client_labels": {},
        "default": "a:1b",
        "embedding": "b:1b",
    },
    "access": {"client_cidrs": ["10.0.0.1/32"]},
    "telemetry": {"otlp_url": "", "pod_labels": {}},
}


def container(deployment: Deployment, name: str = "open-webui") -> dict[str, Any]:
    """Return the page's container."""
    page = deployment[f"kubernetes:apps/v1:Deployment::{name}-deployment"].inputs
    (only,) = page["spec"]["template"]["spec"]["containers"]
    return dict(only)


def behind(**access: str) -> None:
    """A page whose users a proxy names."""
    args: Any = {**ALONE, "access": {"client_cidrs": [], "trusted_email_header": "X-Email"}}
    args["access"] |= access
    OpenWebUI("chat", args)


def test_the_secrets_are_generated_and_only_referred_to() -> None:
    home = deployed()
    secret = home["kubernetes:core/v1:Secret::open-webui-secret"]
    referred = {
        entry["valueFrom"]["secretKeyRef"]["key"]: entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in container(home)["env"]
        if "valueFrom" in entry
    }

    assert referred == dict.fromkeys(secret.inputs["stringData"], secret.inputs["metadata"]["name"])
    assert secret.secrets
    assert {"open_webui_password", "grafana_password"} == home.secret_outputs


def test_a_migration_is_not_cut_off_by_a_probe_while_up_waits_for_it() -> None:
    probe = container(deployed())["startupProbe"]

    assert SLOW_PULL == "2h"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 2 * 3600


def test_without_a_tailnet_address_the_namespace_is_restricted() -> None:
    config = stack_config("home")
    del config["webui"]["tailnet_address"]
    lab = deploy_program("home", config)

    def levels(resource: Any) -> list[str]:
        about = resource["kubernetes:core/v1:Namespace::storage-ollama-stack"].inputs["metadata"]
        return [
            about["labels"][f"pod-security.kubernetes.io/{mode}"]
            for mode in ("enforce", "warn", "audit")
        ]

    assert levels(deployed()) == ["privileged", "restricted", "restricted"]
    assert levels(lab) == ["restricted"] * 3


def test_the_page_is_reached_where_the_outputs_say() -> None:
    home = deployed()
    service = home["kubernetes:core/v1:Service::open-webui-service"].inputs
    (port,) = service["spec"]["ports"]
    address = service["metadata"]["annotations"]["metallb.io/loadBalancerIPs"]

    assert service["metadata"]["name"] == "open-webui-service-local"
    assert home.outputs["open_webui_urls"] == [
        f"http://{address}:{port['port']}",
        f"http://{container(home)['ports'][0]['hostIP']}:8080",
    ]


def test_a_browser_may_open_the_page_by_any_of_its_names() -> None:
    further = ["evo4t.lan", "https://evo4t.example.ts.net", "http://chat.lan:9000"]
    raw = stack_config("home")
    raw["webui"]["origins"] = further
    lab = deploy_program("home", raw)
    allowed = environment(container(lab))["CORS_ALLOW_ORIGIN"]

    assert allowed.split(";") == [
        "http://192.168.1.101:8080",
        "http://100.102.114.95:8080",
        "http://evo4t:8080",
        "http://evo4t.lan:8080",
        *further[1:],
    ]
    assert lab.outputs["open_webui_origins"] == allowed.split(";")


@pytest.mark.parametrize("address", ["lan_address", "tailnet_address"])
def test_a_trusted_header_and_an_address_do_not_go_together(address: str) -> None:
    with pytest.raises(ValueError, match="trusted_email_header"):
        deploy(lambda: behind(**{address: "10.0.0.9"}))


def test_behind_a_proxy_the_page_has_no_address_of_its_own() -> None:
    lab = deploy(behind)

    service = lab["kubernetes:core/v1:Service::chat-service"].inputs
    assert service["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize(
    ("model", "document", "query"),
    [
        ("nomic-embed-text:v1.5", "search_document: ", "search_query: "),
        ("library/Nomic-Embed-Text:v1.5", "search_document: ", "search_query: "),
        ("embeddinggemma:300m", "title: none | text: ", "task: search result | query: "),
        ("bge-m3:567m", "", ""),
        ("someone/nomic-embed-text:137m", "", ""),
        ("some:300m", "", ""),
    ],
)
def test_texts_begin_as_the_model_that_reads_them_was_trained(
    model: str, document: str, query: str
) -> None:
    assert prefixes(model) == (document, query)


def test_the_page_begins_texts_as_its_embedding_model_was_trained() -> None:
    home, alone = environment(container(deployed())), environment(container(deploy(behind), "chat"))

    begins = home["RAG_EMBEDDING_CONTENT_PREFIX"], home["RAG_EMBEDDING_QUERY_PREFIX"]
    assert begins == prefixes("nomic-embed-text:v1.5")
    assert not {"RAG_EMBEDDING_CONTENT_PREFIX", "RAG_EMBEDDING_QUERY_PREFIX"} & alone.keys()
