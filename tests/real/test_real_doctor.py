"""The doctor's look at the running stack, from a laptop on the home network."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import read
from real_lab import Server, enter
from waiting import eventually

from ops import doctor, doctor_server
from ops.cluster import Cluster
from ops.stacks import Stack
from sandbox import network
from sandbox.real_cluster import CONTROL_PLANE

pytestmark = pytest.mark.faults


def test_the_stack_is_checked_as_a_whole_from_the_home_network(
    metrics: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, engine = metrics.cluster, metrics.engine
    kubeconfig = cluster.folder / "kubeconfig-at-home"
    at = f"{network.NODE}:{CONTROL_PLANE['apiserver']}"
    forwarded = f"127.0.0.1:{cluster.ports['api']}"
    kubeconfig.write_text(cluster.kubeconfig.read_text().replace(forwarded, at))
    stack = Stack(name="sandbox", cli=engine.cli, kubeconfig=kubeconfig, folder=engine.work)

    def check() -> int:
        # Only this thread goes there, and those that it starts.
        enter(str(cluster.holders["client"]))
        live = Cluster(cluster.context, kubeconfig)
        return asyncio.run(doctor.report(read(metrics.config), stack, live))

    # The first push comes late after a start.
    eventually(lambda: not metrics.problems(doctor_server.metrics))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(check).result() == 1
    *lines, _ = capsys.readouterr().out.splitlines()
    unwell = {line.split()[1]: line for line in lines if line.split()[0] != "ok"}
    # There are no backups, the models have random weights and cannot count, and this laptop is not
    # on the tailnet.
    assert unwell.keys() == {"answer", "backups", "page"}
    assert "1, 2, 3, 4, 5, 6, 7, 8," in unwell["answer"]
    page = unwell["page"].split("; to do")[0]
    assert page.endswith("http://100.102.114.95:8080: no answer: timeout")
