"""`make doctor` without a cluster: the command, and its checks on scripted servers."""

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
from ops.__main__ import main
from ops.cluster import kubelet_days
from ops.doctor_server import Check, Server, Warn
from ops.recover import Interrupted
from ops.releases import Revision
from ops.stacks import Stack

HOME = read(stack_config("home"))
Command = Callable[..., tuple[int, list[str], str]]


def check(run: Any, **server: Any) -> list[str]:
    """Return what a check yields for a Server with these fields."""
    return asyncio.run(problems(run, {"settings": HOME, **server}))


def is_only(results: list[str], expected: str | None) -> bool:
    """Return whether the only result has this type, str or Warn, and text; None: no result."""
    types = [] if expected is None else [(type(expected), True)]
    return [(type(result), str(expected) in result) for result in results] == types


# The command


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs the command with an API server and a CLI; returns exit code, lines and errors."""

    def run(server: str, cli: Any, context: str = "homelab") -> Any:
        content = {
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        }
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(content))
        target = Stack(name="home", cli=cli, kubeconfig=file)
        monkeypatch.setattr(stacks, "find", lambda _: target)
        code = main(["doctor", "--stack", "home"])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def test_a_missing_context_is_one_line(command: Command) -> None:
    code, lines, err = command("https://127.0.0.1:9", None, context="another")

    assert (code, lines) == (1, [])
    want = "want the context 'homelab': Expected"
    assert re.fullmatch(rf"error: kubeconfig: got '[^\n]+, {want} [^\n]+\n", err)


def test_without_any_answer_the_command_ends(command: Command) -> None:
    # The server accepts connections and does not answer; the CLI does not return.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server = f"https://127.0.0.1:{mute.getsockname()[1]}"
        code, (api, state, counts), _ = command(server, lambda *_: time.sleep(3600))

    assert code == 1
    assert api.startswith(f"  fail  api        {server}: no answer within 3 s; to do: ")
    assert state.startswith("  fail  state      no answer within 6 s; to do: ")
    assert re.fullmatch(r"  2 fail, 0 warn, 0 ok, 14 skipped; \d+ s", counts)


def test_an_unreachable_api_and_a_missing_state_are_one_line_each(command: Command) -> None:
    missing = CompletedProcess([], 255, "", "error: no stack named\n  'home' found\n")
    code, lines, _ = command("https://127.0.0.1:9", lambda *_: missing)

    api, state = sorted(lines[:2])
    assert (code, len(lines)) == (1, 3)
    assert "https://127.0.0.1:9: [Errno 111] Connection refused; to do:" in api
    assert "pulumi stack export: error: no stack named 'home' found; to do:" in state


async def odd(_: Server) -> AsyncIterator[str]:
    """Yields a warning."""
    yield Warn("odd")


async def broken(_: Server) -> AsyncIterator[str]:
    """Yields a warning and raises an error."""
    yield Warn("odd")
    raise RuntimeError("in\ntwo lines")


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (odd, "  warn  odd        odd; to do: this\n"),
        (broken, "  fail  broken     in two lines; to do: this\n"),
    ],
)
def test_each_check_prints_one_line(
    run: Any, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server: Any = None

    assert asyncio.run(doctor.run_check(server, Check(run, "", "this"))) == line.split()[0]
    assert capsys.readouterr().out == line


def test_every_check_is_in_the_table_of_the_docs_and_has_a_link() -> None:
    section = (ROOT / "docs/operate.md").read_text().partition("\n## make doctor\n")[2]
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    checks = [*doctor.CHECKS, *doctor_server.CHECKS]

    assert rows == [check.run.__name__ for check in checks]
    assert [check for check in checks if not re.search(r"\(docs/[a-z-]+\.md", check.action)] == []


def test_the_doctor_knows_the_names_of_the_programs_objects_and_outputs() -> None:
    program = deployed("home")
    for kind, (_, names) in doctor.NAMES.items():
        declared = {resource.inputs["metadata"]["name"] for resource in program.of_kind(kind)}
        # This stack has no backups; MetalLB is found by its CRDs.
        assert declared - {"metallb-system"} == {*names.split()} - {"ollama-stack-backup"}
    outputs = {"open_webui_urls", "open_webui_origins", "open_webui_email", "grafana_url", "models"}
    assert outputs | {"open_webui_password"} <= program.outputs.keys()


# Before `up`


@pytest.mark.parametrize(
    ("days", "server_name", "expected"),
    [
        (30.5, None, None),
        (300, "kubernetes", None),
        (29.9, None, Warn("the certificate expires in 30 days")),
        (300, "other", "certificate is not valid for 'other'"),
        (-1, None, "certificate has expired"),
    ],
)
def test_the_api_certificate_is_checked_for_name_and_expiry(
    days: float, server_name: str | None, expected: str | None, tmp_path: Path
) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(ca := str(tmp_path / "ca"))
    until = datetime.now(UTC) + timedelta(days=days)
    authority.issue_cert("127.0.0.1", "kubernetes", not_after=until).configure_cert(tls)

    async def look() -> list[str]:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=tls) as server:
            host = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            configuration = SimpleNamespace(host=host, ssl_ca_cert=ca, tls_server_name=server_name)
            return await problems(
                doctor.api, {"cluster": SimpleNamespace(configuration=configuration)}
            )

    assert is_only(asyncio.run(look()), expected)


@pytest.mark.parametrize(
    ("days", "same_authority", "expected"),
    [(300.5, True, 300), (29.5, True, 29), (-1, True, 0), (29.5, False, None)],
)
def test_the_kubelet_certificate_of_the_clusters_authority_is_checked_for_expiry(
    days: float, same_authority: bool, expected: int | None, tmp_path: Path
) -> None:
    """As in MicroK8s; one of another authority is not the API server's."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (authority if same_authority else trustme.CA()).issue_cert(
        "evo4t", not_after=datetime.now(UTC) + timedelta(days=days)
    ).configure_cert(tls)
    authority.cert_pem.write_to_path(ca := str(tmp_path / "ca"))
    configuration: Any = SimpleNamespace(host="https://127.0.0.1:16443", ssl_ca_cert=ca)

    async def look() -> float | None:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(kubelet_days, configuration, port)

    days_left = asyncio.run(look())
    assert (None if days_left is None else int(days_left)) == expected
    assert kubelet_days(configuration, 1) is None  # nothing listens there


def test_an_interrupted_up_is_the_only_problem_and_its_objects_are_no_conflicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, labels = "sh.helm.release.v1.kube-prom-stack.v1", {"name": "kube-prom-stack"}
    secret = {"metadata": {"name": name, "namespace": "observability", "labels": labels}}
    volume = {"metadata": {"name": "ollama-stack-models"}}
    created = {
        "type": "kubernetes:core/v1:PersistentVolume",
        "urn": "urn:pulumi:home::homelab::x::models",
        "inputs": volume,
    }
    last = Revision("observability", "kube-prom-stack", 1, "pending-install", 1790000000)
    interrupted = Interrupted(
        locks=[],
        pending=[{"type": "creating", "resource": created}],
        revisions=[last],
        volumes=[],
        reasons=["a release is pending-install"],
    )
    monkeypatch.setattr(recover, "inspect", lambda *_: interrupted)
    empty: dict[str, Any] = {"items": []}
    cluster: Any = Scripted(
        secrets={"items": [secret]},
        persistentvolumes={"items": [volume]},
        customresourcedefinitions=empty,
        storageclasses=empty,
        namespaces=empty,
    )
    stack = Stack(name="home", cli=lambda: None, kubeconfig=None)  # type: ignore[arg-type,return-value]

    async def run(*checks: Any) -> list[str]:
        fields: Any = {"settings": HOME, "stack": stack, "cluster": cluster, "session": None}
        server = Server(**fields)
        return [problem for step in checks async for problem in step(server)]

    assert asyncio.run(run(doctor.releases, doctor.addons, doctor.names)) == [
        "a release is pending-install; make recover STACK=home"
    ]


def test_checks_cover_every_model_server() -> None:
    raw = two_servers()
    raw["nodes"]["big"] |= {"profile": "hx370", "gpu": {"memory": "64Gi", "groups": [44]}}
    settings = read(raw)
    capacity = {"cpu": "32", "memory": "125Gi", "amd.com/gpu": "0"}
    status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": capacity}
    nodes = [
        {"metadata": {"name": name}, "spec": {}, "status": {**status, "capacity": capacity}}
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

    def results(run: Any) -> list[str]:
        return check(run, settings=settings, cluster=cluster)

    assert results(doctor.nodes) == ["big: amd.com/gpu: got 0, want 1"]
    assert results(doctor.names) == ['PersistentVolume "ollama-stack-models-big" already exists']
    assert results(doctor_server.metrics) == [
        "ollama-stack/ollama-gateway of ollama-big: no metrics in the last 5 minutes"
    ]


@pytest.mark.parametrize(("cordoned", "ready"), [(True, "True"), (None, "Unknown")])
def test_a_node_that_is_not_ready_or_cordoned_fails(cordoned: bool | None, ready: str) -> None:
    capacity = {"cpu": "24", "memory": "97517568Ki"}
    conditions = [{"type": "Ready", "status": ready}]
    status = {"conditions": conditions, "capacity": capacity, "allocatable": capacity}
    node = {"metadata": {"name": "evo4t"}, "spec": {"unschedulable": cordoned}, "status": status}

    results = check(doctor.nodes, cluster=Scripted(nodes={"items": [node]}))
    assert results == ["evo4t is NotReady or SchedulingDisabled"]


@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        ("addon", "metallb.io", None),
        ("addon", "example.org", "network.metallb: got addon, but MetalLB is not installed"),
        ("helm", "example.org", None),
        ("helm", "metallb.io", "network.metallb: got helm, but MetalLB is installed"),
    ],
)
def test_metallb_must_be_installed_with_addon_and_not_with_helm(
    mode: str, group: str, expected: str | None
) -> None:
    empty = {name: {"items": None} for name in ("secrets", "clusterroles", "services")}
    definitions = {"items": [{"metadata": {"name": f"pools.{group}"}}]}
    cluster = Scripted(customresourcedefinitions=definitions, **empty)
    settings = SimpleNamespace(network=SimpleNamespace(metallb=mode))

    assert is_only(check(doctor.addons, settings=settings, cluster=cluster), expected)


@pytest.mark.parametrize(("error", "is_device"), [(0, True), (ECONNREFUSED, True), (EAGAIN, False)])
def test_an_address_that_answers_is_used_by_a_device(
    error: int, is_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Probe(socket.socket):
        def connect_ex(self, _: Any) -> int:
            """Return the error number without connecting."""
            return error

    monkeypatch.setattr(doctor, "is_in_lan", lambda _: True)
    monkeypatch.setattr("socket.socket", Probe)
    results = check(doctor.addresses, cluster=Scripted(services={"items": []}))

    addresses = ["192.168.1.101", "192.168.1.102"]
    assert results == [f"{address} is used by a device" for address in addresses if is_device]


def test_the_laptop_is_in_the_lan_if_it_has_an_address_there() -> None:
    assert doctor_server.is_in_lan("127.0.0.0/8")
    assert not doctor_server.is_in_lan("198.51.100.0/24")


# The running server


def served(run: Any, routes: dict[str, Any], outputs: Any, **server: Any) -> list[str]:
    """Return what a check yields for a chat page with these `routes`: handlers or statuses.

    `PAGE` in the outputs stands for its URL.
    """

    def handler(answer: Any) -> Any:
        async def handle(_: web.Request) -> web.Response:
            return web.Response(status=answer, text="{}")

        return answer if callable(answer) else handle

    async def look() -> list[str]:
        app = web.Application()
        for path, answer in {"/health": 200, "/api/health": 200, **routes}.items():
            app.router.add_route("*", path, handler(answer))
        async with TestServer(app) as test_server:
            url = str(test_server.make_url("")).rstrip("/")
            text = json.dumps({"grafana_url": "PAGE", **outputs}).replace("PAGE", url)
            fields = {"settings": HOME, "page": url, "outputs": json.loads(text), **server}
            return await problems(run, fields)

    return asyncio.run(look())


def test_an_unreachable_page_fails_in_the_lan_and_is_a_warning_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page, silent = doctor_server.page, "http://127.0.0.1:9: no answer: Cannot connect"
    nearby = SimpleNamespace(network=SimpleNamespace(lan="127.0.0.0/8"))
    urls = {"open_webui_urls": ["http://127.0.0.1:9", "PAGE"]}

    assert served(page, {}, {"open_webui_urls": ["PAGE"]}) == []
    assert is_only(served(page, {"/api/health": 502}, {"open_webui_urls": []}), "got 502, want 200")
    assert is_only(served(page, {}, urls, settings=nearby), silent)
    monkeypatch.setattr(doctor_server, "is_in_lan", lambda _: False)
    assert is_only(served(page, {}, urls, settings=nearby), Warn(silent))
    assert is_only(served(page, {}, urls), silent)


def test_a_websocket_that_does_not_open_is_reported_with_its_origin() -> None:
    origins = {"open_webui_origins": ["http://evo4t:8080"]}
    results = served(doctor_server.origins, {"/ws/socket.io/": 200}, origins)

    assert is_only(results, "http://evo4t:8080: does not open: 200")


async def sign_in(request: web.Request) -> web.Response:
    """Return a token that has email address and password."""
    account = await request.json()
    return web.json_response({"token": f"{account['email']} {account['password']}"})


RIGHT = '{"response":" 9"}\n{"response":", 10"}\n{"response":"","done":true}\n'
WRONG = '{"response":"@"}\n{"response":"@","done":true}\n'
WITH_PASSWORD = SimpleNamespace(cli=lambda *_: CompletedProcess([], 0, "secret\n", ""))
"""A stack whose CLI prints the page's password."""
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
def test_a_model_must_continue_a_sequence_of_numbers(
    status: int, text: str, stack: str, expected: str | None
) -> None:
    requests: list[Any] = []

    async def generate(request: web.Request) -> web.Response:
        requests.append((request.headers["Authorization"], await request.json()))
        return web.Response(status=status, text=text)

    results = served(
        doctor_server.answer,
        {"/api/v1/auths/signin": sign_in, "/ollama/api/generate/0": generate},
        {"open_webui_email": "a@b", "models": ["m:1b", "other:1b"]},
        settings=read(gpu_config()) if stack == "gpu" else HOME,
        stack=WITH_PASSWORD,
    )

    assert is_only(results, expected)
    ((token, body),) = requests
    assert token == "Bearer a@b secret"
    assert body.pop("prompt").endswith(" 8,")
    assert body.pop("options")["temperature"] == 0
    assert body == {"model": "m:1b", "raw": True, "stream": True}


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_model_that_is_still_loading_is_a_warning(
    is_streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if is_streaming:
            await response.prepare(request)
        await asyncio.Event().wait()
        return response

    monkeypatch.setattr(doctor_server, "ANSWER_SECONDS", 0.2)
    results = served(
        doctor_server.answer,
        {"/api/v1/auths/signin": sign_in, "/ollama/api/generate/0": load},
        {"open_webui_email": "a@b", "models": ["m:1b"]},
        settings=read(gpu_config()),
        stack=WITH_PASSWORD,
    )

    assert is_only(results, Warn("m:1b: no complete answer yet: it may be loading; try again"))


def test_all_servers_are_asked_at_once_each_by_its_place_in_the_list() -> None:
    second_asked = asyncio.Event()

    async def sign_in(_: web.Request) -> web.Response:
        return web.json_response({"token": "t"})

    async def right(_: web.Request) -> web.Response:
        await second_asked.wait()
        return web.Response(text=RIGHT)

    async def wrong(_: web.Request) -> web.Response:
        second_asked.set()
        return web.Response(status=500, text="{}")

    results = served(
        doctor_server.answer,
        {
            "/api/v1/auths/signin": sign_in,
            "/ollama/api/generate/0": right,
            "/ollama/api/generate/1": wrong,
        },
        {"open_webui_email": "a@b", "models": ["m:1b"]},
        settings=read(two_servers()),
        stack=WITH_PASSWORD,
    )

    assert is_only(results, "llama3.3:70b: got 500")


def test_a_volume_below_the_mount_point_of_the_disk_fails() -> None:
    labels = {"namespace": "ollama-stack", "persistentvolumeclaim": "open-webui"}
    cluster = Scripted(query={"data": {"result": [{"metric": labels}]}})
    well = Scripted(query={"data": {"result": []}})

    assert check(doctor_server.volumes, cluster=well) == []
    assert is_only(
        check(doctor_server.volumes, cluster=cluster), "ollama-stack/open-webui: the data"
    )


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (["47.9"], None),
        (["48.4"], "last successful backup: got 48 h ago, want 48 h or less"),
        ([], Warn("no successful backup in 60 days")),
    ],
)
def test_the_last_backup_must_be_recent(age: list[str], expected: str | None) -> None:
    with_backups = SimpleNamespace(webui=SimpleNamespace(backup=SimpleNamespace(hours=24)))
    cluster = Scripted(query={"data": {"result": [{"value": [0, value]} for value in age]}})

    assert is_only(check(doctor_server.backups, settings=with_backups, cluster=cluster), expected)
    assert is_only(check(doctor_server.backups), Warn("webui.backup is not set"))


@pytest.mark.parametrize(
    ("protect", "copies_kept", "warned"), [(True, False, True), (True, True, False), (False,) * 3]
)
def test_until_the_owner_confirms_it_the_copies_are_a_warning(
    protect: bool, copies_kept: bool, warned: bool
) -> None:
    settings = SimpleNamespace(protect=protect, copies_kept=copies_kept)
    expected = Warn("state, passphrase and backup password") if warned else None

    assert is_only(check(doctor_server.copies, settings=settings), expected)
