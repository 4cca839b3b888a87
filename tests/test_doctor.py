"""The doctor's checks that need no cluster, each on something well and on something planted."""

import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import pytest
import trustme
import yaml
from harness import ROOT, deployed, read, stack_config

from config.settings import Backup, Settings, Volume
from ops import (
    doctor,
    doctor_cluster,
    doctor_disk,
    doctor_disk_look,
    doctor_house,
    doctor_images,
    doctor_laptop,
    doctor_taken,
)
from ops.doctor_checks import Check, Result, fail, ok, warn
from ops.doctor_checks import run as run_checks
from ops.stacks import Stack

Answer = tuple[int, Mapping[str, str], str]
Answers = Callable[[str, str, Mapping[str, str]], Answer]
ODD = "example.org/odd:1.0.0"


@contextmanager
def served(answers: Answers, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer method, path and headers with status, headers and text; give the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, text = answers(self.command, self.path, dict(self.headers))
            self.send_response_only(status)
            body = text.encode()
            given = {"Content-Length": str(len(body)), "Connection": "close", **headers}
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Keep silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def settings() -> Settings:
    """The settings of the house."""
    return read(stack_config("home"))


# How checks are run


def test_each_check_is_told_in_order_and_none_takes_another_along() -> None:
    def broken() -> Result:
        raise RuntimeError("no such thing")

    def slow() -> Result:
        time.sleep(5)
        return ok("late")

    began = time.monotonic()
    looks = [("slow", slow), ("broken", broken), ("well", lambda: ok("well"))]
    found = run_checks([Check(name, "", look, 0.3) for name, look in looks])

    assert [(check.name, result) for check, result in found] == [
        ("slow", warn("could not be looked at: no answer within 0.3 s")),
        ("broken", warn("could not be looked at: no such thing")),
        ("well", ok("well")),
    ]
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("results", "code"),
    [([ok("a"), warn("b")], 0), ([ok("a"), fail("b", "c")], 1), ([], 0)],
)
def test_only_what_fails_makes_the_exit_code(
    results: list[Result],
    code: int,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    looks = [Check(f"check{n}", "page.md", lambda one=one: one) for n, one in enumerate(results)]  # type: ignore[misc]
    looks.append(Check("last", "page.md", lambda: ok("there")))
    monkeypatch.setattr(doctor, "find", lambda _: house_of(settings))
    monkeypatch.setattr(doctor, "before", lambda _: looks)
    monkeypatch.setattr("sys.argv", ["doctor", "--stack", "home"])

    assert doctor.main() == code
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(results) + 2
    assert all(word in shown[1] for word in ["b", "page.md"] if results)

    monkeypatch.setattr("sys.argv", ["doctor", "--stack", "home", "--json"])
    assert doctor.main() == code
    told = json.loads(capsys.readouterr().out)
    assert told["code"] == code
    assert [one["level"] for one in told["checks"]] == [one.level for one in results] + ["ok"]


def test_what_cannot_even_be_begun_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["doctor", "--stack", "nowhere"])

    assert doctor.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: Pulumi\.nowhere\.yaml: cannot be read: [^\n]+\n", err)


def house_of(settings: Settings, exported: str = "{}") -> doctor.House:
    """A house of which only the files are there."""

    def cli(*_: str) -> CompletedProcess[str]:
        return CompletedProcess([], 1, "", "error: not here")

    stack = Stack(name="home", cli=cli, kubeconfig=Path("/nonexistent"), simulated=False)
    return doctor.House(
        stack=stack,
        stack_file=ROOT / "Pulumi.home.yaml",
        settings=settings,
        program=deployed(),
        exported=CompletedProcess([], 0, exported, ""),
    )


def test_without_a_kubeconfig_the_way_fails_and_the_rest_warns(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_images, "_ask", lambda _: 200)
    found = {one.name: result for one, result in run_checks(doctor.before(house_of(settings)))}

    assert found["api"].level == "fail"
    assert "context 'homelab'" in found["api"].text
    unseen = {"rights", "version", "rbac", "dns", "marks", "nodes", "observability", "metallb"}
    unseen |= {"names", "addresses", "disk"}
    assert {found[name].level for name in unseen} == {"warn"}
    assert {found[name].text[:23] for name in unseen} == {"could not be looked at:"}
    assert found.keys() == unseen | {
        "tools",
        "state",
        "passphrase",
        "api",
        "gpu",
        "backups",
        "images",
    }


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_every_check_is_in_the_table_and_leads_to_a_section(settings: Settings) -> None:
    house = house_of(settings)
    looks = [*doctor.before(house), *doctor.after(house)]
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE)

    assert rows == [one.name for one in looks]
    for one in looks:
        page, _, anchor = one.page.partition("#")
        assert (ROOT / page).exists(), one
        assert not anchor or anchor in anchors(ROOT / page), one


# The laptop


@pytest.mark.parametrize(
    ("told", "level"), [("v3.250.0", "ok"), ("v3.300.1", "ok"), ("v3.99.0", "fail"), (None, "fail")]
)
def test_the_cli_is_new_enough(tmp_path: Path, told: str | None, level: str) -> None:
    pulumi = tmp_path / "pulumi"
    pulumi.write_text(f"#!/bin/sh\necho {told}\n")
    pulumi.chmod(0o755)

    assert doctor_laptop.tools(str(pulumi) if told else None).level == level


@pytest.mark.parametrize(
    ("code", "error", "level", "text"),
    [
        (0, "", "ok", "stack home, 2 resources"),
        (6, "error: no stack named 'home' found", "fail", "there is no stack home"),
        (1, "error: unable to open bucket s3://x", "fail", "unable to open bucket s3://x"),
    ],
)
def test_the_state_is_told(code: int, error: str, level: str, text: str) -> None:
    made = json.dumps({"deployment": {"resources": [{}, {}]}})
    found = doctor_laptop.state("home", CompletedProcess([], code, made, error))

    assert found.level == level
    assert text in found.text


def test_a_backend_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_laptop, "PATIENCE", 0.2)

    def cli(*_: str) -> CompletedProcess[str]:
        time.sleep(5)
        return CompletedProcess([], 0, "{}", "")

    began = time.monotonic()
    found = doctor_laptop.state("home", doctor_laptop.exported(cli))

    assert (found.level, "no answer within 0.2 s" in found.text) == ("fail", True)
    assert time.monotonic() - began < 3


@contextmanager
def api_server(
    kubeconfig: Path,
    *,
    names: list[str],
    days: float = 300,
    behind: float = 0,
    known: bool = True,
    **cluster: object,
) -> Iterator[None]:
    """Run a server with a certificate for `names`, good for `days`, and write its kubeconfig."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    until = datetime.now(UTC) + timedelta(days=days)
    authority.issue_cert(*names, not_after=until).configure_cert(tls)
    (authority if known else trustme.CA()).cert_pem.write_to_path(
        str(kubeconfig.with_suffix(".pem"))
    )

    def answers(*_: object) -> Answer:
        moment = datetime.now(UTC) - timedelta(seconds=behind)
        return 401, {"Date": format_datetime(moment, usegmt=True)}, "{}"

    with served(answers, tls) as port:
        about = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority": str(kubeconfig.with_suffix(".pem")),
            **cluster,
        }
        write_kubeconfig(kubeconfig, about)
        yield


def write_kubeconfig(file: Path, cluster: Mapping[str, object]) -> None:
    content = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "homelab", "context": {"cluster": "c", "user": "u"}}],
    }
    file.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("about", "level", "text"),
    [
        ({"names": ["127.0.0.1"]}, "ok", "certificate for 299 days, clocks"),
        ({"names": ["kubernetes"]}, "fail", "its certificate is not for 127.0.0.1"),
        ({"names": ["kubernetes"], "tls-server-name": "kubernetes"}, "ok", "as kubernetes"),
        ({"names": ["127.0.0.1"], "tls-server-name": "other"}, "fail", "is not for other"),
        ({"names": ["127.0.0.1"], "days": -1}, "fail", "its certificate has expired"),
        ({"names": ["127.0.0.1"], "days": 20.5}, "warn", "certificate for 20 days"),
        ({"names": ["127.0.0.1"], "behind": 600}, "warn", "clocks 600 s apart"),
        ({"names": ["127.0.0.1"], "known": False}, "fail", "its certificate: "),
        ({"names": ["127.0.0.1"], "insecure-skip-tls-verify": True}, "fail", "is not verified"),
    ],
)
def test_the_way_to_the_api(tmp_path: Path, about: dict[str, Any], level: str, text: str) -> None:
    file = tmp_path / "kubeconfig"
    with api_server(file, **about):
        found = doctor_laptop.connection("homelab", file)

    assert found.level == level, found
    assert re.sub(r"60[012] s", "600 s", found.text).find(text) >= 0, found


def test_no_way_to_the_api(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    write_kubeconfig(file, {"server": f"https://127.0.0.1:{closed_port()}"})

    assert "no answer: " in doctor_laptop.connection("homelab", file).text
    assert doctor_laptop.connection("another", file).level == "fail"


def test_where_the_laptop_is() -> None:
    assert doctor_laptop.at_home("127.0.0.0/8", "127.0.0.1")
    assert not doctor_laptop.at_home("192.0.2.0/24", "127.0.0.1")


# Images


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("redis:7.0.1", ("registry-1.docker.io", "library/redis", "7.0.1")),
        ("ollama/ollama:0.40.16@sha256:ab", ("registry-1.docker.io", "ollama/ollama", "sha256:ab")),
        ("ghcr.io/a/b:v1.2.3", ("ghcr.io", "a/b", "v1.2.3")),
        ("localhost:5000/b:1.2.3", ("localhost:5000", "b", "1.2.3")),
    ],
)
def test_an_images_name_is_read_as_docker_reads_it(name: str, where: tuple[str, ...]) -> None:
    assert doctor_images.place(name) == where


def registry(port: Callable[[], int]) -> Answers:
    """A registry with one image, for those who come with the token that it gives to everybody."""

    def answers(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if path.startswith("/token?service=here&scope=repository%3Aa/b%3Apull"):
            return 200, {}, json.dumps({"token": "everybody"})
        if path.startswith("/v2/broken/"):
            return 503, {}, ""
        if headers.get("Authorization") != "Bearer everybody":
            realm = f"http://127.0.0.1:{port()}/token"
            ask = f'Bearer realm="{realm}",service="here",scope="repository:a/b:pull"'
            return 401, {"WWW-Authenticate": ask}, ""
        known = "oci.image.index" in headers["Accept"] and method == "HEAD"
        return (200 if known and path == "/v2/a/b/manifests/1.0.0" else 404), {}, ""

    return answers


def test_images_are_asked_for_with_the_token_that_the_registry_gives() -> None:
    ports: list[int] = []
    with served(registry(lambda: ports[0])) as port:
        ports.append(port)
        here = f"127.0.0.1:{port}"
        assert doctor_images.images([f"{here}/a/b:1.0.0"]).level == "ok"
        gone = doctor_images.images([f"{here}/a/b:1.0.0", f"{here}/a/b:2.0.0"])
        broken = doctor_images.images([f"{here}/broken:1.0.0"])
    offline = doctor_images.images([f"{here}/a/b:1.0.0"])

    assert (gone.level, gone.text) == ("fail", f"{here}/a/b:2.0.0: 404, not there or not public")
    assert (broken.level, broken.text[-3:]) == ("warn", "503")
    assert offline.level == "warn"
    assert "could not be asked for" in offline.text


# The cluster, as far as no real one can be made to be so


class Scripted:
    """A cluster that gives what it is told to at each path."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers

    def ask(self, path: str, *_: str, **__: str) -> Any:
        """Give what is at `path`."""
        return self.answers.get(path)


@pytest.mark.parametrize(
    ("major", "minor", "level"),
    [("1", "36+", "ok"), ("1", "36", "ok"), ("1", "37", "warn"), ("1", "28", "fail")],
)
def test_the_servers_version(major: str, minor: str, level: str) -> None:
    about = {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.1"}
    cluster: Any = Scripted({"/version": about})

    assert doctor_cluster.version(cluster).level == level


@pytest.mark.parametrize(
    ("allocatable", "level"),
    [({"amd.com/gpu": "1"}, "ok"), ({"amd.com/gpu": "0"}, "fail"), ({}, "fail"), (None, "fail")],
)
def test_a_gpu_that_is_asked_for_is_there(allocatable: dict[str, str] | None, level: str) -> None:
    node = None if allocatable is None else {"status": {"allocatable": allocatable}}
    cluster: Any = Scripted({"/api/v1/nodes/evo4t": node})

    assert doctor_cluster.gpu(cluster, "evo4t", "amd.com/gpu").level == level


@pytest.mark.parametrize(
    ("mode", "definitions", "level"),
    [
        ("helm", ["prometheuses.monitoring.coreos.com"], "ok"),
        ("helm", ["ipaddresspools.metallb.io"], "fail"),
        ("addon", ["ipaddresspools.metallb.io"], "ok"),
        ("addon", [], "fail"),
    ],
)
def test_metallb_is_there_or_not_as_wanted(mode: str, definitions: list[str], level: str) -> None:
    found = [{"metadata": {"name": name}} for name in definitions]
    cluster: Any = Scripted({doctor_taken.DEFINITIONS: {"items": found}})

    assert doctor_taken.metallb(cluster, None, mode).level == level


@pytest.mark.parametrize(
    ("other", "together"),
    [
        ("192.168.1.102/32", True),
        ("192.168.1.90-192.168.1.101", True),
        ("192.168.1.103-192.168.1.110", False),
        ("10.0.0.0/8", False),
        ("fd00::1-fd00::9", False),
    ],
)
def test_ranges_that_overlap(other: str, together: bool) -> None:
    assert doctor_taken._overlap("192.168.1.101-192.168.1.102", other) == together


def test_a_device_with_our_address_is_seen_at_home() -> None:
    cluster: Any = Scripted({"/api/v1/services": {"items": []}})
    program = deployed()

    def look(port: int, lan: str = "127.0.0.0/8", is_up: bool = False) -> Result:
        wanted = {"127.0.0.1": port}
        pool = "127.0.0.1-127.0.0.1"
        return doctor_taken.addresses(cluster, program, wanted, pool, lan, is_up=is_up)

    with socket.create_server(("127.0.0.1", 0)) as device:
        port = device.getsockname()[1]
        assert look(port) == fail("127.0.0.1 is a device's", look(port).do)
        # One that refuses is there, too.
        assert look(closed_port()).level == "fail"
        assert look(port, is_up=True).level == "ok"
        assert look(port, lan="192.0.2.0/24").level == "warn"


# The disk


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`'s."""
    folder = Path("/dev/shm") / f"doctor-{os.getpid()}"
    folder.mkdir()
    assert folder.stat().st_dev != tmp_path.stat().st_dev
    yield folder
    shutil.rmtree(folder)


def test_an_unmounted_disk_is_seen(tmp_path: Path) -> None:
    (tmp_path / "data" / "models").mkdir(parents=True)

    (problem,) = doctor_disk_look.problems(tmp_path, "/mnt/data", ["/mnt/data/models"])
    assert problem.startswith("/mnt/data is not mounted")
    assert doctor_disk_look.problems(tmp_path, "/mnt/none", []) == [
        "/mnt/none: No such file or directory"
    ]


def test_a_mounted_disk_is_told_from_one_that_lacks_directories(
    tmp_path: Path, other_disk: Path
) -> None:
    (tmp_path / "data").symlink_to(other_disk)
    (other_disk / "models").mkdir()
    (other_disk / "a file").touch()
    (tmp_path / "elsewhere").mkdir()
    (other_disk / "leads away").symlink_to(tmp_path / "elsewhere")

    def look(*names: str) -> list[str]:
        paths = [f"/mnt/data/{name}" for name in names]
        return doctor_disk_look.problems(tmp_path, "/mnt/data", paths)

    assert look("models") == []
    assert look("models", "gone", "a file", "leads away") == [
        "/mnt/data/gone: No such file or directory",
        "/mnt/data/a file is no directory",
        "/mnt/data/leads away is not on the disk /mnt/data, but on another one",
    ]


def test_backups_on_the_disk_of_the_data_are_told(tmp_path: Path, other_disk: Path) -> None:
    (tmp_path / "data").symlink_to(other_disk)

    assert doctor_disk_look.problems(tmp_path, "/mnt/data", [], tmp_path) == []
    (problem,) = doctor_disk_look.problems(tmp_path, "/mnt/data", [], other_disk)
    assert problem.startswith("the directory of the backups is on /mnt/data too")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_the_jobs_own_command_sees_a_disk_being_mounted(tmp_path: Path, settings: Settings) -> None:
    volume = Volume(path="/mnt/second/homelab", size="10Gi")
    webui = settings.webui.model_copy(update={"backup": Backup(volume=volume)})
    kept = settings.model_copy(update={"webui": webui})
    pod = doctor_disk.job(kept, "evo4t")["spec"]["template"]["spec"]
    assert [one["hostPath"]["path"] for one in pod["volumes"]] == ["/mnt", "/mnt/second/homelab"]
    (container,) = pod["containers"]
    disk = tmp_path / "evo4t"
    disk.mkdir()
    told = tmp_path / "told"
    here = {"/dev/termination-log": told, "/parent": tmp_path, "/backups": tmp_path}
    assert {one["mountPath"] for one in container["volumeMounts"]} <= {*here}
    arguments = [str(here.get(one, one)) for one in container["args"]]
    command = [*container["command"], *arguments]

    def level() -> str:
        run(command, check=True)
        ended = {"terminated": {"message": told.read_text()}}
        pod = {"status": {"containerStatuses": [{"state": ended}]}}
        return doctor_disk.judge(settings, "evo4t", pod, []).level

    assert level() == "fail"
    if run(["mount", "-t", "tmpfs", "none", str(disk)], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        assert level() == "fail"
        for name in ("models", "open-webui", "prometheus"):
            (disk / name).mkdir()
        assert level() == "ok"
    finally:
        run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("state", "events", "level", "text"),
    [
        ({"terminated": {"message": "[]"}}, [], "ok", "is mounted"),
        ({"terminated": {"message": '["x is gone"]'}}, [], "fail", "evo4t: x is gone"),
        ({"terminated": {"message": ""}}, [], "warn", "ended without a word"),
        ({"waiting": {"reason": "ErrImageNeverPull"}}, [], "warn", "before `up`"),
        (
            {"waiting": {"reason": "ContainerCreating"}},
            ["MountVolume.SetUp failed: hostPath type check failed: /mnt is not a directory"],
            "fail",
            "/mnt is not a directory",
        ),
        ({"waiting": {"reason": "ContainerCreating"}}, [], "warn", "has not ended"),
    ],
)
def test_what_the_jobs_pod_means(
    settings: Settings, state: dict[str, Any], events: list[str], level: str, text: str
) -> None:
    pod = {"status": {"containerStatuses": [{"state": state}]}}
    found = doctor_disk.judge(settings, "evo4t", pod, events)

    assert found.level == level
    assert text in found.text


# The running house, as far as a real one is never so


def test_a_page_that_does_not_answer_is_told() -> None:
    with served(lambda *_: (200, {}, "{}")) as port, served(lambda *_: (502, {}, "")) as bad:
        good, broken = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{bad}"
        silent = f"http://127.0.0.1:{closed_port()}"

        def look(*urls: str, away: str = "") -> Result:
            return doctor_house.answers(dict.fromkeys(urls, "/health"), away)

        assert look(good).level == "ok"
        assert look(good, silent).level == "fail"
        assert look(good, broken).text == f"{broken}/health: 502"
        assert look(good, silent, away="127.0.0.0/8").level == "warn"
        assert look(good, silent, away="192.168.1.0/24").level == "fail"
        assert look(silent, broken, away="127.0.0.0/8").level == "fail"


def test_a_websocket_that_does_not_open_is_told() -> None:
    with served(lambda *_: (200, {}, "{}")) as port:
        found = doctor_house.websocket([f"http://127.0.0.1:{port}"], ["http://evo4t:8080"])

    assert found.level == "fail"
    assert "does not open" in found.text


@pytest.fixture
def page() -> Callable[[int, str], AbstractContextManager[int]]:
    """Runs a page whose answer to a chat is this."""

    def make(status: int, text: str) -> AbstractContextManager[int]:
        def answers(_: str, path: str, __: object) -> Answer:
            if path == "/api/v1/auths/signin":
                return 200, {}, '{"token": "t"}'
            return (status, {}, text) if path == "/api/chat/completions" else (200, {}, "{}")

        return served(answers)

    return make


PIECE = 'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\n'


@pytest.mark.parametrize(
    ("status", "text", "level", "told"),
    [
        (200, f"{PIECE}{PIECE}data: [DONE]\n", "ok", "answers in 2 pieces"),
        (200, PIECE, "fail", "broke off after 1 pieces"),
        (200, "data: [DONE]\n", "fail", "does not answer: 200"),
        (400, '{"detail": "Model not found"}', "fail", "Model not found"),
    ],
)
def test_an_answer_is_whole_or_not(
    page: Callable[[int, str], AbstractContextManager[int]],
    status: int,
    text: str,
    level: str,
    told: str,
) -> None:
    with page(status, text) as port:
        urls = [f"http://127.0.0.1:{closed_port()}", f"http://127.0.0.1:{port}"]
        found = doctor_house.completion(urls, "a@b", "p", "m:1b")

    assert found.level == level
    assert told in found.text


def test_metrics_that_do_not_arrive_are_told() -> None:
    def look(*jobs: str) -> Result:
        series = [{"metric": {"job": job}, "value": [0, "3"]} for job in jobs]
        return doctor_house.metrics(lambda *_, **__: {"data": {"result": series}})

    assert look("ollama-stack/ollama-gateway", "ollama-stack/open-webui").level == "ok"
    assert look("ollama-stack/open-webui").text.startswith("none of ollama-stack/ollama-gateway")
    assert doctor_house.metrics(lambda *_, **__: None).level == "fail"


def test_a_house_that_is_up_is_looked_at_as_a_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = {"type": "pulumi:providers:kubernetes", "inputs": {"context": "homelab"}}
    exported = json.dumps({"deployment": {"resources": [provider]}})
    names: list[str] = []

    def keep(looks: list[Check]) -> list[tuple[Check, Result]]:
        names[:] = [one.name for one in looks]
        return [(looks[0], ok(""))]

    monkeypatch.setattr(doctor, "run", keep)
    monkeypatch.setattr("sys.argv", ["doctor"])
    for state, seen in (("{}", False), (exported, True)):
        monkeypatch.setattr(doctor, "find", lambda _, state=state: house_of(settings, state))
        doctor.main()
        assert ("completion" in names) == seen
    monkeypatch.setattr("sys.argv", ["doctor", "--after"])
    monkeypatch.setattr(doctor, "find", lambda _: house_of(settings))
    doctor.main()
    assert "completion" in names


def test_without_the_state_nothing_is_called_a_strangers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = house_of(settings)
    house = replace(house, exported=CompletedProcess([], 255, "", "error: no backend"))
    monkeypatch.setattr(doctor.House, "cluster", Scripted({}))
    monkeypatch.setattr(doctor_images, "_ask", lambda _: 200)
    found = {one.name: result for one, result in run_checks(doctor.before(house))}

    assert found["state"].level == "fail"
    for name in ("observability", "metallb", "names", "addresses"):
        assert (found[name].level, "without the state" in found[name].text) == ("warn", True)


def test_a_laptop_without_the_cli_is_still_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(doctor_images, "_ask", lambda _: 404)
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    monkeypatch.setattr("sys.argv", ["doctor", "--stack", "home"])

    assert doctor.main() == 1
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[:4]] == [
        ["fail", name] for name in ("tools", "state", "passphrase", "api")
    ]
    assert shown[-2].split()[:2] == ["fail", "images"]
    assert re.fullmatch(r"  5 fail, 12 warn, 1 ok; \d+ s", shown[-1])
