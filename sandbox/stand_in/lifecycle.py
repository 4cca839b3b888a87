"""One object's life on the sandbox cluster: rehearsed, applied, awaited, compared, removed."""

import time
from collections.abc import Callable
from threading import Event
from typing import Any

from sandbox.stand_in import diff, wait, wire
from sandbox.stand_in.api import FIELD_MANAGER, Cluster, ServerError, UnknownKindError
from sandbox.stand_in.base import Change, NotReadyError, RefusedError

# Phrases of a refused update that mean: only a new object can have this value.
IMMUTABLE = ("immutable", "may not be changed", "may not change", "forbidden", "updates to")
# Tries of a create whose namespace or definition is not there yet, as the official provider's.
TRIES = 5
PROPAGATION = {"background": "Background", "orphan": "Orphan"}


class Lifecycle:
    """What the plugin does to objects of any kind, with the provider's `settings`."""

    def __init__(
        self,
        cluster: Cluster,
        settings: dict[str, Any],
        cancelled: Event,
        warn: Callable[[str, str], None],
    ) -> None:
        self.cluster = cluster
        self.namespace = str(settings.get("namespace") or "default")
        self._on = {key for key, value in settings.items() if value in (True, "true")}
        self._cancelled = cancelled
        self._warn = warn
        self._compared: set[str] = set()

    def placed(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Add the default namespace, if its kind needs one and the program says none."""
        metadata = obj.get("metadata")
        if not isinstance(metadata, dict) or metadata.get("namespace"):
            return obj
        if not self.cluster.namespaced(obj):
            return obj
        return {**obj, "metadata": {**metadata, "namespace": self.namespace}}

    def changes(
        self, urn: str, state: dict[str, Any], old: dict[str, Any], new: dict[str, Any]
    ) -> list[Change]:
        """Find what `new` changes in `state`, as far as the inputs `old` were about it."""
        self._compared.add(urn)
        state, old, new = (diff.canonical(self.placed(one)) for one in (state, old, new))
        found = list(diff.changes(diff.prune(state, old), new))
        mutable = [kind for kind in ("ConfigMap", "Secret") if f"enable{kind}Mutable" in self._on]
        found = diff.marked(found, diff.immutable(new, old, mutable))
        if any(change.replaces for change in found) or not found or wire.has_unknown(new):
            return found
        try:
            self.cluster.apply(new, force=True, dry_run=True)
        except ServerError as error:
            if error.code == 422 and any(phrase in str(error).lower() for phrase in IMMUTABLE):
                named = diff.marked(found, error.fields)
                everything = [change._replace(replaces=True) for change in found]
                return named if any(change.replaces for change in named) else everything
        except UnknownKindError:
            pass
        return found

    def rehearse(self, urn: str, obj: dict[str, Any], *, new: bool) -> dict[str, Any]:
        """Ask what the server would make of `obj`; `obj` itself where it cannot say yet.

        Raises RefusedError with the server's message.
        """
        if wire.has_unknown(obj):
            return obj
        try:
            there = self.cluster.get(obj) is not None
            # An object compared before is being replaced: its predecessor is still there.
            if new and there and urn in self._compared:
                return obj
            self._expect(obj, there=not new, found=there)
            live, warnings = self.cluster.apply(obj, force=new or self._forced(obj), dry_run=True)
        except UnknownKindError:
            return obj
        except ServerError as error:
            # The namespace is created in the same update.
            if error.code == 404:
                return obj
            raise self._readable(error, obj) from error
        self._report(urn, warnings)
        return diff.unserved(live) if new else live

    def create(self, urn: str, obj: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Create `obj` and wait until it is ready; raise NotReadyError, RefusedError."""
        for attempt in range(TRIES):
            try:
                self._expect(obj, there=False, found=self.cluster.get(obj) is not None)
                return self._apply(urn, obj, seconds)
            except (ServerError, UnknownKindError) as error:
                missing = isinstance(error, UnknownKindError) or error.code == 404
                if not missing or attempt == TRIES - 1:
                    raise
            self._cancelled.wait(0.5 * 2**attempt)
        raise AssertionError

    def update(self, urn: str, obj: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Change the live object to `obj` and wait until it is ready; raises as `create`."""
        self._expect(obj, there=True, found=self.cluster.get(obj) is not None)
        return self._apply(urn, obj, seconds)

    def _apply(self, urn: str, obj: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            live, warnings = self.cluster.apply(obj, force=self._forced(obj))
        except ServerError as error:
            raise self._readable(error, obj) from error
        self._report(urn, warnings)
        if wait.skipped(obj):
            return live
        return wait.ready(live, self.cluster, wait.limit(seconds, obj), self._cancelled)

    def read(self, obj: dict[str, Any]) -> dict[str, Any] | None:
        """Get the live object, None if it or its kind is gone."""
        try:
            return self.cluster.get(self.placed(obj))
        except UnknownKindError:
            return None

    def inputs(self, live: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
        """Find the inputs that would make `live`, in the shape of `old`, if there are any."""
        if old:
            known = diff.canonical(self.placed(old))
            pruned: dict[str, Any] = diff.prune(diff.canonical(live), known)
            return pruned if any(diff.changes(pruned, known)) else old
        applied = [
            entry["fieldsV1"]
            for entry in live["metadata"].get("managedFields") or []
            if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        ]
        # An object of ours that the state lost: what we applied is what the program said.
        base = diff.owned(live, applied[0]) if applied else diff.unserved(live)
        names = {
            key: live["metadata"][key] for key in ("name", "namespace") if key in live["metadata"]
        }
        head = {key: live[key] for key in ("apiVersion", "kind")}
        return {**head, **base, "metadata": {**base.get("metadata", {}), **names}}

    def check_ready(self, live: dict[str, Any]) -> None:
        """Raise NotReadyError unless `live` is ready at this moment."""
        if not wait.skipped(live) and (missing := wait.lacking(live, self.cluster)):
            first, *rest = [f"{wait.title(live)}: {missing}", *wait.reasons(live, self.cluster)]
            raise NotReadyError(["; ".join([first, *rest])], live)

    def remove(self, obj: dict[str, Any], seconds: float) -> None:
        """Delete `obj` and wait until it is gone; raises RefusedError if it stays."""
        if (live := self.read(obj)) is None:
            return
        annotations = live["metadata"].get("annotations") or {}
        policy = annotations.get("pulumi.com/deletionPropagationPolicy", "foreground")
        self.cluster.delete(live, PROPAGATION.get(policy, "Foreground"))
        limit = wait.limit(seconds, live)
        end = time.monotonic() + limit
        for pause in wait.pauses():
            now = self.read(live)
            if now is None or now["metadata"]["uid"] != live["metadata"]["uid"]:
                return
            if self._cancelled.is_set() or time.monotonic() >= end:
                raise RefusedError("; ".join(_holding(now, limit)))
            self._cancelled.wait(max(0.0, min(pause, end - time.monotonic())))

    def _forced(self, obj: dict[str, Any]) -> bool:
        annotations = obj["metadata"].get("annotations") or {}
        return annotations.get("pulumi.com/patchForce") == "true" or "enablePatchForce" in self._on

    def _report(self, urn: str, warnings: list[str]) -> None:
        for warning in warnings:
            self._warn(urn, warning)

    @staticmethod
    def _expect(obj: dict[str, Any], *, there: bool, found: bool) -> None:
        if found != there:
            advice = (
                "already exists: import it, or delete it first"
                if found
                else "is gone: run `pulumi refresh`, then update again"
            )
            message = f"{wait.title(obj)} {advice}"
            raise RefusedError(message)

    @staticmethod
    def _readable(error: ServerError, obj: dict[str, Any]) -> ServerError:
        help_ = ": set the annotation pulumi.com/patchForce, or give the field back"
        error.args = (f"{wait.title(obj)}: {error}{help_ if error.code == 409 else ''}",)
        return error


def _holding(live: dict[str, Any], seconds: float) -> list[str]:
    """Say what keeps a deleted object: its finalizers, and for a namespace what is left in it."""
    finalizers = live["metadata"].get("finalizers") or (live.get("spec") or {}).get("finalizers")
    conditions = (live.get("status") or {}).get("conditions") or []
    return [
        f"{wait.title(live)} is not gone after {seconds:g} s, held by {finalizers or 'nothing'}",
        *(entry["message"] for entry in conditions if "Remaining" in entry.get("type", "")),
    ]
