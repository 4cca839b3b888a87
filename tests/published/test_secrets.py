"""Which ServiceAccounts may read Secrets, by SubjectAccessReview."""

from typing import Any

from kubernetes import client
from live_stack import LiveStack

SYSTEM = {"default", "kube-node-lease", "kube-public", "kube-system"}
EVERYWHERE = ""
OWN = {"ollama-gateway", "open-webui", "open-webui-backup"}


def may(api: Any, account: str, verb: str, namespace: str, name: str = "") -> bool:
    """Return whether an account, as `namespace:name`, may read these Secrets."""
    attributes = {"verb": verb, "resource": "secrets", "namespace": namespace, "name": name}
    spec = {
        "user": f"system:serviceaccount:{account}",
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "resourceAttributes": attributes,
    }
    answer: Any = api.create_subject_access_review({"spec": spec})
    return bool(answer.status.allowed)


def accounts(live_stack: LiveStack) -> set[str]:
    """Return the ServiceAccounts of the stack and its releases, as `namespace:name`."""
    items = [
        item.metadata for item in live_stack.core.list_service_account_for_all_namespaces().items
    ]
    return {f"{item.namespace}:{item.name}" for item in items if item.namespace not in SYSTEM}


def test_only_these_accounts_may_read_every_secret_of_a_namespace(live_stack: LiveStack) -> None:
    api = client.AuthorizationV1Api(live_stack.core.api_client)
    namespaces = {item.metadata.name for item in live_stack.core.list_namespace().items}

    readable = {
        account: {
            namespace
            for namespace in {EVERYWHERE, *namespaces}
            if may(api, account, "list", namespace) or may(api, account, "get", namespace)
        }
        for account in accounts(live_stack)
    }

    assert {account: names for account, names in readable.items() if names} == {
        "observability:kube-prom-stack-operator": {EVERYWHERE, *namespaces},
        "observability:kube-prom-stack-grafana": {"observability"},
        "observability:homelab-reader": {"observability", "metallb-system"},
        "metallb-system:metallb-controller": {"metallb-system"},
        "metallb-system:metallb-speaker": {"metallb-system"},
    }


def test_only_operator_and_reader_may_read_a_secret_by_name(live_stack: LiveStack) -> None:
    api = client.AuthorizationV1Api(live_stack.core.api_client)

    names = {*OWN, "unknown"}
    readable = {
        (account, namespace, name)
        for account in accounts(live_stack)
        for namespace in ("ollama-stack", "default")
        for name in names
        if may(api, account, "get", namespace, name)
    }

    operator = {
        ("observability:kube-prom-stack-operator", namespace, name)
        for namespace in ("ollama-stack", "default")
        for name in names
    }
    reader = {("observability:homelab-reader", "ollama-stack", name) for name in OWN}
    assert readable == operator | reader
