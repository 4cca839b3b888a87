"""Sync the models of an Ollama server with the declared ones; the last line says how it ended."""

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
    """A model of the stack file: of a registry, or a variant that is created from its `base`."""

    name: str
    digest: str = ""
    keep_alive: str = ""
    load: bool = False
    base: str = ""
    system: str = ""
    template: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """What the Job added, by canonical name, and the last `refreshed`: a file beside the models.

    An entry without a digest is being created: whatever has that name is the Job's.
    """

    def __init__(self, folder: Path) -> None:
        """Read it; raises FinalError."""
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
        """Whether the Job added this model; who pulls it again leaves another time behind."""
        return key in self.models and self.models[key][:2] in (("", ""), model[:2])

    def save(self) -> None:
        """Replace the file by a whole one; raises OSError."""
        whole = self._file.with_suffix(".partial")
        whole.write_text(json.dumps({"refreshed": self.refreshed, "models": self.models}))
        whole.replace(self._file)


class Sync:
    """The models that `content` declares, beside those that the server has; raises OllamaError."""

    def __init__(self, ollama: Ollama, ledger: Ledger, content: dict[str, Any]) -> None:
        self.ollama, self.ledger, self.listed = ollama, ledger, ollama.models()
        self.declared = {canonical(one["name"]): DeclaredModel(**one) for one in content["models"]}
        self.refreshed = content["refreshed"]
        self.failed: dict[str, str] = {}
        """Reasons by name."""

    def run(self, dry_run: bool) -> None:
        """Pull, create, load, and delete unless something failed; a dry run only prints it."""
        step = self._print if dry_run else self._step
        for key, model in self.declared.items():
            if not model.base and (reason := self._pull_reason(key, model)):
                step(model.name, f"pull: {reason}", self._pull, key, model)
        for key, model in self.declared.items():
            if model.base and key in self.listed and not self.ledger.owns(key, self.listed[key]):
                advice = "remove it, or give the variant another name"
                self.failed[model.name] = f"is there, but was not created by this Job: {advice}"
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

    def _print(self, name: str, what: str, *_: object) -> None:
        print(f"{name}: would {what}")

    def _step(self, name: str, what: str, do: Callable[..., None], *args: object) -> None:
        if name in self.failed:
            return
        print(f"{name}: {what}")
        began = time.monotonic()
        try:
            do(*args)
            print(f"{name}: done in {timedelta(seconds=int(time.monotonic() - began))}")
        except OllamaError as error:
            print(f"{name}: failed: {error}")
            self.failed[name] = str(error)

    def _pull_reason(self, key: str, model: DeclaredModel) -> str:
        """Why a model is pulled; empty if it is there as declared."""
        if not (listed := self.listed.get(key)):
            return "not there"
        if model.digest not in ("", listed.digest):
            return f"digest: got {listed.digest}, want {model.digest}"
        if self.ledger.owns(key, listed) and self.ledger.models[key].base:
            return "there as a variant"
        # Of a declared digest there is nothing newer to have.
        is_new = self.refreshed not in ("", self.ledger.refreshed)
        return f"ollama.refreshed: {self.refreshed}" if is_new and not model.digest else ""

    def _pull(self, key: str, model: DeclaredModel) -> None:
        is_ours = key not in self.listed or self.ledger.owns(key, self.listed[key])
        self.ollama.pull(model.name)
        listed = self._look(key, base="" if is_ours else None)
        if not listed:
            raise OllamaError("Ollama reports success, but does not list it")
        if model.digest not in ("", listed.digest):
            advice = "the tag has moved: declare the digest it has now, or none"
            raise FinalError(f"digest: got {listed.digest}, want {model.digest}: {advice}")

    def _create(self, key: str, model: DeclaredModel) -> None:
        if model.base in self.failed or canonical(model.base) not in self.listed:
            raise FinalError(f"its base {model.base} is not there as declared")
        self.ledger.models[key] = ServerModel("", "", base=model.base)
        self.ledger.save()
        content = {name: getattr(model, name) for name in ("system", "template", "parameters")}
        try:
            self.ollama.create({"model": model.name, "from": model.base, **content})
        finally:
            self._look(key, model.base)

    def _look(self, key: str, base: str | None) -> ServerModel | None:
        """List the models anew, and note in the ledger, with a `base`, that this one is ours."""
        self.listed = self.ollama.models()
        listed = self.listed.get(key)
        if base is not None:
            self.ledger.models.pop(key, None)
            self.ledger.models |= {key: listed._replace(base=base)} if listed else {}
            self.ledger.save()
        return listed


def main(arguments: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("file", type=Path, help="JSON: models, and the word refreshed")
    options = parser.parse_args(arguments)
    # The first process of a container ignores SIGTERM otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: the next run goes on from here"))
    try:
        folder, token = Path(os.environ["LEDGER_FOLDER"]), os.environ.get("PULL_TOKEN", "")
        ollama = Ollama(os.environ["OLLAMA_URL"], token, folder)
        sync = Sync(ollama, Ledger(folder), json.loads(options.file.read_text()))
        sync.run(options.dry_run)
    except (OllamaError, OSError) as error:
        print(f"failed: {error}")
        return 1
    for key, model in sync.declared.items():
        if listed := sync.listed.get(key):
            print(f"{model.name}: {listed.size / 1e9:.2f} GB, digest {listed.digest}")
    end = "dry run: nothing was changed" if options.dry_run else "in sync: all is as declared"
    failed = "; ".join(f"{name}: {reason}" for name, reason in sync.failed.items())
    print(f"failed: {failed}" if failed else end)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
