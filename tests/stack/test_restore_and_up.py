"""A restore while somebody runs `up`."""

from threading import Thread
from typing import Any

import pytest
from kubernetes.client import CoreV1Api
from live_stack import LiveStack
from waiting import eventually

from ops import restore


@pytest.mark.usefixtures("with_backups")
def test_an_up_in_the_middle_of_a_restore_does_not_start_the_page(live_stack: LiveStack) -> None:
    core = CoreV1Api(live_stack.core.api_client)
    # No kubelet is there to give it.
    core.read_namespaced_pod_log = lambda *_, **__: "restored"  # type: ignore[method-assign]
    page = restore.ChatPage(live_stack.apps, live_stack.batch, core, timeout=300)

    def pods() -> list[Any]:
        label = "app.kubernetes.io/name=open-webui"
        items: list[Any] = live_stack.core.list_namespaced_pod(
            "ollama-stack", label_selector=label
        ).items
        return items

    job = page.job("latest", None)
    page.stop()
    assert pods() == []
    seen: list[Any] = []

    def restored() -> None:
        try:
            # By then `up` has put the replicas back, and waits for the pod.
            seen.extend(eventually(pods))
            seen.append(page.run(job, "restoring")[:2])
            seen.extend(pod.spec.node_name for pod in pods())
        finally:
            page.start()
            page.wait()

    thread = Thread(target=restored)
    thread.start()
    live_stack.up()
    thread.join()

    assert seen[1:] == [("restore", 0), None]
    assert [pod.status.phase for pod in pods()] == ["Running"]
    assert live_stack.core.read_node("evo4t").spec.taints is None
