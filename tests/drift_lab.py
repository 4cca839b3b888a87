"""Reads the drift of a live stack, edits its objects, and runs the printed commands."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from live_stack import LiveStack

from ops import drift, releases, stacks
from ops.cluster import Cluster
from ops.drift_fields import Finding
from ops.stacks import Stack


class Kubectl:
    """An admin's requests to the API server, with the field managers of kubectl."""

    def __init__(self, live_stack: LiveStack) -> None:
        self.cluster = Cluster(live_stack.cluster.context, live_stack.cluster.kubeconfig)

    def ask(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """Send a request; a PATCH with a list is a JSON patch, else a server-side apply."""
        kind = "json-patch+json" if isinstance(body, list) else "apply-patch+yaml"
        api = self.cluster.api
        request = api.param_serialize(
            method,
            path,
            query_params=[*query.items()],
            header_params={
                "Accept": "application/json",
                "Content-Type": f"application/{kind if method == 'PATCH' else 'json'}",
            },
            body=body,
            auth_settings=["BearerToken"],
        )
        answer: Any = api.call_api(*request)
        content = json.loads(answer.read())
        assert answer.status in (200, 201), content
        return content

    def add(self, path: str, pointer: str, value: object) -> None:
        """Add a value, as `kubectl edit` does."""
        patch = [{"op": "add", "path": pointer, "value": value}]
        self.ask("PATCH", path, patch, fieldManager="kubectl-edit")

    def run(self, command: str) -> None:
        """Run a printed command: `kubectl patch`, or `helm get manifest | kubectl apply`."""
        words = shlex.split(command.rpartition(" | ")[2])
        verb = words[words.index("--context") + 2]
        manager = words[words.index("--field-manager") + 1]
        if verb == "patch":
            kind, name = words[words.index("patch") + 1 :][:2]
            namespace = words[words.index("-n") + 1] if "-n" in words else ""
            (path,) = {
                resource.path(namespace, name)
                for (version, title), resource in self.cluster.kinds.items()
                if f"{title}.{version.rpartition('/')[0]}".strip(".").lower() == kind
            }
            body = json.loads(words[words.index("-p") + 1])
            self.ask("PATCH", path, body, fieldManager=manager)
            return
        assert verb == "apply"
        release, namespace = re.findall(r"get manifest (\S+) -n (\S+)", command)[0]
        newest = releases.revisions(self.cluster, namespace, release)[-1]
        for manifest in releases.objects(self.cluster, newest):
            resource = self.cluster.kinds[manifest["apiVersion"], manifest["kind"]]
            metadata = manifest["metadata"]
            path = resource.path(metadata.get("namespace", ""), metadata["name"])
            self.ask("PATCH", path, manifest, fieldManager=manager, force="true")


def stack_of(live_stack: LiveStack, account: Path | None = None) -> Stack:
    """Return the stack as a server's, read with the account of this kubeconfig."""
    kubeconfig = account or live_stack.cluster.kubeconfig
    return Stack(name="home", cli=live_stack.engine.cli, kubeconfig=kubeconfig)


def look(live_stack: LiveStack, account: Path | None = None) -> tuple[list[Finding], list[str]]:
    """Return the drift, and what could not be read."""
    stack = stack_of(live_stack, account)
    return drift.check(stack, stacks.deployment(stack))


def commands(live_stack: LiveStack) -> list[str]:
    """Return the commands that undo the drift."""
    return drift.fix_commands(look(live_stack)[0], stack_of(live_stack), live_stack.cluster.context)


def token(live_stack: LiveStack, name: str, namespace: str = "observability") -> str:
    """Create a token of a ServiceAccount."""
    body = {"spec": {"expirationSeconds": 3600}}
    response = live_stack.core.create_namespaced_service_account_token(name, namespace, body)
    return str(response.status.token)


def kubeconfig_of(live_stack: LiveStack, name: str) -> str:
    """Return a kubeconfig of the cluster for another ServiceAccount."""
    whole = yaml.safe_load(live_stack.cluster.kubeconfig.read_text())
    whole["users"][0]["user"] = {"token": token(live_stack, name)}
    return json.dumps(whole)


def lines_of(findings: Sequence[Finding]) -> set[str]:
    """Return name of the object and line of each field, without the manager."""
    return {
        f"{finding.where.rpartition('/')[2]}: {field.partition(' (kubectl-edit, ')[0]}"
        for finding in findings
        for field in finding.fields
    }
