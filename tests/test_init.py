"""What `make init` reads from the nodes and their Jobs, and what it writes."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from harness import ROOT

from config import SettingsError
from config.stack_file import project_keys, read_config
from ops.init import TEMPLATE, Asking, check, draft, merged
from ops.machines import Disk, Machine, free_pair, job, of_nodes, seen

GIB = 1024**3
# Of a Debian 12 with a data disk and Tailscale, less what no line here needs.
LOG = """\
== mounts
/ 61281276 4096
/boot/efi 130812 4096
/mnt/evo4t 244061696 4096
/mnt/backup 122029056 4096
/mnt/stick 1000000 4096
== route
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
cali1\t0A01010A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
== addresses
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 100.102.114.95
        /32 host LOCAL
     |-- 192.168.1.100
        /32 host LOCAL
     |-- 192.168.1.255
        /32 link BROADCAST
== arp
IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         02:00:00:00:00:01     *        eth0
192.168.1.102    0x1         0x2         02:00:00:00:00:02     *        eth0
192.168.1.103    0x1         0x0         00:00:00:00:00:00     *        eth0
"""


def node(name: str, memory: str = "97496568Ki", **more: str) -> dict[str, object]:
    """A Node object as kubelets report it, less what no line here needs."""
    addresses = [
        {"type": "InternalIP", "address": "192.168.1.100"},
        {"type": "Hostname", "address": name},
    ]
    capacity = {"cpu": "24", "memory": memory, "pods": "110", **more}
    return {"metadata": {"name": name}, "status": {"addresses": addresses, "capacity": capacity}}


@pytest.fixture
def machine() -> Machine:
    """A machine as its Job saw it."""
    (machine,) = of_nodes([node("evo4t")])
    return seen(machine, LOG)


def test_the_node_with_the_most_memory_is_the_first() -> None:
    nodes = [node("small", "16Gi"), node("large", **{"amd.com/gpu": "1", "nvidia.com/gpu": "0"})]

    large, small = of_nodes(nodes)

    assert (large.name, small.name) == ("large", "small")
    assert (large.cpus, large.memory, large.gpus) == (24, 97496568 * 1024, ("amd.com/gpu",))
    assert small.gpus == ()


def test_a_job_says_which_disks_networks_and_addresses_there_are(machine: Machine) -> None:
    assert machine.disks == (
        Disk(path="/mnt/evo4t", size=244061696 * 4096),
        Disk(path="/mnt/backup", size=122029056 * 4096),
        Disk(path="/", size=61281276 * 4096),
    )
    assert machine.lan == IPv4Network("192.168.1.0/24")
    assert machine.tailnet == "100.102.114.95"
    own = {"192.168.1.100", "100.102.114.95"}
    assert machine.taken == frozenset(own | {"192.168.1.1", "192.168.1.102"})


def test_nothing_is_known_of_addresses_where_nothing_was_asked(machine: Machine) -> None:
    assert seen(machine, LOG.partition("== arp")[0]).taken is None
    assert seen(machine, "").disks == ()


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


def test_a_full_network_is_a_line() -> None:
    lan = IPv4Network("192.168.1.0/29")

    with pytest.raises(ValueError, match=r"no two free addresses after 192.168.1.1 in"):
        free_pair(lan, "192.168.1.1", frozenset(str(host) for host in lan.hosts()))


def test_with_yes_all_is_written_that_a_job_saw(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = Asking({"email": "me@example.com", "memory_kind": "DDR5-5600"}, yes=True)

    keys = draft("microk8s", [machine], True, {}, asking)

    check(merged(TEMPLATE, keys))
    assert keys["nodes"]["evo4t"] == {
        "address": "192.168.1.100",
        "cpus": 24,
        "memory": "92Gi",
        "disk": {"path": "/mnt/evo4t", "size": "931Gi"},
        "memory_bandwidth": 89.6,
    }
    assert keys["network"]["pool"] == "192.168.1.103-192.168.1.104"
    assert keys["webui"]["tailnet_address"] == "100.102.114.95"
    assert keys["webui"]["backup"]["volume"]["path"] == "/mnt/backup/homelab"
    assert "gpt-oss:20b" in capsys.readouterr().out


def test_a_small_machine_is_offered_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    (small,) = of_nodes([node("evo4t", "16Gi")])
    asking = Asking({"email": "me@example.com"}, yes=True)

    keys = draft("microk8s", [seen(small, LOG)], True, {}, asking)

    offered = capsys.readouterr().out
    assert "llama3.2:3b" in offered
    assert "qwen3:32b" not in offered
    check(merged(TEMPLATE, keys))


def test_a_file_keeps_its_comments_its_keys_and_its_salt(machine: Machine, tmp_path: Path) -> None:
    text = (ROOT / "Pulumi.home.yaml").read_text() + "encryptionsalt: v1:abc\n"
    file = tmp_path / "Pulumi.home.yaml"
    file.write_text(text)
    text = text.replace("101-192.168.1.102", "101-192.168.1.110")
    more = "{volume: {path: /mnt/evo4t/more, size: 50Gi}, models: [llama3.2:1b], cpu: 1}"
    text = text.replace(
        "  homelab:webui:\n", f"  homelab:servers:\n    more: {more}\n  homelab:webui:\n"
    )
    file.write_text(text)
    asking = Asking({"backup_disk": "none"}, yes=True)

    keys = draft("homelab", [machine], True, project_keys(read_config(file)), asking)
    new = merged(text, keys)

    assert keys["servers"].keys() == {"more"}
    changed = [line for line in new.splitlines() if line not in text.splitlines()]
    assert changed == ["      memory: 92Gi                  # of 96 GB, what the kernel leaves"]


@pytest.mark.parametrize(
    ("key", "answer", "line"),
    [
        ("email", "me", "got 'me', want an e-mail address, such as me@example.com"),
        ("pool", "192.168.1.101", "want two neighbours, such as 192.168.1.101-192.168.1.102"),
        ("pool", "192.168.1.101-192.168.1.109", "want two neighbours"),
        ("memory_kind", "DDR6", "got 'DDR6', want DDR4-3200, DDR5-4800"),
        ("models", "gemma2:4b", "a model of the Ollama library"),
        ("lan", "192.168.2.0/24", "a range within network.lan, 192.168.2.0/24"),
    ],
)
def test_a_wrong_flag_is_a_line(machine: Machine, key: str, answer: str, line: str) -> None:
    asking = Asking({"email": "me@example.com", key: answer}, yes=True)

    with pytest.raises((ValueError, SettingsError)) as error:
        check(merged(TEMPLATE, draft("microk8s", [machine], True, {}, asking)))
    assert line in str(error.value)


def test_the_job_has_no_token_and_ends() -> None:
    (machine,) = of_nodes([node("evo4t")])
    spec = job(machine, "true")["spec"]

    assert spec["template"]["spec"]["automountServiceAccountToken"] is False
    assert spec["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > 0
