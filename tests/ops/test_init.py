"""What `make init` reads from the nodes and their Jobs, and what it writes."""

import difflib
import os
import subprocess
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from harness import ROOT, backup_config, read, stack_config
from kubernetes.client import ApiException

from config import SettingsError
from config.stack_file import project_keys, read_config
from ops import init, machines
from ops.cluster import UnreadableError
from ops.init_file import TEMPLATE, check, merge
from ops.init_keys import draft
from ops.init_questions import Prompt, local_time_zone
from ops.machines import Disk, Machine, free_pair, from_nodes, job, parse_log

GIB = 1024**3
# Of a Debian 12 with a data disk and Tailscale, less what no line here needs.
LOG = """\
== mounts
/dev/nvme0n1p2 / 61281276 4096
/dev/nvme0n1p1 /boot/efi 130812 4096
/dev/nvme1n1 /mnt/evo4t 244061696 4096
/dev/sda1 /mnt/backup 122029056 4096
/dev/sdb1 /mnt/stick 1000000 4096
/dev/sdc1 /mnt/usb\\040disk 8000000 4096
/dev/sde1 /mnt/gone
/dev/nvme1n1 /var/snap/microk8s/common/var/lib/kubelet/pods/1-2/volumes/kubernetes.io~local-volume/\
ollama-stack-models 244061696 4096
/dev/sda1 /srv/again 122029056 4096
/dev/sdd1 /var/lib/kubelet/pods/1-2/volumes/kubernetes.io~csi/pvc/mount 122029056 4096
/dev/sdf1 /var 322029056 4096
/dev/sdg1 /usr 322029056 4096
/dev/sdh1 /variable 8000000 4096
== addresses
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eth0    inet 192.168.1.100/24 brd 192.168.1.255 scope global eth0\\       valid_lft forever
3: tailscale0    inet 100.102.114.95/32 scope global tailscale0\\       valid_lft forever
== gpu
gtt 50465865728
group 44
group 993
group 0
== arp
IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         02:00:00:00:00:01     *        eth0
192.168.1.102    0x1         0x2         02:00:00:00:00:02     *        eth0
192.168.1.103    0x1         0x0         00:00:00:00:00:00     *        eth0
"""


GONE = {"amd.com/gpu": "0"}
"""A device whose plugin is gone."""


def node(name: str, memory: str = "97496568Ki", **devices: str) -> dict[str, object]:
    """A Node object as kubelets report it, less what no line here needs."""
    addresses = [
        {"type": "InternalIP", "address": "192.168.1.100"},
        {"type": "Hostname", "address": name},
    ]
    capacity = {"cpu": "24", "memory": memory, "pods": "110", "amd.com/gpu": "1"}
    allocatable = {**capacity, **GONE, **{f"{key}.com/gpu": n for key, n in devices.items()}}
    status = {"addresses": addresses, "capacity": capacity, "allocatable": allocatable}
    return {"metadata": {"name": name}, "status": status}


@pytest.fixture
def machine() -> Machine:
    """A machine as its Job saw it."""
    (machine,) = from_nodes([node("evo4t")])
    return parse_log(machine, LOG)


def test_the_node_with_the_most_memory_is_the_first() -> None:
    nodes = [node("small", "16Gi"), node("large", amd="1", nvidia="1")]

    large, small = from_nodes(nodes)

    assert (large.name, small.name) == ("large", "small")
    assert (large.cpus, large.memory, large.gpus) == (24, 97496568 * 1024, ("amd.com/gpu",))
    assert small.gpus == ()


def test_a_job_says_which_disks_networks_and_addresses_there_are(machine: Machine) -> None:
    assert machine.disks == (
        Disk(path="/mnt/evo4t", size=244061696 * 4096),
        Disk(path="/mnt/backup", size=122029056 * 4096),
        Disk(path="/mnt/usb disk", size=8000000 * 4096),
        Disk(path="/variable", size=8000000 * 4096),
        Disk(path="/", size=61281276 * 4096),
    )
    assert machine.lan == IPv4Network("192.168.1.0/24")
    assert machine.tailnet == "100.102.114.95"
    assert (machine.gpu_memory, machine.gpu_groups) == (50465865728, (44, 993))
    own = {"127.0.0.1", "192.168.1.100", "100.102.114.95"}
    assert machine.taken == frozenset(own | {"192.168.1.1", "192.168.1.102"})


def test_nothing_is_known_of_addresses_where_nothing_was_asked(machine: Machine) -> None:
    assert parse_log(machine, LOG.partition("== arp")[0]).taken is None
    assert parse_log(machine, "").disks == ()


def test_addresses_of_other_services_are_taken() -> None:
    def service(namespace: str, **status: object) -> dict[str, object]:
        return {"metadata": {"namespace": namespace}, "status": {"loadBalancer": status}}

    items = [
        service("ingress", ingress=[{"ip": "192.168.1.101"}, {"hostname": "x"}]),
        service("ollama-stack", ingress=[{"ip": "192.168.1.102"}]),
        service("default"),
    ]
    cluster = Mock()
    cluster.read.return_value = {"items": items}

    assert machines.assigned(cluster) == {"192.168.1.101"}


@pytest.mark.parametrize(
    ("taken", "pair"),
    [
        ([], ("192.168.1.101", "192.168.1.102")),
        (["192.168.1.102"], ("192.168.1.103", "192.168.1.104")),
        (["192.168.1.101", "192.168.1.103"], ("192.168.1.104", "192.168.1.105")),
    ],
)
def test_addresses_that_answer_are_passed_over(taken: list[str], pair: tuple[str, str]) -> None:
    lan = IPv4Network("192.168.1.0/24")

    assert free_pair(lan, "192.168.1.100", frozenset(taken)) == pair


def test_only_addresses_that_were_asked_are_free() -> None:
    lan = IPv4Network("10.0.0.0/8")

    assert free_pair(lan, "10.1.2.252", frozenset()) == ("10.1.2.253", "10.1.2.254")
    assert free_pair(lan, "10.1.2.253", frozenset()) is None
    assert free_pair(IPv4Network("10.1.2.0/29"), "10.1.2.5", frozenset()) is None


def test_in_a_full_network_the_addresses_are_asked_for(machine: Machine) -> None:
    taken = frozenset(f"192.168.1.{last}" for last in range(1, 255))
    full = replace(machine, taken=taken)
    flags: dict[str, str | None] = {"email": "me@example.com"}
    pool = "192.168.1.101-192.168.1.102"

    keys = draft("microk8s", [full], True, {}, Prompt({**flags, "pool": pool}, yes=True))

    assert keys["network"]["pool"] == pool
    with pytest.raises(
        ValueError, match=r"^--pool: missing; Two addresses for chat page and Grafana, free"
    ):
        draft("microk8s", [full], True, {}, Prompt(flags, yes=True))


def test_with_yes_all_is_written_that_a_job_saw(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = Prompt({"email": "me@example.com", "memory_kind": "DDR5-5600"}, yes=True)

    keys = draft("microk8s", [machine], True, {}, prompt)

    check(merge(TEMPLATE, keys))
    assert keys["nodes"]["evo4t"] == {
        "address": "192.168.1.100",
        "cpus": 24,
        "memory": "92Gi",
        "disk": {"path": "/mnt/evo4t", "size": "931Gi"},
        "memory_bandwidth": 89.6,
    }
    assert keys["network"]["pool"] == "192.168.1.103-192.168.1.104"
    assert keys["webui"]["tailnet_address"] == "100.102.114.95"
    assert keys["webui"]["backup"] == {"volume": {"path": "/mnt/backup/homelab", "size": "465Gi"}}
    assert "gpt-oss:20b" in capsys.readouterr().out


def test_a_small_machine_is_offered_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    (small,) = from_nodes([node("evo4t", "16Gi")])
    prompt = Prompt({"email": "me@example.com"}, yes=True)

    keys = draft("microk8s", [parse_log(small, LOG)], True, {}, prompt)

    offered = capsys.readouterr().out
    assert "llama3.2:3b" in offered
    assert "qwen3:32b" not in offered
    check(merge(TEMPLATE, keys))


@pytest.mark.parametrize(("cpus", "cpu"), [(4, 2), (9, 7), (10, None)])
def test_on_few_cpus_ollama_requests_what_the_others_leave(
    cpus: int, cpu: int | None, machine: Machine
) -> None:
    keys = draft("microk8s", [replace(machine, cpus=cpus)], True, {}, Prompt({}, yes=True))

    check(merge(TEMPLATE, keys))
    assert keys["ollama"].get("cpu") == cpu


def test_the_system_disk_is_not_the_default_of_the_data_disk(machine: Machine) -> None:
    """Its mount point is no valid path: all answers would be lost."""
    only = replace(machine, disks=machine.disks[-1:])

    with pytest.raises(ValueError, match=r"^--disk: missing; evo4t: the data disk"):
        draft("microk8s", [only], True, {}, Prompt({}, yes=True))


def rerun(text: str, nodes: list[Machine], folder: Path, **flags: str) -> str:
    """Return the stack file that another run with `--yes` makes of this one."""
    (file := folder / "Pulumi.home.yaml").write_text(text)
    keys = project_keys(read_config(file))
    new = merge(text, draft("homelab", nodes, True, keys, Prompt({**flags}, yes=True)))
    check(new)
    return new


def changed(before: str, after: str) -> list[str]:
    """Return the lines that were added or deleted, without their indentation and comments."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [" ".join(line.partition("#")[0].split()) for line in lines if line[0] in "+-"]


def test_a_second_run_changes_only_what_the_cluster_says(machine: Machine, tmp_path: Path) -> None:
    text = (ROOT / "Pulumi.home.yaml").read_text() + "encryptionsalt: v1:abc\n"
    text = text.replace("101-192.168.1.102", "101-192.168.1.110")
    more = "{volume: {path: /mnt/evo4t/more, size: 50Gi}, models: [llama3.2:1b], cpu: 1}"
    text = text.replace(
        "  homelab:webui:\n", f"  homelab:servers:\n    more: {more}\n  homelab:webui:\n"
    )

    new = rerun(text, [machine], tmp_path)

    assert changed(text, new) == ["- memory: 93Gi", "+ memory: 92Gi"]
    assert "of 96 GB, what the kernel leaves" in new


def test_who_has_answered_is_asked_for_nothing(machine: Machine) -> None:
    keys = project_keys(read_config(ROOT / "Pulumi.home.yaml"))
    del keys["nodes"]["evo4t"]["memory_bandwidth"]

    # Without a terminal, a question is a ValueError.
    new = draft("homelab", [machine], False, keys, Prompt({}, yes=False))
    assert not new["webui"].keys() & {"backup"}
    assert not new["observability"].keys() & {"notify"}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", ["pulumi stack init home", "pulumi config set --secret homelab:notifySecret"]),
        ("homelab:notifySecret: {secure: v1:a}\nencryptionsalt: v1:b", []),
    ],
)
def test_only_what_is_not_done_yet_comes_next(text: str, steps: list[str]) -> None:
    config = stack_config("home")
    config["observability"]["notify"] = {"ntfy": "https://ntfy.sh", "timezone": "UTC"}
    settings = read({**config, "notifySecret": "topic"})

    lines = init.next_steps("home", settings, text).splitlines()[1:-2]

    assert [line.strip().removesuffix(" --stack home") for line in lines] == steps


def test_the_time_zone_is_this_computers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zone = tmp_path / "zoneinfo/Europe/Berlin"
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.setattr(Path, "resolve", lambda _: zone)
    assert local_time_zone() == "Europe/Berlin"

    monkeypatch.setattr(Path, "resolve", lambda _: tmp_path)
    assert local_time_zone() == "UTC"
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert local_time_zone() == "Asia/Tokyo"


def test_flags_change_what_a_file_has(machine: Machine, tmp_path: Path) -> None:
    text = (ROOT / "Pulumi.home.yaml").read_text().replace("93Gi ", "92Gi ")
    flags = {"email": "me@example.com", "models": "qwen3:8b,llama3.2:3b", "alerts": "telegram=-100"}

    new = rerun(text, [machine], tmp_path, **flags, timezone="Europe/Berlin", disk_size="900Gi")

    assert changed(text, new) == [
        "- disk: {path: /mnt/evo4t, size: 931Gi}",
        "+ disk: {path: /mnt/evo4t, size: 900Gi}",
        "+ - qwen3:8b",
        "- - codellama:7b",
        "- - gemma3:4b",
        "- admin_email: admin@homelab.home.arpa",
        "+ admin_email: me@example.com",
        "+ notify:",
        "+ telegram: -100",
        "+ timezone: Europe/Berlin",
    ]


@pytest.mark.parametrize("choice", ["keep", "drop"])
def test_a_node_that_left_the_cluster_is_dropped_or_kept(
    choice: str, machine: Machine, tmp_path: Path
) -> None:
    text = (ROOT / "Pulumi.home.yaml").read_text().replace("93Gi ", "92Gi ")
    line = "    gone: {address: 192.168.1.9, cpus: 4, memory: 8Gi, disk: {path: /d, size: 9Gi}}\n"
    text = text.replace("  homelab:network:\n", f"{line}  homelab:network:\n")

    new = rerun(text, [machine], tmp_path, missing_nodes=choice)

    assert (line in new) == (choice == "keep")


def test_a_new_node_of_more_memory_gets_no_volume(machine: Machine, tmp_path: Path) -> None:
    text = (ROOT / "Pulumi.home.yaml").read_text().replace("93Gi ", "92Gi ")
    large = replace(machine, name="large", address="192.168.1.8", memory=200 * GIB, tailnet="1")

    new = rerun(text, [large, machine], tmp_path)

    # Pulumi sorts the nodes, so that the first of the file may be another for the program.
    added = ["large:", "address: 192.168.1.8", "cpus: 24", "memory: 200Gi", "disk:"]
    added += ["path: /mnt/evo4t", "size: 931Gi"]
    assert changed(text, new) == [f"+ {line}" for line in [*added, *["node: evo4t"] * 3]]


def test_the_pages_tailnet_address_and_backups_are_those_of_its_node(
    machine: Machine, tmp_path: Path
) -> None:
    text = (ROOT / "Pulumi.example-two-nodes.yaml").read_text().replace("93Gi", "92Gi")
    text = text.replace("homelab-sandbox", "homelab")
    data, backup = Disk(path="/mnt/data", size=250 * GIB), Disk(path="/mnt/usb", size=99 * GIB)
    models = Disk(path="/mnt/models", size=931 * GIB)
    large = replace(machine, name="large", disks=(models, replace(backup, path="/mnt/other")))
    small = replace(machine, name="small", address="192.168.1.99", cpus=4, memory=16 * GIB)
    small = replace(small, disks=(data, backup), tailnet="100.102.114.96")

    assert rerun(text, [large, small], tmp_path) == text
    small = replace(small, tailnet="100.102.114.97")
    new = rerun(text, [large, small], tmp_path, backup_disk="/mnt/usb")
    assert changed(text, new)[1:] == [
        "+ tailnet_address: 100.102.114.97",
        "+ backup:",
        "+ volume:",
        "+ path: /mnt/usb/homelab",
        "+ size: 99Gi",
    ]


def test_who_uses_tailscale_serve_is_offered_no_port_on_the_tailnet(
    machine: Machine, tmp_path: Path
) -> None:
    text = (ROOT / "Pulumi.home.yaml").read_text().replace("93Gi ", "92Gi ")
    text = text.replace("    tailnet_address: 100.102.114.95\n", "")

    assert rerun(text, [machine], tmp_path) == text


def test_on_another_network_and_disk_all_addresses_and_paths_are_new(
    machine: Machine, tmp_path: Path
) -> None:
    text = (ROOT / "Pulumi.home.yaml").read_text()
    moved = replace(machine, name="new", address="10.0.0.5", lan=IPv4Network("10.0.0.0/24"))
    moved = replace(moved, disks=(Disk(path="/mnt/new", size=400 * GIB),))

    new = rerun(text, [moved], tmp_path)

    assert "192.168" not in new
    assert "evo4t" not in new
    assert "lan_address: 10.0.0.6" in new


@pytest.mark.parametrize("text", ["", "encryptionsalt: v1:abc\n", "config: {}\n", "config:\n"])
def test_a_file_that_only_the_cli_has_written_is_filled(text: str, machine: Machine) -> None:
    new = merge(text, draft("microk8s", [machine], True, {}, Prompt({}, yes=True)))

    check(new)
    assert new.startswith("# yaml-language-server: ")
    assert ("encryptionsalt: v1:abc" in new) == bool("salt" in text)


def test_a_gpu_is_offered_with_its_memory_and_groups(tmp_path: Path) -> None:
    with_plugin = parse_log(from_nodes([node("evo4t", amd="1")])[0], LOG)
    text = (ROOT / "Pulumi.home.yaml").read_text().replace("93Gi ", "92Gi ")

    assert changed(text, rerun(text, [with_plugin], tmp_path)) == [
        "+ profile: hx370",
        "+ gpu:",
        "+ memory: 47Gi",
        "+ groups:",
        "+ - 44",
        "+ - 993",
    ]
    assert changed(text, rerun(text, [with_plugin], tmp_path, profile="cpu")) == ["+ profile: cpu"]


def test_a_gpu_of_unknown_memory_is_not_used(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = replace(machine, gpus=("amd.com/gpu",), gpu_memory=None)

    keys = draft("microk8s", [unknown], True, {}, Prompt({"profile": "hx370"}, yes=True))

    assert "profile" not in keys["nodes"]["evo4t"]
    assert "evo4t: amd.com/gpu: its memory is not known, so it is not used" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("key", "answer", "line"),
    [
        (
            "disk",
            "/mnt/x/",
            "--disk: got '/mnt/x/', want an absolute path without ., .. or a trail",
        ),
        ("lan", "192.168.1.1", "--lan: got '192.168.1.1', want a network such as 192.168.1.0/24"),
        ("email", "me@", "--email: got 'me@', want an e-mail address, such as me@example.com"),
        (
            "pool",
            "192.168.1.101",
            "want two consecutive addresses, such as 192.168.1.101-192.168.1.102",
        ),
        ("pool", "192.168.1.104-192.168.1.103", "--pool: got '192.168.1.104-192.168.1.103', want"),
        ("memory_kind", "DDR6", "--memory-kind: got 'DDR6', want DDR4-3200, DDR5-4800"),
        ("alerts", "pager=1", "--alerts: got 'pager=1', want ntfy, ntfy=URL, pushover=USER_KEY"),
        ("alerts", "telegram=x", "--alerts: got 'telegram=x', want ntfy"),
        ("timezone", "Berlin", "--timezone: got 'Berlin', want a time zone, such as Europe"),
        ("models", "gemma2:4b", "a model of the Ollama library"),
        ("profile", "hx370", "--profile: got 'hx370', want cpu: no node offers a GPU"),
        ("lan", "192.168.2.0/24", "a range within network.lan, 192.168.2.0/24"),
    ],
)
def test_a_wrong_flag_is_a_line(machine: Machine, key: str, answer: str, line: str) -> None:
    prompt = Prompt({"email": "me@example.com", "alerts": "ntfy", key: answer}, yes=True)

    with pytest.raises((ValueError, SettingsError)) as error:
        check(merge(TEMPLATE, draft("microk8s", [machine], True, {}, prompt)))
    assert line in str(error.value)


def test_where_nothing_could_be_pinged_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for log in (LOG, LOG.partition("== arp")[0]):
        monkeypatch.setattr(machines, "run", Mock(return_value=log))
        init.inspect(Mock(), from_nodes([node("evo4t")]), Prompt({}, yes=True))

        line = "  evo4t: could not ping, so free addresses are unknown\n"
        assert (line in capsys.readouterr().out) == (log != LOG)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "\nerror: interrupted; nothing was written\n"),
        (EOFError(), 1, "\nerror: no answer; nothing was written\n"),
        (ValueError("--lan: x"), 1, "error: --lan: x; nothing was written\n"),
        (
            PermissionError(13, "denied", "x"),
            1,
            "error: [Errno 13] denied: 'x'; nothing was written\n",
        ),
    ],
)
def test_whoever_stops_has_written_nothing(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(init, "write", Mock(side_effect=error))

    assert init.run(Namespace(yes=False)) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("code", "said"), [(0, "first\nlast"), (1, "last"), (1, "")])
def test_a_job_gives_its_log_or_why_it_failed(
    code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, core, terminated = Mock(), Mock(), SimpleNamespace(exit_code=code)
    batch.create_namespaced_job.return_value.metadata.name = "j"
    batch.read_namespaced_job_status.return_value.status = SimpleNamespace(succeeded=1, failed=0)
    state = SimpleNamespace(waiting=None, terminated=terminated)
    statuses = [SimpleNamespace(name="look", state=state)]
    pod = SimpleNamespace(metadata=SimpleNamespace(name="p"), status=Mock())
    pod.status.init_container_statuses, pod.status.container_statuses = None, statuses
    core.list_namespaced_pod.return_value.items = [pod]
    core.read_namespaced_pod_log.return_value = said
    monkeypatch.setattr(machines, "BatchV1Api", lambda _: batch)
    monkeypatch.setattr(machines, "CoreV1Api", lambda _: core)

    if code:
        with pytest.raises(UnreadableError, match=f"^Job j: {said or 'no output'}$"):
            machines.run(None, {})
    else:
        assert machines.run(None, {}) == said
        core.read_namespaced_pod_log.side_effect = ApiException(500, "no kubelet")
        with pytest.raises(UnreadableError, match=r"^its log cannot be read: 500 no"):
            machines.run(None, {})
    assert batch.delete_namespaced_job.call_count == batch.create_namespaced_job.call_count


def test_the_job_has_no_token_and_ends() -> None:
    (machine,) = from_nodes([node("evo4t")])
    spec = job(machine, "look.sh")["spec"]

    assert spec["template"]["spec"]["automountServiceAccountToken"] is False
    assert spec["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > 0


@pytest.mark.parametrize("is_inspected", [True, False])
def test_the_directory_of_the_backups_is_made_on_their_disk(
    is_inspected: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, list[str]]] = []

    def note(_: object, body: Mapping[str, Any]) -> str:
        (container,) = body["spec"]["template"]["spec"]["containers"]
        env = {item["name"]: item["value"] for item in container["env"]}
        ran.append((env["DISK"], env["DIRECTORIES"].splitlines()))
        return ""

    monkeypatch.setattr(machines, "run", note)
    seen = machine if is_inspected else replace(machine, disks=())

    init.directories([seen], read(backup_config()), Mock(), Prompt({}, yes=True))

    (disk, data), backup = ran
    assert (disk, len(data)) == ("/mnt/evo4t", 4)
    assert backup == ("/mnt/backup", ["1000:1000 0700 /mnt/backup/homelab"])


def directories(
    root: Path, disk: str, *wanted: str, mounts: str = "/dev/sda1 / ext4"
) -> subprocess.CompletedProcess[str]:
    """Run the Job's program on directories below `root`, with these mounts."""
    (file := root / "mounts").write_text(f"{mounts} rw 0 0\n")
    env = {"PATH": os.environ["PATH"], "ROOT": str(root), "MOUNTS": str(file), "DISK": disk}
    return subprocess.run(
        ["sh", "-c", (machines.PROGRAMS / "directories.sh").read_text()],
        env={**env, "DIRECTORIES": "\n".join(wanted)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("mounted", ["/", "/mnt/a-b", "/mnt/a.b/c"])
def test_no_directory_is_made_on_a_disk_that_is_not_mounted(mounted: str, tmp_path: Path) -> None:
    mounts = f"/dev/sda1 {mounted} ext4"

    done = directories(tmp_path, "/mnt/a.b", "1000:1000 0750 /mnt/a.b/models", mounts=mounts)

    assert (done.returncode, done.stdout) == (1, "/mnt/a.b: not mounted\n")
    assert [item.name for item in tmp_path.iterdir()] == ["mounts"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which only root can")
def test_a_disk_may_have_a_space_in_its_path(tmp_path: Path) -> None:
    wanted, mounts = "1000:1000 0700 /mnt/a b/homelab", r"/dev/sda1 /mnt/a\040b ext4"

    done = directories(tmp_path, "/mnt/a b", wanted, mounts=mounts)

    assert done.stdout == "/mnt/a b/homelab: 1000:1000 0700\n"
    assert ((tmp_path / "mnt/a b/homelab").stat().st_mode & 0o777) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which only root can")
def test_what_is_in_a_directory_is_given_to_its_owner_and_what_links_lead_to_is_not(
    tmp_path: Path,
) -> None:
    outside, blob = tmp_path / "outside", tmp_path / "models/models/blobs/sha256-1"
    outside.touch()
    blob.parent.mkdir(parents=True)
    blob.touch(0o600)
    (blob.parent / "link").symlink_to(outside)
    wanted = ("1000:1000 0750 /models", "1000:2000 0770 /prometheus")

    done = directories(tmp_path, "/", *wanted)

    assert done.stdout == (
        "/models: 1000:1000 0750, with what is in it: 4 had another owner\n"
        "/prometheus: 1000:2000 0770\n"
    )
    assert (blob.stat().st_uid, blob.stat().st_gid) == (1000, 1000)
    assert (outside.stat().st_uid, outside.stat().st_gid) == (0, 0)
    assert ((tmp_path / "models").stat().st_mode & 0o777) == 0o750
    prometheus = (tmp_path / "prometheus").stat()
    assert (prometheus.st_uid, prometheus.st_gid, prometheus.st_mode & 0o777) == (1000, 2000, 0o770)
    assert directories(tmp_path, "/", wanted[0]).stdout == "/models: 1000:1000 0750\n"


@pytest.mark.parametrize("text", ["- a\n", "a\n"])
def test_a_stack_file_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^stack file: got no object, want one with the key conf"):
        merge(text, {"context": "homelab"})
