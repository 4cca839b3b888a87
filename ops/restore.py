"""Put a backup of the chats in place of what is there.

Stops the chat page, restores into its volume, and starts it again. Exit code 0 is restored, 1 not.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client import ApiException, AppsV1Api, BatchV1Api, CoreV1Api
from kubernetes.config import ConfigException, new_client_from_config
from urllib3.exceptions import HTTPError

from components import CHART_VALUES
from components.open_webui.backup import RESTORE_TAINT
from config import SettingsError, read, requested
from config.stack_file import project_keys, read_config
from ops import stacks
from ops.cluster import UnreadableError

NAMESPACE = "ollama-stack"
WRITERS = ("open-webui-restore-", "open-webui-backup-")
"""How the names of Jobs begin that use the page's data."""
PAGE = "open-webui"
TEMPLATE = "open-webui-backup-restore"
"""The suspended CronJob that the program registers; a Job is made of it."""
REFUSED = ("restore", 1)
"""The container, and what it ends with when it has touched nothing (backup.py)."""
UNPULLED = ("ImagePullBackOff", "InvalidImageName")
"""What a kubelet says of a container whose image it did not get; the first after some tries."""
FETCH = "fetch"
"""The container that only gets the snapshot beside the data."""


class RestoreError(RuntimeError):
    """Why it could not be restored, and how things stand, in one line."""


class NotBegunError(RestoreError):
    """A Job could not start, and is gone again: nothing was touched."""


class House:
    """The chat page in its cluster."""

    def __init__(self, apps: Any, batch: Any, core: Any, patience: float) -> None:
        """Use these APIs; wait `patience` seconds at most for each thing to happen."""
        self.apps, self.batch, self.core, self.patience = apps, batch, core, patience

    def job(self, snapshot: str, image: str | None) -> dict[str, Any]:
        """Give the Job that restores a snapshot, by Open WebUI's own or another image."""
        try:
            made = self.batch.read_namespaced_cron_job(TEMPLATE, NAMESPACE)
        except ApiException as error:
            if error.status != 404:
                raise
            none = "there are no backups: webui.backup is not set, or not up yet (docs/backups.md)"
            raise RestoreError(none) from error
        template: Any = self.batch.api_client.sanitize_for_serialization(made)
        spec = copy.deepcopy(template["spec"]["jobTemplate"]["spec"])
        pod = spec["template"]["spec"]
        (fetch,), (restore,) = pod["initContainers"], pod["containers"]
        for variable in fetch["env"]:
            if variable["name"] == "SNAPSHOT":
                variable["value"] = snapshot
        restore["image"] = image or restore["image"]
        about = template["metadata"]
        # A pod that has ended still holds its claims: it goes with the CronJob at the latest.
        owner = {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "name": TEMPLATE,
            "uid": about["uid"],
            "controller": True,
        }
        metadata = {
            "generateName": "open-webui-restore-",
            "labels": about["labels"],
            "ownerReferences": [owner],
        }
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}

    def listing(self) -> dict[str, Any]:
        """Give the Job that only lists what there is."""
        job = self.job("latest", None)
        pod = job["spec"]["template"]["spec"]
        (fetch,) = pod.pop("initContainers")
        # Under another name, as it is no restore that another one would have to wait for.
        job["metadata"]["generateName"] = "open-webui-backups-"
        pod["containers"] = [{**fetch, "command": [*fetch["command"][:2], "list"]}]
        return job

    def stop(self) -> None:
        """Scale the page to nothing, and wait until its pod is gone: the data has one writer."""
        for job in self.batch.list_namespaced_job(NAMESPACE).items:
            if job.metadata.name.startswith(WRITERS) and job.status.active:
                raise RestoreError(f"Job {job.metadata.name} is running: try again when it is over")
        # An `up` puts the replicas back at once, and the nightly backup has its hour: neither's pod
        # may find half of the data, so none is scheduled until `start`.
        self._taint({"key": RESTORE_TAINT, "effect": "NoSchedule"})
        self._scale(0)
        label = f"app.kubernetes.io/name={PAGE}"

        def gone() -> bool:
            # One that was evicted stays listed, and writes nothing any more.
            pods = self.core.list_namespaced_pod(NAMESPACE, label_selector=label).items
            return all(pod.status.phase in ("Succeeded", "Failed") for pod in pods)

        self._until(gone, "the chat page stops")

    def start(self, image: str | None = None) -> None:
        """Let the page run again, with another image if there is one, and wait until it does."""
        if image:
            containers = [{"name": PAGE, "image": image}]
            body = {"spec": {"template": {"spec": {"containers": containers}}}}
            self.apps.patch_namespaced_deployment(PAGE, NAMESPACE, body)
        self._scale(1)
        self._taint()

        def ready() -> bool:
            status = self.apps.read_namespaced_deployment_status(PAGE, NAMESPACE).status
            return bool(status.ready_replicas)

        self._until(ready, "the chat page starts")

    def run(self, job: dict[str, Any], what: str) -> tuple[str, int, str]:
        """Run a Job to its end; give the container that ended it, its exit code and last words."""
        name = self.batch.create_namespaced_job(NAMESPACE, job).metadata.name

        def over() -> bool:
            for _, one in self._containers(name):
                if (waiting := one.state.waiting) and waiting.reason in UNPULLED:
                    raise RestoreError(f"{waiting.reason}: {waiting.message}")
            status = self.batch.read_namespaced_job_status(name, NAMESPACE).status
            return bool(status.succeeded or status.failed)

        try:
            logs = f"kubectl -n {NAMESPACE} logs -f job/{name} --all-containers"
            self._until(over, f"{what} ({logs})")
        except (RestoreError, KeyboardInterrupt) as error:
            if self._began(name):
                raise
            self._drop(name)
            why = str(error) or "interrupted"
            raise NotBegunError(
                f"{why}; it had not begun: are the backup's disk and the image there?"
            ) from error
        ended = [
            (pod, one.name, one.state.terminated.exit_code)
            for pod, one in self._containers(name)
            if one.state.terminated
        ]
        if not ended:
            raise RestoreError(f"nobody knows how Job {name} ended; the page stays stopped")
        pod, container, code = next((found for found in ended if found[2]), ended[-1])
        try:
            said = self.core.read_namespaced_pod_log(
                pod, NAMESPACE, container=container, tail_lines=200, _request_timeout=30
            )
        except (ApiException, HTTPError) as error:
            # How it ended is known, and the page must not stay stopped for want of words.
            reason = " ".join(str(error).split())
            said = f"ended with {code}, but its log cannot be read: {reason}"
        return container, code, said.strip()

    def _containers(self, job: str) -> list[tuple[str, Any]]:
        """Give the state of each container of a Job, with its pod's name."""
        label = f"batch.kubernetes.io/job-name={job}"
        return [
            (pod.metadata.name, one)
            for pod in self.core.list_namespaced_pod(NAMESPACE, label_selector=label).items
            for these in (pod.status.init_container_statuses, pod.status.container_statuses)
            for one in these or []
        ]

    def _began(self, job: str) -> bool:
        """Say whether what touches the data has begun; what comes before it may be cut off."""
        states = [one.state for _, one in self._containers(job) if one.name == REFUSED[0]]
        return any(state.running or state.terminated for state in states)

    def _drop(self, job: str) -> None:
        """Delete a Job that would begin whenever it can, and wait until its pod is gone."""
        self.batch.delete_namespaced_job(job, NAMESPACE, propagation_policy="Foreground")
        label = f"batch.kubernetes.io/job-name={job}"

        def gone() -> bool:
            return not self.core.list_namespaced_pod(NAMESPACE, label_selector=label).items

        self._until(gone, "the Job is deleted")

    def _taint(self, *taints: dict[str, str]) -> None:
        for node in self.core.list_node().items:
            # The API server takes the list as a whole.
            others = [taint for taint in node.spec.taints or [] if taint.key != RESTORE_TAINT]
            body = {"spec": {"taints": [*others, *taints]}}
            self.core.patch_node(node.metadata.name, body)

    def _scale(self, replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        self.apps.patch_namespaced_deployment_scale(PAGE, NAMESPACE, body)

    def _until(self, what: Callable[[], bool], told: str) -> None:
        began = said = time.monotonic()
        while not what():
            now = time.monotonic()
            if now - began > self.patience:
                raise RestoreError(f"given up after {now - began:.0f} s: {told}")
            if now - said > 5:
                said = now
                print(f"  {told}: {now - began:.0f} s", flush=True)
            time.sleep(0.5)


def restore(house: House, snapshot: str, image: str | None) -> str:
    """Restore one snapshot and give the closing line; raises RestoreError."""
    job = house.job(snapshot, image)
    house.stop()
    try:
        container, code, said = house.run(job, "restoring")
    except NotBegunError as error:
        house.start()
        raise RestoreError(f"nothing was touched, and the page runs as before: {error}") from error
    last = said.splitlines()[-1] if said else "it said nothing"
    if code and container != FETCH and (container, code) != REFUSED:
        raise RestoreError(
            f"cut off with code {code}: {last}; the page stays stopped, so restore again"
        )
    if code:
        house.start()
        raise RestoreError(f"nothing was touched, and the page runs as before: {last}")
    house.start(image)
    advice = f"; write webui.image: {image} into the stack file before the next up" if image else ""
    return f"{last}{advice}"


@contextmanager
def told() -> Iterator[None]:
    """Turn whatever a cluster can answer into a RestoreError."""
    try:
        yield
    except ApiException as error:
        raise RestoreError(f"the API server answered {error.status} {error.reason}") from error
    except HTTPError as error:
        raise RestoreError(f"the API server does not answer: {error}") from error
    except (SettingsError, UnreadableError, ConfigException) as error:
        raise RestoreError(str(error)) from error


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="sandbox", help="whose chats")
    parser.add_argument("--snapshot", default="latest", help="which one, as --list shows them")
    parser.add_argument("--image", help="an older image of Open WebUI to go back to with it")
    parser.add_argument("--list", action="store_true", help="only list what there is")


def run(options: argparse.Namespace) -> int:
    """Restore or list, print, and give the exit code."""
    began = time.monotonic()
    try:
        with told():
            stack = stacks.find(options.stack)
            reserved = requested(CHART_VALUES)
            keys = project_keys(read_config(stacks.PROJECT / f"Pulumi.{options.stack}.yaml"))
            context = read(keys, reserved).context
            file = str(stack.kubeconfig) if stack.kubeconfig else None
            api: Any = new_client_from_config(file, context)  # type: ignore[no-untyped-call]
            house = House(AppsV1Api(api), BatchV1Api(api), CoreV1Api(api), patience=7200)
            if options.list:
                *_, line = house.run(house.listing(), "listing")
            else:
                line = restore(house, options.snapshot, options.image)
    except RestoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "error: interrupted; a restore that had begun goes on, so run it again", file=sys.stderr
        )
        return 130
    print(f"{line}\n{time.monotonic() - began:.0f} s" if not options.list else line)
    return 0
