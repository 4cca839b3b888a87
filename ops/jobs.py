"""Waiting for a Job of the cluster, its exit code and its log."""

import time
from collections.abc import Callable
from typing import Any

from urllib3.exceptions import HTTPError

from ops.cluster import UnreadableError, readable_errors

PULL_FAILED = ("ImagePullBackOff", "InvalidImageName")
"""Reasons of a waiting container whose image cannot be pulled."""


def until(condition: Callable[[], bool], action: Callable[[], str], timeout: float) -> None:
    """Wait until `condition` is true; print the `action` after 3 seconds, then every 5.

    An API server that does not answer is asked again. Raises UnreadableError after `timeout`
    seconds.
    """
    start = time.monotonic()
    printed = start - 2
    while True:
        problem = ""
        try:
            if condition():
                return
        except HTTPError:
            problem = "; the API server does not answer"
        now = time.monotonic()
        if now - start > timeout:
            raise UnreadableError(f"given up after {now - start:.0f} s: {action()}{problem}")
        if now - printed > 5:
            printed = now
            print(f"  {action()}: {now - start:.0f} s{problem}", flush=True)
        time.sleep(0.5)


def containers(core: Any, namespace: str, job: str) -> list[tuple[str, Any]]:
    """Return the pod's name and the status of each container of a Job."""
    label = f"batch.kubernetes.io/job-name={job}"
    return [
        (pod.metadata.name, status)
        for pod in core.list_namespaced_pod(namespace, label_selector=label).items
        for statuses in (pod.status.init_container_statuses, pod.status.container_statuses)
        for status in statuses or []
    ]


def wait(batch: Any, core: Any, namespace: str, job: str, timeout: float, action: str) -> None:
    """Wait until a Job has ended, and print the `action` in progress.

    Raises UnreadableError after `timeout` seconds, or if its image cannot be pulled.
    """
    reasons: list[str] = []

    def has_ended() -> bool:
        states = [status.state.waiting for _, status in containers(core, namespace, job)]
        states = [state for state in states if state and state.reason]
        reasons[:] = [state.reason for state in states]
        for state in states:
            if state.reason in PULL_FAILED:
                raise UnreadableError(f"{state.reason}: {state.message}")
        status = batch.read_namespaced_job_status(job, namespace).status
        return bool(status.succeeded or status.failed)

    def progress() -> str:
        return ", ".join([action, *reasons[:1]])

    until(has_ended, progress, timeout)


def result(core: Any, namespace: str, job: str) -> tuple[str, int, str | UnreadableError]:
    """Return the container that ended a Job, its exit code, and the last lines of its log.

    At most 5000 lines, or why they cannot be read. Raises UnreadableError if no container has
    terminated.
    """
    terminated = [
        (pod, status.name, status.state.terminated.exit_code)
        for pod, status in containers(core, namespace, job)
        if status.state.terminated
    ]
    if not terminated:
        raise UnreadableError(f"could not read the exit status of Job {job}")
    pod, container, code = next((item for item in terminated if item[2]), terminated[-1])
    try:
        with readable_errors("its log cannot be read"):
            log = core.read_namespaced_pod_log(
                pod, namespace, container=container, tail_lines=5000, _request_timeout=30
            )
    except UnreadableError as error:
        return container, code, error
    return container, code, log.strip()
