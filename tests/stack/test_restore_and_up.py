"""`make restore` and `up` at the same time."""

from threading import Thread
from typing import Any

from kubernetes.client import CoreV1Api
from live_stack import LiveStack
from waiting import eventually

from ops import restore


def test_up_during_a_restore_does_not_start_open_webui(live_stack: LiveStack) -> None:
    core = CoreV1Api(live_stack.core.api_client)
    # The simulated kubelet has no logs.
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
    events: list[Any] = []

    def restore_snapshot() -> None:
        try:
            # `up` has restored the replicas, and waits for the pod.
            events.extend(eventually(pods))
            events.append(page.run(job, "restoring")[:2])
            events.extend(pod.spec.node_name for pod in pods())
        finally:
            page.start()
            page.wait()

    thread = Thread(target=restore_snapshot)
    thread.start()
    live_stack.up()
    thread.join()

    assert events[1:] == [("restore", 0), None]
    assert [pod.status.phase for pod in pods()] == ["Running"]
    assert live_stack.core.read_node("evo4t").spec.taints is None
