"""Restore a backup of the chats.

Stops the chat page, replaces its data and starts it again. Exit code 0 means restored, 1 failed.
"""

import argparse
import copy
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client import ApiException, AppsV1Api, BatchV1Api, CoreV1Api

from components.open_webui.backup import RESTORE_TAINT
from config import Request
from ops import jobs, stacks
from ops.cluster import Cluster, UnreadableError, readable_errors

NAMESPACE = "ollama-stack"
WRITERS = ("open-webui-restore-", "open-webui-backup-")
"""Name prefixes of Jobs that use the page's data."""
PAGE = "open-webui"
TEMPLATE = "open-webui-backup-restore"
"""The suspended CronJob of the program, from which a Job is created."""
REFUSED = ("restore", 1)
"""Container and exit code of a restore that changed nothing (backup.py)."""
FETCH = "fetch"
"""The container that only fetches the snapshot."""


class RestoreError(UnreadableError):
    """A failed restore, and the state it left, in one line."""


class NotStartedError(RestoreError):
    """A Job that could not start, so nothing was changed."""


class ChatPage:
    """The chat page in its cluster."""

    def __init__(self, apps: Any, batch: Any, core: Any, timeout: float) -> None:
        """Use these APIs, with a `timeout` in seconds for each wait."""
        self.apps, self.batch, self.core, self.timeout = apps, batch, core, timeout

    def job(self, snapshot: str, image: str | None) -> dict[str, Any]:
        """Return the Job that restores a snapshot, with the stack's image or another one."""
        try:
            cron_job = self.batch.read_namespaced_cron_job(TEMPLATE, NAMESPACE)
        except ApiException as error:
            if error.status != 404:
                raise
            none = "no backups: webui.backup is not set, or not deployed yet (docs/backups.md)"
            raise RestoreError(none) from error
        template: Any = self.batch.api_client.sanitize_for_serialization(cron_job)
        spec = copy.deepcopy(template["spec"]["jobTemplate"]["spec"])
        pod = spec["template"]["spec"]
        (fetch,), (restore,) = pod["initContainers"], pod["containers"]
        for variable in fetch["env"]:
            if variable["name"] == "SNAPSHOT":
                variable["value"] = snapshot
        restore["image"] = image or restore["image"]
        # Deleted with the CronJob, because a completed pod still blocks the deletion of its claims.
        uid, labels = (template["metadata"][key] for key in ("uid", "labels"))
        owner = {"kind": "CronJob", "name": TEMPLATE, "uid": uid, "controller": True}
        metadata = {"generateName": "open-webui-restore-", "labels": labels}
        metadata["ownerReferences"] = [{"apiVersion": "batch/v1", **owner}]
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}

    def list_job(self) -> dict[str, Any]:
        """Return the Job that lists the backups."""
        job = self.job("latest", None)
        pod = job["spec"]["template"]["spec"]
        (fetch,) = pod.pop("initContainers")
        # Not a prefix of WRITERS, because it does not block a restore.
        job["metadata"]["generateName"] = "open-webui-backups-"
        # Not the data's volume, which may be on a disk that is lost.
        mounts = [mount for mount in fetch["volumeMounts"] if mount["name"] != "data"]
        command = [*fetch["command"][:2], "list"]
        pod["containers"] = [{**fetch, "command": command, "volumeMounts": mounts}]
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "data"]
        return job

    def check(self) -> None:
        """Raise RestoreError if a Job uses the page's data."""
        for job in self.batch.list_namespaced_job(NAMESPACE).items:
            if job.metadata.name.startswith(WRITERS) and job.status.active:
                raise RestoreError(f"Job {job.metadata.name} is running: try again when it is over")

    def stop(self) -> None:
        """Scale the page to 0 replicas, and wait until its pod has ended."""
        # An `up` resets the replicas, and a scheduled backup may start: the taint keeps both pods
        # from incomplete data until `start`.
        self._taint({"key": RESTORE_TAINT, "effect": "NoSchedule"})
        self._scale(0)
        label = f"app.kubernetes.io/name={PAGE}"

        def has_ended() -> bool:
            # An evicted pod stays listed.
            pods = self.core.list_namespaced_pod(NAMESPACE, label_selector=label).items
            return all(pod.status.phase in ("Succeeded", "Failed") for pod in pods)

        self._until(has_ended, "stopping the chat page")

    def start(self, image: str | None = None) -> None:
        """Scale the page to 1 replica, with another image if given."""
        if image:
            containers = [{"name": PAGE, "image": image}]
            body = {"spec": {"template": {"spec": {"containers": containers}}}}
            self.apps.patch_namespaced_deployment(PAGE, NAMESPACE, body)
        self._scale(1)
        self._taint()

    def wait(self) -> None:
        """Wait until the page is ready."""

        def is_ready() -> bool:
            status = self.apps.read_namespaced_deployment_status(PAGE, NAMESPACE).status
            return bool(status.ready_replicas)

        self._until(is_ready, "starting the chat page")

    def run(self, job: dict[str, Any], action: str) -> tuple[str, int, str]:
        """Run a Job; returns the container that ended it, its exit code and its log."""
        name = self._create(job)
        logs = f"kubectl -n {NAMESPACE} logs -f job/{name} --all-containers"
        try:
            jobs.wait(self.batch, self.core, NAMESPACE, name, self.timeout, f"{action} ({logs})")
        except (UnreadableError, KeyboardInterrupt) as error:
            if self._has_started(name):
                raise
            self._delete(name)
            reason = str(error) or "interrupted"
            raise NotStartedError(
                f"{reason}; it had not started: check the backup disk and the image"
            ) from error
        container, code, log = jobs.result(self.core, NAMESPACE, name)
        # The exit code is enough to start the page again.
        return container, code, log if isinstance(log, str) else f"ended with {code}, but {log}"

    def _create(self, job: dict[str, Any]) -> str:
        """Create a Job, and return its name; raises NotStartedError."""
        # Named here, so that a request without an answer, which may have created it, is repeated.
        name = f"{job['metadata']['generateName']}{secrets.token_hex(4)}"
        body = {**job, "metadata": {**job["metadata"], "name": name}}

        def is_created() -> bool:
            try:
                self.batch.create_namespaced_job(NAMESPACE, body)
            except ApiException as error:
                if error.status != 409:
                    reason = f"the API server answered {error.status} {error.reason}"
                    raise NotStartedError(f"Job {name} not created: {reason}") from error
            return True

        self._until(is_created, f"creating Job {name}")
        return name

    def _has_started(self, job: str) -> bool:
        """Return whether the container that changes the data has started."""
        statuses = jobs.containers(self.core, NAMESPACE, job)
        states = [status.state for _, status in statuses if status.name == REFUSED[0]]
        return any(state.running or state.terminated for state in states)

    def _delete(self, job: str) -> None:
        """Delete a Job, and wait until its pod is gone."""
        self.batch.delete_namespaced_job(job, NAMESPACE, propagation_policy="Foreground")
        label = f"batch.kubernetes.io/job-name={job}"

        def is_gone() -> bool:
            return not self.core.list_namespaced_pod(NAMESPACE, label_selector=label).items

        self._until(is_gone, "deleting the Job")

    def _taint(self, *taints: dict[str, str]) -> None:
        for node in self.core.list_node().items:
            # A patch replaces the whole list.
            others = [taint for taint in node.spec.taints or [] if taint.key != RESTORE_TAINT]
            body = {"spec": {"taints": [*others, *taints]}}
            self.core.patch_node(node.metadata.name, body)

    def _scale(self, replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        self.apps.patch_namespaced_deployment_scale(PAGE, NAMESPACE, body)

    def _until(self, condition: Callable[[], bool], action: str) -> None:
        jobs.until(condition, lambda: action, self.timeout)


def restore(page: ChatPage, snapshot: str, image: str | None) -> str:
    """Restore a snapshot and return the last line; raises RestoreError or UnreadableError."""
    job = page.job(snapshot, image)
    page.check()
    with page_stopped():
        page.stop()
        try:
            container, code, log = page.run(job, "restoring")
        except NotStartedError as error:
            container, code, log = *REFUSED, " ".join(str(error).split())
        last = log.splitlines()[-1] if log else "no output"
        if code and container != FETCH and (container, code) != REFUSED:
            raise RestoreError(f"cut off with exit code {code}: {last}")
        page.start(None if code else image)
    page.wait()
    if code:
        raise RestoreError(f"nothing was changed, and the page runs as before: {last}")
    advice = f"; write webui.image: {image} into the stack file before the next up" if image else ""
    return f"{last}{advice}"


@contextmanager
def page_stopped() -> Iterator[None]:
    """Add to errors that the page stays stopped, and how to go on."""
    state = "the page is stopped; run the same command again, or see docs/backups.md"
    try:
        with readable_errors("the API server"):
            yield
    except UnreadableError as error:
        raise RestoreError(f"{error}; {state}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; a restore that has started goes on; {state}"
        ) from None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--snapshot", default="latest", help="ID of a snapshot, as --list prints")
    parser.add_argument("--image", help="an older image of Open WebUI, for an older backup")
    parser.add_argument("--list", action="store_true", help="only list the backups")


def run(options: argparse.Namespace) -> int:
    """Restore or list, and return the exit code."""
    start = time.monotonic()
    try:
        with readable_errors("the API server"):
            stack = stacks.find(options.stack)
            context = stacks.settings(options.stack, Request(0, 0)).context
            api = Cluster(context, stack.kubeconfig).api
            page = ChatPage(AppsV1Api(api), BatchV1Api(api), CoreV1Api(api), timeout=7200)
            if options.list:
                _, code, line = page.run(page.list_job(), "listing")
                if code:
                    raise RestoreError(
                        f"no backups could be listed: {' '.join(line.split())[:200]}"
                    )
            else:
                line = restore(page, options.snapshot, options.image)
    except KeyboardInterrupt as error:
        print(f"error: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    print(f"{line}\n{time.monotonic() - start:.0f} s" if not options.list else line)
    return 0
