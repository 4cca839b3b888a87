"""Checks of the running server after `pulumi up`."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from config import Ollama, Settings
from ops import stacks
from ops.cluster import METADATA, Cluster
from ops.stacks import Stack
from ops.status_metrics import LAST_BACKUP, prometheus

SOCKET = "/ws/socket.io/?EIO=4&transport=websocket"
"""Path of Open WebUI's socket.io, version 4 of its protocol."""
PROMPT = "1, 2, 3, 4, 5, 6, 7, 8,"
ANSWER_SECONDS = 9
"""Seconds for all models' answers; one of 20 GB takes longer to load from a disk."""
Problems = AsyncIterator[str]


class Warn(str):
    """A problem for which the doctor does not fail."""


@dataclass(kw_only=True)
class Server:
    """A stack, and what earlier checks have read of it."""

    settings: Settings
    stack: Stack
    cluster: Cluster
    session: aiohttp.ClientSession
    has: set[str] = field(default_factory=set)
    """Requirements of other checks that are met: `api`, `state`, `up`, `page`, `releases`."""
    state: dict[str, Any] = field(default_factory=dict)
    """Output of `pulumi stack export`."""
    objects: set[tuple[str, str]] = field(default_factory=set)
    """Kind, and `namespace/name` or name, of each object in the stack's state."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """The stack's outputs in the state; secrets are encrypted."""
    page: str = ""
    """The first URL of Open WebUI that answers."""

    async def ask(self, path: str, **query: Any) -> Any:
        """Return the object at `path`; raises UnreadableError, also if there is none."""
        return await in_thread(self.cluster.read, path, **query)

    async def query(self, promql: str) -> Any:
        """Return the series of a query by Prometheus; raises UnreadableError."""
        return (await in_thread(prometheus, self.cluster, "query", query=promql))["result"]

    async def metadata(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Return the metadata of all objects at `path`."""
        objects = await self.ask(path, accept=METADATA, **query)
        # `items` is null in an empty list.
        return [item["metadata"] for item in objects["items"] or []]


class Check(NamedTuple):
    """A check; the docstring of `run` is printed if it yields no problem."""

    run: Callable[[Server], Problems]
    needs: str
    """Requirements in `Server.has`, without which it is skipped."""
    action: str
    """How to solve its problems, and a section of the documentation."""
    seconds: float = 6


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
    """Run a blocking call in a daemon thread, for which asyncio.run does not wait."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)

    Thread(target=call, daemon=True).start()
    return asyncio.wrap_future(future)


def is_in_lan(lan: str) -> bool:
    """Return whether this laptop has an address in the network `lan`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Connecting a UDP socket selects the source address, and sends nothing.
        probe.connect_ex((str(ip_network(lan)[1]), 9))
        return ip_address(probe.getsockname()[0]) in ip_network(lan)


async def page(server: Server) -> Problems:
    """Open WebUI and Grafana answer at all their addresses."""
    lan, pages = server.settings.network.lan, server.outputs["open_webui_urls"]
    for url in [*pages, f"{server.outputs['grafana_url']}/api"]:
        try:
            async with server.session.get(f"{url}/health") as response:
                problem = "" if response.ok else f"{url}: got {response.status}, want 200"
        except (OSError, aiohttp.ClientError) as error:
            problem = f"{url}: no answer: {str(error) or 'timeout'}"
        if problem:
            is_in = ip_address(str(urlsplit(url).hostname)) in ip_network(lan)
            is_remote = is_in and not is_in_lan(lan)
            yield Warn(f"{problem}; this laptop is not in {lan}") if is_remote else problem
        elif url in pages:
            server.page = server.page or url
            server.has.add("page")


async def origins(server: Server) -> Problems:
    """The websocket, which streams the answers, opens for every origin of the chat page."""
    for origin in server.outputs["open_webui_origins"]:
        try:
            async with server.session.ws_connect(server.page + SOCKET, origin=origin) as websocket:
                await websocket.receive_str()
        except (OSError, aiohttp.ClientError, TypeError) as error:
            is_403 = isinstance(error, aiohttp.WSServerHandshakeError) and error.status == 403
            yield f"{origin}: rejected: 403" if is_403 else f"{origin}: does not open: {error}"


async def answer(server: Server) -> Problems:
    """The admin signs in, and each server's first model counts on from 8 in a streamed answer."""
    deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
    command = ("stack", "output", "open_webui_password", "--show-secrets")
    password = (await in_thread(stacks.output, server.stack, *command)).strip()
    account = {"email": server.outputs["open_webui_email"], "password": password}
    signin = server.session.post(
        f"{server.page}/api/v1/auths/signin", json=account, timeout=aiohttp.ClientTimeout()
    )
    async with signin as response:
        body = await response.text()
    if not response.ok:
        # A warning, because the password may have been changed on the page.
        yield Warn(f"sign-in of {account['email']}: got {response.status}, want 200: {body[:150]}")
        return
    servers = server.settings.model_servers.values()
    models = [server.outputs["models"][0], *(it.names[0] for it in [*servers][1:])]
    token = json.loads(body)["token"]
    asked = zip(models, servers, strict=True)
    for problem in await asyncio.gather(
        *(_ask(server, token, index, *pair, deadline) for index, pair in enumerate(asked))
    ):
        if problem:
            yield problem


async def _ask(
    server: Server, token: str, index: int, model: str, model_server: Ollama, deadline: float
) -> str | None:
    """Return the problem with the answer of a model on the page's server `index`, or None."""
    # All but the smallest models continue the prompt; a broken GPU makes them write noise.
    question = {"model": model, "prompt": PROMPT, "raw": True, "stream": True}
    request = server.session.post(
        f"{server.page}/ollama/api/generate/{index}",
        json={**question, "options": {"temperature": 0, "num_predict": 8}},
        headers={"Authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(),
    )
    try:
        async with asyncio.timeout_at(deadline), request as response:
            events = [json.loads(line) async for line in response.content]
    except TimeoutError:
        return Warn(f"{model}: no complete answer yet: it may be loading; try again")
    text = "".join(event.get("response", "") for event in events)
    if not any(event.get("done") for event in events):
        return f"{model}: got {response.status} {events[-1:]}, want a complete answer"
    if re.match(r"\s*9\b", text):
        return None
    problem = f"{model}: got {text!r} after {PROMPT!r}, want 9"
    return problem if server.settings.profile(model_server).device else Warn(problem)


async def metrics(server: Server) -> Problems:
    """Prometheus has metrics of each gateway and of Open WebUI from the last 5 minutes."""
    wanted = {("ollama-stack/ollama-gateway", name) for name in server.settings.instances.values()}
    wanted.add(("ollama-stack/open-webui", "open-webui"))
    query = 'count by (job, instance) ({job=~"ollama-stack/.+"})'
    series = [item["metric"] for item in await server.query(query)]
    there = {(metric["job"], metric["instance"]) for metric in series}
    for job, instance in sorted(wanted - there):
        yield f"{job} of {instance}: no metrics in the last 5 minutes"


async def volumes(server: Server) -> Problems:
    """The pods' volumes are on the data disk, not below its mount point."""
    for series in await server.query('ALERTS{alertname="VolumeNotOnDisk"}'):
        claim = series["metric"]
        name = f"{claim['namespace']}/{claim['persistentvolumeclaim']}"
        yield f"{name}: the data disk was mounted after its pod's start"


async def backups(server: Server) -> Problems:
    """The last successful backup of the chats is no older than two intervals."""
    if not (backup := server.settings.webui.backup):
        yield Warn("webui.backup is not set: chats are on one disk only")
        return
    if not (series := await server.query(f"(time() - {LAST_BACKUP}) / 3600")):
        yield Warn("no successful backup in 60 days")
    elif (age := float(series[0]["value"][1])) > 2 * backup.hours:
        yield f"last successful backup: got {age:.0f} h ago, want {2 * backup.hours} h or less"


async def copies(server: Server) -> Problems:
    """What opens the data is in another place too."""
    if server.settings.protect and not server.settings.copies_kept:
        yield Warn("state, passphrase and backup password may be in one place only")


CHECKS = (
    Check(page, "up", "kubectl get services,pods -A (docs/runbook.md#openwebuidown)", seconds=8),
    Check(origins, "page", "set webui.origins, and up (docs/install.md#other-names-for-the-page)"),
    Check(answer, "page", "read the gateway's log (docs/runbook.md#ollamadown)", seconds=10),
    Check(metrics, "up api", "read the pushers' logs (docs/runbook.md#gatewaynotreporting)"),
    Check(volumes, "up api", "restart the pods (docs/runbook.md#volumenotondisk)"),
    Check(backups, "up api", "set webui.backup, run one or read its log (docs/backups.md)"),
    Check(copies, "up", "copy, then set copies_kept (docs/backups.md#keep-in-another-place)"),
)
