"""Check the cluster before `pulumi up`, and the server after it."""

import argparse
import asyncio
import socket
import time
from errno import ECONNREFUSED

import aiohttp
from kubernetes.utils import parse_quantity

from components import CHART_VALUES
from config import Settings, requested
from ops import doctor_server, recover, stacks
from ops.cluster import Cluster, UnreadableError, expiring
from ops.doctor_server import Check, Problems, Server, Warn, in_thread, is_in_lan

UNPRIVILEGED = {
    "user": "system:serviceaccount:default:default",
    # The groups of every pod, and of anonymous users.
    "groups": ["system:serviceaccounts", "system:authenticated", "system:unauthenticated"],
    "resourceAttributes": {"verb": "list", "resource": "secrets"},
}
MASK, MASK_DEFAULT, OTHERS = "FELIX_IPTABLESMARKMASK", "0xffff0000", 0x00FFC000
"""Calico's variable and its default, and the mark bits of Tailscale and kube-proxy."""
CHART = "kube-prom-stack"
ADDON = f"owner=helm,name in ({CHART},loki,tempo)"
"""Secrets of the releases that MicroK8s' addon `observability` installs."""
VOLUMES = "ollama-stack-models ollama-stack-open-webui ollama-stack-backup observability-prometheus"
NAMES = {
    "StorageClass": ("/apis/storage.k8s.io/v1/storageclasses", "local-path"),
    "Namespace": ("/api/v1/namespaces", "ollama-stack observability"),
    "PersistentVolume": ("/api/v1/persistentvolumes", VOLUMES),
}
"""API path and names of the stack's cluster-scoped objects, by kind."""


def run(options: argparse.Namespace) -> int:
    """Check a stack, print the results and return the exit code."""
    settings = stacks.settings(options.stack, requested(CHART_VALUES))
    stack = stacks.find(options.stack)
    return asyncio.run(report(settings, stack, Cluster(settings.context, stack.kubeconfig)))


async def report(settings: Settings, stack: stacks.Stack, cluster: Cluster) -> int:
    """Run each check whose requirements are met, and return the exit code."""
    start, levels, waiting = time.monotonic(), [], [*CHECKS, *doctor_server.CHECKS]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        server = Server(settings=settings, stack=stack, cluster=cluster, session=session)
        while ready := [check for check in waiting if server.has >= {*check.needs.split()}]:
            waiting = [check for check in waiting if check not in ready]
            levels += await asyncio.gather(*(run_check(server, check) for check in ready))
    counts = ", ".join(f"{levels.count(level)} {level}" for level in ("fail", "warn", "ok"))
    until = " until the first up" if {"state", "up"} & server.has == {"state"} else ""
    print(f"  {counts}, {len(waiting)} skipped{until}; {time.monotonic() - start:.0f} s")
    return int("fail" in levels)


async def run_check(server: Server, check: Check) -> str:
    """Run a check, print its line and return its level."""
    try:
        async with asyncio.timeout(check.seconds):
            problems = [problem async for problem in check.run(server)]
    # An unexpected error must not hide the other results; only a timeout has no text.
    except Exception as error:
        problems = [str(error)[:300] or f"no answer within {check.seconds:g} s"]
    is_warning = all(isinstance(problem, Warn) for problem in problems)
    level = "ok" if not problems else "warn" if is_warning else "fail"
    text = " ".join("; ".join(problems).split()) or check.run.__doc__
    action = f"; to do: {check.action}" if problems else ""
    print(f"  {level:<4}  {check.run.__name__:<9}  {text}{action}", flush=True)
    return level


async def api(server: Server) -> Problems:
    """The API server answers; certificates of it and the kubelet are valid for over 30 days."""
    try:
        problems = await in_thread(expiring, server.cluster.configuration)
    except UnreadableError as error:
        yield str(error)
        return
    server.has.add("api")
    for subject, problem, remedy in problems:
        yield Warn(f"{subject} {problem}: {remedy}")


async def state(server: Server) -> Problems:
    """The stack's state can be read."""
    try:
        server.state = await in_thread(recover.export_state, server.stack)
    except UnreadableError as error:
        yield str(error)
        return
    resources = (server.state.get("deployment") or {}).get("resources") or []
    server.objects = {(item["type"].rpartition(":")[2], item.get("id", "")) for item in resources}
    outputs = {item["type"]: item.get("outputs") for item in resources}
    server.outputs = outputs.get("pulumi:pulumi:Stack") or {}
    server.has |= {"state", "up"} if server.outputs else {"state"}


async def rbac(server: Server) -> Problems:
    """The kubeconfig's user may do everything; pods and strangers may not list Secrets."""
    review = server.cluster.review
    everything = {"resourceAttributes": {"verb": "*", "group": "*", "resource": "*"}}
    if not await in_thread(review, "selfsubjectaccessreviews", everything):
        yield "the kubeconfig's user is not a cluster admin"
    elif await in_thread(review, "subjectaccessreviews", UNPRIVILEGED):
        yield "RBAC is disabled, or everybody has a role: any pod may list Secrets"


async def marks(server: Server) -> Problems:
    """Calico does not use the packet mark bits of Tailscale and kube-proxy."""
    daemon_sets = await server.ask("/apis/apps/v1/namespaces/kube-system/daemonsets")
    for pod in (item["spec"]["template"]["spec"] for item in daemon_sets["items"]):
        for container in pod["containers"]:
            env = {item["name"]: item.get("value") for item in container.get("env") or []}
            mask = int(env.get(MASK) or MASK_DEFAULT, 0)
            if container["name"] == "calico-node" and mask & OTHERS:
                yield Warn(f"calico-node: {MASK}: got {mask:#010x}, want 0xff000000")


async def nodes(server: Server) -> Problems:
    """The nodes are ready, with the capacity in the stack file and their profile's GPU."""
    settings, nodes = server.settings, await server.ask("/api/v1/nodes")
    live = {item["metadata"]["name"]: item for item in nodes["items"]}
    for name in settings.nodes.keys() - live.keys():
        yield f'nodes "{name}" not found, but {", ".join(live)}'
    for name in settings.nodes.keys() & live.keys():
        node, status = settings.nodes[name], live[name]["status"]
        wanted: dict[str, int | str] = {"cpu": node.cpus, "memory": node.memory}
        conditions = {item["type"]: item["status"] for item in status["conditions"]}
        if conditions.get("Ready") != "True" or live[name]["spec"].get("unschedulable"):
            yield f"{name} is NotReady or SchedulingDisabled"
        # The capacity keeps a device whose plugin is gone; allocatable does not.
        sizes = {**status["allocatable"], **{key: status["capacity"][key] for key in wanted}}
        for model_server in settings.model_servers.values():
            device = settings.profile(model_server).device
            if device and name == settings.node_of(model_server):
                wanted[device] = 1
        for key, size in wanted.items():
            if parse_quantity(sizes.get(key, 0)) < parse_quantity(size):  # type: ignore[no-untyped-call]
                yield f"{name}: {key}: got {sizes.get(key, 0)}, want {size}"


async def releases(server: Server) -> Problems:
    """No run was cut off: no lock, nothing pending in the state, every release finished."""
    run = await in_thread(recover.inspect, server.stack, server.state, server.cluster)
    for reason in run.reasons:
        yield f"{reason}; make recover STACK={server.stack.name}"
    # Objects of an interrupted run belong to the stack, although its state does not have them.
    server.objects |= {("Release", f"{item.namespace}/{item.name}") for item in run.revisions}
    for resource in (operation["resource"] for operation in run.pending):
        kind = resource["type"].rpartition(":")[2]
        server.objects.add((kind, recover.identity(resource) or ""))
    server.has.add("releases")


async def addons(server: Server) -> Problems:
    """MicroK8s' addons do not conflict, and MetalLB is installed as `network.metallb` says."""
    for secret in await server.metadata("/api/v1/secrets", labelSelector=ADDON):
        release = f"{secret['namespace']}/{secret['labels']['name']}"
        if ("Release", release) not in server.objects:
            yield f"release {release} was not installed by this stack"
    crds = await server.metadata("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    groups = {crd["name"].partition(".")[2] for crd in crds}
    if ("Release", f"observability/{CHART}") not in server.objects:
        objects = await server.metadata("/apis/rbac.authorization.k8s.io/v1/clusterroles")
        objects += await server.metadata("/api/v1/namespaces/kube-system/services")
        leftovers = [item["name"] for item in objects if item["name"].startswith(CHART)]
        for name in leftovers + sorted(groups & {"monitoring.coreos.com"}):
            yield Warn(f"{name} remains from a removed release")
    # The operator runs those in any namespace: pods and claims that no release owns.
    for kind in ("prometheuses", "alertmanagers"):
        if any(crd["name"] == f"{kind}.monitoring.coreos.com" for crd in crds):
            for item in await server.metadata(f"/apis/monitoring.coreos.com/v1/{kind}"):
                title = f"{item['namespace']}/{item['name']}"
                if title != f"observability/{CHART}":
                    yield Warn(f"{kind} {title} remains from a removed release")
    mode, exists = server.settings.network.metallb, "metallb.io" in groups
    if ("Release", "metallb-system/metallb") not in server.objects and exists != (mode == "addon"):
        yield f"network.metallb: got {mode}, but MetalLB is {'' if exists else 'not '}installed"


async def names(server: Server) -> Problems:
    """The names of namespaces, volumes and StorageClass are not used by others."""
    more = {f"ollama-stack-models-{name}" for name in server.settings.servers}
    for kind, (path, wanted) in NAMES.items():
        names = [item["name"] for item in await server.metadata(path)]
        for name in names:
            if name in more | {*wanted.split()} and (kind, name) not in server.objects:
                yield f'{kind} "{name}" already exists'


async def addresses(server: Server) -> Problems:
    """The stack's addresses are not used by another Service or device."""
    settings, owners = server.settings, {}
    for item in (await server.ask("/api/v1/services"))["items"]:
        for ingress in (item["status"].get("loadBalancer") or {}).get("ingress") or []:
            owners[ingress.get("ip")] = "/".join(map(item["metadata"].get, ("namespace", "name")))
    for address in filter(None, (settings.webui.lan_address, settings.observability.lan_address)):
        if (owner := owners.get(address)) and ("Service", owner) not in server.objects:
            yield f"{address} is used by Service {owner}"
        elif not owner and not is_in_lan(lan := settings.network.lan):
            yield Warn(f"{address}: this laptop is not in {lan}, so devices there are not checked")
        elif not owner:
            with socket.socket() as probe:
                probe.settimeout(2)
                # A device that refuses the connection uses the address, too.
                if await in_thread(probe.connect_ex, (address, 80)) in (0, ECONNREFUSED):
                    yield f"{address} is used by a device"


CHECKS = (
    Check(api, "", "tailscale status (docs/install.md#3-kubeconfig-on-your-laptop)"),
    Check(state, "", "pulumi login, or stack init (docs/install.md#4-pulumi-on-your-laptop)"),
    Check(rbac, "api", "microk8s enable rbac (docs/install.md#1-microk8s-on-the-server)"),
    Check(marks, "api", f"set {MASK} (docs/install.md#tailscale-and-microk8s)"),
    Check(nodes, "api", "correct homelab:nodes (docs/gpu.md#prepare-the-server)"),
    Check(releases, "api state", "wait, or make recover (docs/runbook.md#an-up-was-cut-off)"),
    Check(addons, "releases", "microk8s disable, or delete (docs/runbook.md#without-an-alert)"),
    Check(names, "releases", "delete it, or pulumi import (docs/runbook.md#without-an-alert)"),
    Check(addresses, "releases", "free it, or change the pool (docs/runbook.md#without-an-alert)"),
)
