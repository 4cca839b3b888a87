"""Waits for a Job of the cluster, and says how it ended."""

import time
from collections.abc import Callable
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from ops.cluster import UnreadableError

UNPULLED = ("ImagePullBackOff", "InvalidImageName")
"""What a kubelet says of a container whose image it did not get; the first after some tries."""


def until(what: Callable[[], bool], doing: Callable[[], str], patience: float) -> None:
    """Wait until `what` is so, and print every five seconds what is being done.

    Raises UnreadableError after `patience` seconds.
    """
    began = said = time.monotonic()
    while not what():
        now = time.monotonic()
        if now - began > patience:
            raise UnreadableError(f"given up after {now - began:.0f} s: {doing()}")
        if now - said > 5:
            said = now
            print(f"  {doing()}: {now - began:.0f} s", flush=True)
        time.sleep(0.5)


def containers(core: Any, namespace: str, job: str) -> list[tuple[str, Any]]:
    """Give the state of each container of a Job, with its pod's name."""
    label = f"batch.kubernetes.io/job-name={job}"
    return [
        (pod.metadata.name, one)
        for pod in core.list_namespaced_pod(namespace, label_selector=label).items
        for these in (pod.status.init_container_statuses, pod.status.container_statuses)
        for one in these or []
    ]


def wait(batch: Any, core: Any, namespace: str, job: str, patience: float, what: str) -> None:
    """Wait until a Job is over; `what` is said to be done meanwhile.

    Raises UnreadableError after `patience` seconds, or if the image cannot be had.
    """

    def waiting() -> list[Any]:
        found = [one.state.waiting for _, one in containers(core, namespace, job)]
        return [state for state in found if state and state.reason]

    def over() -> bool:
        for state in waiting():
            if state.reason in UNPULLED:
                raise UnreadableError(f"{state.reason}: {state.message}")
        status = batch.read_namespaced_job_status(job, namespace).status
        return bool(status.succeeded or status.failed)

    def doing() -> str:
        return ", ".join([what, *(state.reason for state in waiting()[:1])])

    until(over, doing, patience)


def ended(core: Any, namespace: str, job: str) -> tuple[str, str, int]:
    """Give the pod and the container that ended a Job, and its exit code.

    Raises UnreadableError if nobody knows.
    """
    states = [
        (pod, one.name, one.state.terminated.exit_code)
        for pod, one in containers(core, namespace, job)
        if one.state.terminated
    ]
    if not states:
        raise UnreadableError(f"nobody knows how Job {job} ended")
    return next((found for found in states if found[2]), states[-1])


def log(core: Any, namespace: str, pod: str, container: str) -> str:
    """Give the last lines of a container, 5000 at most; raises UnreadableError."""
    try:
        text: str = core.read_namespaced_pod_log(
            pod, namespace, container=container, tail_lines=5000, _request_timeout=30
        )
    except (ApiException, HTTPError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableError(f"its log cannot be read: {reason}") from error
    return text.strip()
