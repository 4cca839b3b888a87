"""The doctor without a cluster: its command, and checks on something well and on trouble."""

import argparse
import asyncio
import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from errno import EAGAIN, ECONNREFUSED
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from doctor_lab import Scripted, problems
from harness import ROOT, deployed, gpu_config, read, stack_config, two_servers

from ops import doctor, doctor_server, recover, stacks
from ops.cluster import kubelet_days
from ops.doctor_server import Check, Server, Warn
from ops.recover import Interrupted
from ops.releases import Revision
from ops.stacks import Stack

HOME = read(stack_config("home"))
Command = Callable[..., tuple[int, list[str], str]]


def check(run: Any, **server: Any) -> list[str]:
    """Give what a check yields for a server with these fields."""
    return asyncio.run(problems(run, {"settings": HOME, **server}))


def same(found: list[str], expected: str | None) -> bool:
    """Say whether this is the one problem, as a warning or not; None: there is none."""
    wanted = [] if expected is None else [(type(expected), True)]
    return [(type(one), str(expected) in one) for one in found] == wanted


# The command


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs it with an API server and a CLI; gives exit code, lines and errors."""

    def run(server: str, cli: Any, context: str = "homelab", stack: str = "home") -> Any:
        content = {
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        }
        file = tmp_path / "kubeconfig"
        if server:
            file.write_text(yaml.safe_dump(content))
        found = Stack(name="home", cli=cli, kubeconfig=file, simulated=False)
        monkeypatch.setattr(stacks, "find", lambda _: found)
        code = doctor.run(argparse.Namespace(stack=stack))
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"stack": "nowhere"}, r"Pulumi\.nowhere\.yaml: cannot be read: No such file[^\n]+"),
        ({"context": "another"}, r"kubeconfig, context 'homelab': Invalid kube-config[^\n]+"),
        ({"server": ""}, r"kubeconfig, context 'homelab': Invalid kube-config file[^\n]+"),
    ],
)
def test_what_it_cannot_begin_with_is_one_line(
    command: Command, given: dict[str, str], error: str
) -> None:
    code, lines, err = command(**{"server": "https://127.0.0.1:9", "cli": None, **given})

    assert (code, lines) == (1, [])
    assert re.fullmatch(f"error: {error}\n", err)


def test_without_any_answer_it_ends(command: Command) -> None:
    # It takes connections and says nothing, and the CLI does not come back.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server = f"https://127.0.0.1:{mute.getsockname()[1]}"
        code, (api, state, counts), _ = command(server, lambda *_: time.sleep(3600))

    assert code == 1
    assert api.startswith(f"  fail  api        {server}: no answer within 3 s; to do: ")
    assert state.startswith("  fail  state      no answer within 4 s; to do: ")
    assert re.fullmatch(r"  2 fail, 0 warn, 0 ok, 13 skipped; \d+ s", counts)


def test_an_api_and_a_state_that_are_not_there_are_one_line_each(command: Command) -> None:
    gone = CompletedProcess([], 255, "", "error: no stack named\n  'home' found\n")
    code, lines, _ = command("https://127.0.0.1:9", lambda *_: gone)

    api, state = sorted(lines[:2])
    assert (code, len(lines)) == (1, 3)
    assert "https://127.0.0.1:9: [Errno 111] Connection refused; to do:" in api
    assert "pulumi stack export: error: no stack named 'home' found; to do:" in state


async def odd(_: Server) -> AsyncIterator[str]:
    """Nothing is odd."""
    yield Warn("odd")


async def broken(_: Server) -> AsyncIterator[str]:
    """Nothing breaks."""
    yield Warn("odd")
    raise RuntimeError("in\ntwo lines")


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (odd, "  warn  odd        odd; to do: this\n"),
        (broken, "  fail  broken     in two lines; to do: this\n"),
    ],
)
def test_each_check_is_one_line(run: Any, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    server: Any = None

    assert asyncio.run(doctor.run_check(server, Check(run, "", "this"))) == line.split()[0]
    assert capsys.readouterr().out == line


def test_every_check_is_in_the_table_and_leads_to_a_section() -> None:
    section = (ROOT / "docs/operate.md").read_text().partition("\n## make doctor\n")[2]
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    checks = [*doctor.CHECKS, *doctor_server.CHECKS]

    assert rows == [check.run.__name__ for check in checks]
    # That it is there: tests/test_project_files.py.
    assert [check for check in checks if not re.search(r"\(docs/[a-z-]+\.md", check.action)] == []


def test_the_names_are_the_programs() -> None:
    program = deployed("home")
    for kind, (_, names) in doctor.NAMES.items():
        made = {one.inputs["metadata"]["name"] for one in program.of_kind(kind)}
        # Backups are not on in this stack, and MetalLB's namespace is looked for by its CRDs.
        assert made - {"metallb-system"} == {*names.split()} - {"ollama-stack-backup"}
    outputs = {"open_webui_urls", "open_webui_origins", "open_webui_email", "grafana_url", "models"}
    assert outputs | {"open_webui_password"} <= program.outputs.keys()


# Before `up`


@pytest.mark.parametrize(
    ("days", "asked", "expected"),
    [
        (30.5, None, None),
        (300, "kubernetes", None),
        (29.9, None, Warn("its certificate expires in 30 days")),
        (300, "other", "certificate is not valid for 'other'"),
        (-1, None, "certificate has expired"),
    ],
)
def test_the_certificate_of_the_api(
    days: float, asked: str | None, expected: str | None, tmp_path: Path
) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(ca := str(tmp_path / "ca"))
    until = datetime.now(UTC) + timedelta(days=days)
    authority.issue_cert("127.0.0.1", "kubernetes", not_after=until).configure_cert(tls)

    async def look() -> list[str]:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=tls) as server:
            host = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            about = SimpleNamespace(host=host, ssl_ca_cert=ca, tls_server_name=asked)
            return await problems(doctor.api, {"cluster": SimpleNamespace(configuration=about)})

    assert same(asyncio.run(look()), expected)


@pytest.mark.parametrize(
    ("days", "own", "expected"),
    [(300.5, True, 300), (29.5, True, 29), (-1, True, 0), (29.5, False, None)],
)
def test_the_certificate_of_the_kubelet(
    days: float, own: bool, expected: int | None, tmp_path: Path
) -> None:
    """As MicroK8s makes it; one of another authority is not looked at by any API server."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (authority if own else trustme.CA()).issue_cert(
        "evo4t", not_after=datetime.now(UTC) + timedelta(days=days)
    ).configure_cert(tls)
    authority.cert_pem.write_to_path(ca := str(tmp_path / "ca"))
    about: Any = SimpleNamespace(host="https://127.0.0.1:16443", ssl_ca_cert=ca)

    async def look() -> float | None:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(kubelet_days, about, port)

    found = asyncio.run(look())
    assert (None if found is None else int(found)) == expected
    assert kubelet_days(about, 1) is None  # nothing listens there


def test_a_run_that_was_cut_off_comes_first_and_what_it_made_is_the_stacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, labels = "sh.helm.release.v1.kube-prom-stack.v1", {"name": "kube-prom-stack"}
    secret = {"metadata": {"name": name, "namespace": "observability", "labels": labels}}
    volume = {"metadata": {"name": "ollama-stack-models"}}
    begun = {
        "type": "kubernetes:core/v1:PersistentVolume",
        "urn": "urn:pulumi:home::homelab::x::models",
        "inputs": volume,
    }
    last = Revision("observability", "kube-prom-stack", 1, "pending-install", 1790000000)
    left = Interrupted(
        locks=[],
        pending=[{"type": "creating", "resource": begun}],
        revisions=[last],
        volumes=[],
        reasons=["a release is pending-install"],
    )
    monkeypatch.setattr(recover, "inspect", lambda *_: left)
    empty: dict[str, Any] = {"items": []}
    cluster: Any = Scripted(
        secrets={"items": [secret]},
        persistentvolumes={"items": [volume]},
        customresourcedefinitions=empty,
        storageclasses=empty,
        namespaces=empty,
    )
    stack = Stack(name="home", cli=lambda: None, kubeconfig=None, simulated=False)  # type: ignore[arg-type,return-value]

    async def run(*checks: Any) -> list[str]:
        given: Any = {"settings": HOME, "stack": stack, "cluster": cluster, "session": None}
        server = Server(**given)
        return [problem for one in checks async for problem in one(server)]

    assert asyncio.run(run(doctor.releases, doctor.addons, doctor.names)) == [
        "a release is pending-install; make recover STACK=home"
    ]


def test_every_model_server_is_looked_at() -> None:
    raw = two_servers()
    raw["nodes"]["big"] |= {"profile": "hx370", "gpu": {"memory": "64Gi", "groups": [44]}}
    settings = read(raw)
    room = {"cpu": "32", "memory": "125Gi", "amd.com/gpu": "0"}
    status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": room}
    nodes = [
        {"metadata": {"name": name}, "spec": {}, "status": {**status, "capacity": room}}
        for name in settings.nodes
    ]
    volume = {"metadata": {"name": "ollama-stack-models-big"}}
    series = {"job": "ollama-stack/ollama-gateway", "instance": "ollama"}
    page = {"job": "ollama-stack/open-webui", "instance": "open-webui"}
    cluster = Scripted(
        nodes={"items": nodes},
        storageclasses={"items": []},
        namespaces={"items": []},
        persistentvolumes={"items": [volume]},
        query={"data": {"result": [{"metric": labels} for labels in (series, page)]}},
    )

    def found(run: Any) -> list[str]:
        return check(run, settings=settings, cluster=cluster)

    assert found(doctor.nodes) == ["big: amd.com/gpu: got 0, want 1"]
    assert found(doctor.names) == ['PersistentVolume "ollama-stack-models-big" already exists']
    assert found(doctor_server.metrics) == [
        "ollama-stack/ollama-gateway of ollama-big: no metrics in the last 5 minutes"
    ]


@pytest.mark.parametrize(("cordoned", "ready"), [(True, "True"), (None, "Unknown")])
def test_a_node_that_takes_no_pods_fails(cordoned: bool | None, ready: str) -> None:
    room = {"cpu": "24", "memory": "97517568Ki"}
    conditions = [{"type": "Ready", "status": ready}]
    status = {"conditions": conditions, "capacity": room, "allocatable": room}
    node = {"metadata": {"name": "evo4t"}, "spec": {"unschedulable": cordoned}, "status": status}

    found = check(doctor.nodes, cluster=Scripted(nodes={"items": [node]}))
    assert found == ["evo4t is NotReady or SchedulingDisabled"]


@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        ("addon", "metallb.io", None),
        ("addon", "example.org", "network.metallb: got addon, but MetalLB is not installed"),
        ("helm", "example.org", None),
        ("helm", "metallb.io", "network.metallb: got helm, but MetalLB is installed"),
    ],
)
def test_metallb_is_there_or_not_as_wanted(mode: str, group: str, expected: str | None) -> None:
    empty = {name: {"items": None} for name in ("secrets", "clusterroles", "services")}
    definitions = {"items": [{"metadata": {"name": f"pools.{group}"}}]}
    cluster = Scripted(customresourcedefinitions=definitions, **empty)
    settings = SimpleNamespace(network=SimpleNamespace(metallb=mode))

    assert same(check(doctor.addons, settings=settings, cluster=cluster), expected)


@pytest.mark.parametrize(("code", "is_there"), [(0, True), (ECONNREFUSED, True), (EAGAIN, False)])
def test_a_device_with_an_address_of_the_stack_is_seen_at_home(
    code: int, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Probe(socket.socket):
        def connect_ex(self, _: Any) -> int:
            """Give the code, and connect to nothing."""
            return code

    monkeypatch.setattr(doctor, "is_in_lan", lambda _: True)
    monkeypatch.setattr("socket.socket", Probe)
    found = check(doctor.addresses, cluster=Scripted(services={"items": []}))

    addresses = ["192.168.1.101", "192.168.1.102"]
    assert found == [f"{address} is used by a device" for address in addresses if is_there]


def test_where_the_laptop_is() -> None:
    assert doctor_server.is_in_lan("127.0.0.0/8")
    assert not doctor_server.is_in_lan("198.51.100.0/24")


# The running server


def served(run: Any, routes: dict[str, Any], outputs: Any, **server: Any) -> list[str]:
    """Give what a check finds at a page with these `routes`; `PAGE` stands for its URL.

    A route is what it answers: a handler, or a status.
    """

    def handler(answer: Any) -> Any:
        async def handle(_: web.Request) -> web.Response:
            return web.Response(status=answer, text="{}")

        return answer if callable(answer) else handle

    async def look() -> list[str]:
        app = web.Application()
        for path, answer in {"/health": 200, "/api/health": 200, **routes}.items():
            app.router.add_route("*", path, handler(answer))
        async with TestServer(app) as made:
            url = str(made.make_url("")).rstrip("/")
            text = json.dumps({"grafana_url": "PAGE", **outputs}).replace("PAGE", url)
            given = {"settings": HOME, "page": url, "outputs": json.loads(text), **server}
            return await problems(run, given)

    return asyncio.run(look())


def test_a_page_that_does_not_answer_fails_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    page, silent = doctor_server.page, "http://127.0.0.1:9: no answer: Cannot connect"
    nearby = SimpleNamespace(network=SimpleNamespace(lan="127.0.0.0/8"))
    urls = {"open_webui_urls": ["http://127.0.0.1:9", "PAGE"]}

    assert served(page, {}, {"open_webui_urls": ["PAGE"]}) == []
    assert same(served(page, {"/api/health": 502}, {"open_webui_urls": []}), "got 502, want 200")
    assert same(served(page, {}, urls, settings=nearby), silent)
    monkeypatch.setattr(doctor_server, "is_in_lan", lambda _: False)
    assert same(served(page, {}, urls, settings=nearby), Warn(silent))
    assert same(served(page, {}, urls), silent)


def test_a_websocket_that_does_not_open_is_named_by_its_origin() -> None:
    origins = {"open_webui_origins": ["http://evo4t:8080"]}
    found = served(doctor_server.origins, {"/ws/socket.io/": 200}, origins)

    assert same(found, "http://evo4t:8080: does not open: 200")


RIGHT = '{"response":" 9"}\n{"response":", 10"}\n{"response":"","done":true}\n'
WRONG = '{"response":"@"}\n{"response":"@","done":true}\n'
NOISE = "m:1b: got '@@' after '1, 2, 3, 4, 5, 6, 7, 8,', want 9"


@pytest.mark.parametrize(
    ("status", "text", "stack", "expected"),
    [
        (200, RIGHT, "gpu", None),
        (200, WRONG, "home", Warn(NOISE)),
        (200, WRONG, "gpu", NOISE),
        (200, '{"response":" 90","done":true}', "gpu", "m:1b: got ' 90' after"),
        (200, '{"response":" 9"}\n', "home", "want a complete answer"),
        (200, '{"response":" 9"}\n{"error":"broken"}', "home", "'error': 'broken'"),
        (400, '{"detail":"Model not found"}', "home", "got 400 [{'detail': 'Model not found'}]"),
    ],
)
def test_a_model_counts_on(status: int, text: str, stack: str, expected: str | None) -> None:
    asked: list[Any] = []

    async def sign_in(request: web.Request) -> web.Response:
        account = await request.json()
        return web.json_response({"token": f"{account['email']} {account['password']}"})

    async def generate(request: web.Request) -> web.Response:
        asked.append((request.headers["Authorization"], await request.json()))
        return web.Response(status=status, text=text)

    found = served(
        doctor_server.answer,
        {"/api/v1/auths/signin": sign_in, "/ollama/api/generate/0": generate},
        {"open_webui_email": "a@b", "models": ["m:1b", "other:1b"]},
        settings=read(gpu_config()) if stack == "gpu" else HOME,
        stack=SimpleNamespace(cli=lambda *_: CompletedProcess([], 0, "secret\n", "")),
    )

    assert same(found, expected)
    ((token, body),) = asked
    assert token == "Bearer a@b secret"
    assert body.pop("prompt").endswith(" 8,")
    assert body.pop("options")["temperature"] == 0
    assert body == {"model": "m:1b", "raw": True, "stream": True}


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_model_that_is_still_loading_is_a_warning(
    is_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sign_in(_: web.Request) -> web.Response:
        return web.json_response({"token": "t"})

    async def load(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if is_begun:
            await response.prepare(request)
        await asyncio.Event().wait()
        return response

    monkeypatch.setattr(doctor_server, "ANSWER_SECONDS", 0.2)
    found = served(
        doctor_server.answer,
        {"/api/v1/auths/signin": sign_in, "/ollama/api/generate/0": load},
        {"open_webui_email": "a@b", "models": ["m:1b"]},
        settings=read(gpu_config()),
        stack=SimpleNamespace(cli=lambda *_: CompletedProcess([], 0, "secret\n", "")),
    )

    assert same(found, Warn("m:1b: no complete answer yet: it may be loading; try again"))


def test_each_server_is_asked_by_its_place_in_the_list() -> None:
    async def sign_in(_: web.Request) -> web.Response:
        return web.json_response({"token": "t"})

    async def right(_: web.Request) -> web.Response:
        return web.Response(text=RIGHT)

    found = served(
        doctor_server.answer,
        {
            "/api/v1/auths/signin": sign_in,
            "/ollama/api/generate/0": right,
            "/ollama/api/generate/1": 500,
        },
        {"open_webui_email": "a@b", "models": ["m:1b"]},
        settings=read(two_servers()),
        stack=SimpleNamespace(cli=lambda *_: CompletedProcess([], 0, "secret\n", "")),
    )

    assert same(found, "llama3.3:70b: got 500")


def test_a_volume_below_the_mount_point_of_the_disk_fails() -> None:
    labels = {"namespace": "ollama-stack", "persistentvolumeclaim": "open-webui"}
    cluster = Scripted(query={"data": {"result": [{"metric": labels}]}})
    well = Scripted(query={"data": {"result": []}})

    assert check(doctor_server.volumes, cluster=well) == []
    assert same(check(doctor_server.volumes, cluster=cluster), "ollama-stack/open-webui: the data")


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (["47.9"], None),
        (["48.4"], "last successful backup: got 48 h ago, want 48 h or less"),
        ([], Warn("no successful backup in 60 days")),
    ],
)
def test_backups_are_there_and_not_too_old(age: list[str], expected: str | None) -> None:
    kept = SimpleNamespace(webui=SimpleNamespace(backup=SimpleNamespace(hours=24)))
    cluster = Scripted(query={"data": {"result": [{"value": [0, one]} for one in age]}})

    assert same(check(doctor_server.backups, settings=kept, cluster=cluster), expected)
    assert same(check(doctor_server.backups), Warn("webui.backup is not set"))
