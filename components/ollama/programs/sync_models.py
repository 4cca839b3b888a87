"""Sync Ollama's models with the declared models; the last line is the result."""

import json
import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from model_name import canonical
from ollama_client import FinalError, Ollama, OllamaError, ServerModel


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredModel:
    """A model of the stack file: pulled, or a variant created from its `base`."""

    name: str
    digest: str = ""
    keep_alive: str = ""
    load: bool = False
    base: str = ""
    system: str = ""
    template: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """The models that the Job added, by canonical name, and the last `refreshed`, in a file.

    An entry without a digest is being created: the model of that name is the Job's.
    """

    def __init__(self, folder: Path) -> None:
        """Read the file; raises FinalError."""
        self._file = folder / "models.json"
        self.refreshed, self.models = "", dict[str, ServerModel]()
        try:
            if self._file.exists():
                content = json.loads(self._file.read_text())
                self.refreshed = str(content["refreshed"])
                self.models = {key: ServerModel(*row) for key, row in content["models"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise FinalError(f"{self._file}: cannot be read, move it away: {error}") from error

    def owns(self, key: str, model: ServerModel) -> bool:
        """Return whether the Job added this model; a later pull by hand changes its time."""
        return key in self.models and self.models[key][:2] in (("", ""), model[:2])

    def save(self) -> None:
        """Replace the file atomically; raises OSError."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps({"refreshed": self.refreshed, "models": self.models}))
        partial.replace(self._file)


class Sync:
    """The models declared in `content`, and the models on the server; raises OllamaError."""

    def __init__(self, ollama: Ollama, ledger: Ledger, content: dict[str, Any]) -> None:
        self.ollama, self.ledger, self.listed = ollama, ledger, ollama.models()
        self.declared = {canonical(row["name"]): DeclaredModel(**row) for row in content["models"]}
        self.refreshed = content["refreshed"]
        self.failed: dict[str, str] = {}
        """Reason of each failure, by name."""

    def run(self, dry_run: bool) -> None:
        """Pull, create and load models, and delete others unless a step failed.

        A dry run only prints the steps.
        """
        step = self._print if dry_run else self._step
        for key, model in self.declared.items():
            if not model.base and (reason := self._pull_reason(key, model)):
                step(model.name, f"pull: {reason}", self._pull, key, model)
        for key, model in self.declared.items():
            if model.base and key in self.listed and not self.ledger.owns(key, self.listed[key]):
                advice = "delete it, or rename the variant"
                self.failed[model.name] = f"already exists, not created by this Job: {advice}"
            elif model.base:
                step(model.name, f"create from {model.base}", self._create, key, model)
        for model in self.declared.values():
            if model.load:
                step(model.name, "load", self.ollama.load, model.name, model.keep_alive)
        for key in sorted(self.listed.keys() - self.declared.keys()):
            if not self.ledger.owns(key, self.listed[key]):
                print(f"{key}: kept: not added by this Job")
            elif not self.failed:
                step(key, "delete: no longer declared", self.ollama.delete, key)
        if not self.failed and not dry_run:
            self.ledger.refreshed = self.refreshed
            self.ledger.models = {k: m for k, m in self.ledger.models.items() if k in self.declared}
            self.ledger.save()

    def _print(self, name: str, action: str, *_: object) -> None:
        print(f"{name}: would {action}")

    def _step(self, name: str, action: str, run: Callable[..., None], *args: object) -> None:
        if name in self.failed:
            return
        print(f"{name}: {action}")
        start = time.monotonic()
        try:
            run(*args)
            print(f"{name}: done in {timedelta(seconds=int(time.monotonic() - start))}")
        except OllamaError as error:
            print(f"{name}: failed: {error}")
            self.failed[name] = str(error)

    def _pull_reason(self, key: str, model: DeclaredModel) -> str:
        """Return why a model is pulled; empty if it is up to date."""
        if not (listed := self.listed.get(key)):
            return "missing"
        if model.digest not in ("", listed.digest):
            return f"digest: got {listed.digest}, want {model.digest}"
        if self.ledger.owns(key, listed) and self.ledger.models[key].base:
            return "was a variant"
        # A declared digest cannot have a newer version.
        is_new = self.refreshed not in ("", self.ledger.refreshed)
        return f"ollama.refreshed: {self.refreshed}" if is_new and not model.digest else ""

    def _pull(self, key: str, model: DeclaredModel) -> None:
        is_own = key not in self.listed or self.ledger.owns(key, self.listed[key])
        self.ollama.pull(model.name)
        listed = self._refresh(key, base="" if is_own else None)
        if not listed:
            raise OllamaError("pull succeeded, but Ollama does not list the model")
        if model.digest not in ("", listed.digest):
            advice = "the tag has moved: declare its new digest, or none"
            raise FinalError(f"digest: got {listed.digest}, want {model.digest}: {advice}")

    def _create(self, key: str, model: DeclaredModel) -> None:
        if model.base in self.failed or canonical(model.base) not in self.listed:
            raise FinalError(f"base {model.base} is missing")
        self.ledger.models[key] = ServerModel("", "", base=model.base)
        self.ledger.save()
        content = {name: getattr(model, name) for name in ("system", "template", "parameters")}
        try:
            self.ollama.create({"model": model.name, "from": model.base, **content})
        finally:
            self._refresh(key, model.base)

    def _refresh(self, key: str, base: str | None) -> ServerModel | None:
        """List the models again; unless `base` is None, record this model in the ledger."""
        self.listed = self.ollama.models()
        listed = self.listed.get(key)
        if base is not None:
            self.ledger.models.pop(key, None)
            self.ledger.models |= {key: listed._replace(base=base)} if listed else {}
            self.ledger.save()
        return listed


def main(arguments: list[str]) -> int:
    """Run the program and return its exit code."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only print the changes")
    parser.add_argument("file", type=Path, help="JSON object with the keys models and refreshed")
    options = parser.parse_args(arguments)
    # PID 1 ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: the next run continues"))
    try:
        folder, token = Path(os.environ["LEDGER_FOLDER"]), os.environ.get("MANAGE_TOKEN", "")
        ollama = Ollama(os.environ["OLLAMA_URL"], token, folder)
        sync = Sync(ollama, Ledger(folder), json.loads(options.file.read_text()))
        sync.run(options.dry_run)
    except (OllamaError, OSError) as error:
        print(f"failed: {error}")
        return 1
    for key, model in sync.declared.items():
        if listed := sync.listed.get(key):
            print(f"{model.name}: {listed.size / 1e9:.2f} GB, digest {listed.digest}")
    result = "dry run: nothing changed" if options.dry_run else "all models are in sync"
    failed = "; ".join(f"{name}: {reason}" for name, reason in sync.failed.items())
    print(f"failed: {failed}" if failed else result)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
