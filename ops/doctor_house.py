"""Whether the house works as its users see it, once it is up."""

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from ops.cluster import UnreadableError
from ops.doctor_checks import Result, fail, ok, told, warn

PAGE_HEALTH, GRAFANA_HEALTH = "/health", "/api/health"
SOCKET = "/ws/socket.io/?EIO=4&transport=websocket"
"""Where Open WebUI has socket.io, in version 4 of its protocol."""
PUSHERS = {"ollama-stack/ollama-gateway", "ollama-stack/open-webui"}
"""The jobs by which Prometheus knows who pushes to it."""
SERVICE = "http:kube-prom-stack-prometheus:9090"
PROMETHEUS = f"/api/v1/namespaces/observability/services/{SERVICE}/proxy"
"""The API server's way to Prometheus, which has no address of its own."""
LIMIT = 3.0
"""Seconds for an answer that takes no model."""
FROM_HOME = "could not be looked at:"
WORDS = "Say hello."


def answers(places: Mapping[str, str], away: str) -> Result:
    """Look whether each place, by its URL with the path that tells its health, is well.

    `away` is the home network when this laptop is not in it: its addresses need not answer then.
    """

    def look(url: str) -> str:
        try:
            status, _ = request("GET", url + places[url])
        except (OSError, HTTPException) as error:
            beyond = away and ip_address(str(urlsplit(url).hostname)) in ip_network(away)
            return f"{FROM_HOME} {url}" if beyond else f"{url}: no answer: {error}"
        return "" if status == 200 else f"{url}{places[url]}: {status}"

    with ThreadPoolExecutor(len(places)) as pool:
        silent = [one for one in pool.map(look, places) if one]
    if silent and all(one.startswith(FROM_HOME) for one in silent):
        return warn(f"{'; '.join(silent)}; this laptop is not in {away}", "look again at home")
    do = "kubectl get services,pods -A; is Tailscale up here?"
    return told(silent, do, ", ".join(places))


def websocket(pages: list[str], origins: list[str]) -> Result:
    """Open the websocket that the page streams answers through, as a page of each origin does."""

    async def opens(session: aiohttp.ClientSession, origin: str) -> str:
        try:
            async with session.ws_connect(page + SOCKET, origin=origin) as opened:
                greeting = await opened.receive_str(timeout=LIMIT)
        except (OSError, aiohttp.ClientError, TypeError) as error:
            if isinstance(error, aiohttp.WSServerHandshakeError) and error.status == 403:
                return f"{origin} is refused: 403"
            return f"{page}{SOCKET}: does not open: {error or type(error).__name__}"
        otherwise = f"{page}{SOCKET}: answers {greeting[:40]!r}, not as socket.io"
        return "" if greeting.startswith("0{") else otherwise

    async def problems() -> list[str]:
        limit = aiohttp.ClientTimeout(total=LIMIT)
        async with aiohttp.ClientSession(timeout=limit) as session:
            return await asyncio.gather(*(opens(session, origin) for origin in origins))

    page = first_that_answers(pages)
    do = (
        "is it in webui.origins, and was there an up since? a proxy between must pass on Upgrade;"
        " kubectl -n ollama-stack logs deployment/open-webui"
    )
    found = dict.fromkeys(filter(None, asyncio.run(problems())))
    return told(found, do, f"opens at {page} for {', '.join(origins)}")


def completion(pages: list[str], email: str, password: str, model: str) -> Result:
    """Sign in as the admin and let `model` answer; nothing of it is kept as a chat."""
    page = first_that_answers(pages)
    who = {"email": email, "password": password}
    status, text = request("POST", f"{page}/api/v1/auths/signin", who)
    if status != 200:
        # Somebody who has changed the password in the page has done nothing wrong.
        return warn(
            f"could not be looked at: {email} cannot sign in with the stack's password: {status}",
            "was it changed on the page?",
        )
    wanted = {
        "model": model,
        "messages": [{"role": "user", "content": WORDS}],
        "stream": True,
        "max_tokens": 16,
    }
    token = json.loads(text)["token"]
    try:
        status, text = request("POST", f"{page}/api/chat/completions", wanted, token, timeout=30)
        pieces, whole = _pieces(text)
    except (HTTPException, ValueError) as error:
        status, pieces, whole, text = 0, 0, False, str(error)
    do = "kubectl -n ollama-stack logs deployment/ollama -c gateway --tail=20"
    if status != 200 or not pieces:
        return fail(f"{model} does not answer: {status} {text[:100]}", do)
    if not whole:
        return fail(f"{model}: the answer broke off after {pieces} pieces", do)
    return ok(f"{model} answers in {pieces} pieces")


def metrics(ask: Callable[..., Any]) -> Result:
    """Look whether both pushers' metrics came to Prometheus, in the five minutes it looks back.

    `ask` gives the JSON at a path of Prometheus' API with a query, None if nothing is there.
    """
    query = 'count by (job) ({job=~"ollama-stack/.+"})'
    answer = ask("/api/v1/query", query=query)
    if answer is None:
        return fail("there is no Prometheus", "kubectl -n observability get pods")
    found = {one["metric"]["job"]: int(one["value"][1]) for one in answer["data"]["result"]}
    problems = [f"none of {job} in the last five minutes" for job in sorted(PUSHERS - {*found})]
    do = "kubectl -n ollama-stack logs deployment/ollama -c gateway --tail=20"
    return told(problems, do, f"{sum(found.values())} series of {len(found)} pushers")


def first_that_answers(pages: list[str]) -> str:
    """Give the first of a page's addresses that is well; raises UnreadableError if none is."""
    for page in pages:
        try:
            if request("GET", page + PAGE_HEALTH)[0] == 200:
                return page
        except (OSError, HTTPException):
            continue
    raise UnreadableError("the page answers at none of its addresses")


def _pieces(text: str) -> tuple[int, bool]:
    """Count the pieces of a streamed answer, and say whether it came to its end."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    choices = [choice for event in events for choice in event.get("choices") or []]
    written = [one for one in choices if (one.get("delta") or {}).get("content")]
    return len(written), "[DONE]" in lines


def request(
    method: str, url: str, body: object = None, token: str = "", timeout: float = LIMIT
) -> tuple[int, str]:
    """Give status and text; no proxy is asked, for what is at home is reached directly."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=timeout)) as connection:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        sent = None if body is None else json.dumps(body)
        connection.request(method, parts.path, sent, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
