"""The declared models beside those that are there: what is to be done, and doing it."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pull_models
from model_ledger import Ledger
from pull_models import FinalError, Found, PullError, ask, comparable, follow, persist, pull

# A load tells no progress; Ollama itself gives one up that stands still for OLLAMA_LOAD_TIMEOUT.
LOAD = float(os.environ.get("LOAD_SECONDS", "1200"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One declared model; one with a `base` is a variant, made here."""

    name: str
    digest: str = ""
    keep_alive: str = ""
    load: bool = False
    base: str = ""
    system: str = ""
    template: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name as it is compared."""
        return comparable(self.name)

    @property
    def modelfile(self) -> dict[str, Any]:
        """What `/api/create` is asked for."""
        made = {"system": self.system, "template": self.template, "parameters": self.parameters}
        return {"model": self.name, "from": self.base} | {k: v for k, v in made.items() if v}

    def recipe(self, base: Found) -> str:
        """A digest that changes with all that the variant is made of."""
        text = json.dumps([self.modelfile, base.digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class House:
    """One server: the declared models, those that are there, and what was once added."""

    def __init__(self, declared: list[Model], ledger: Ledger) -> None:
        """Look at what is there; raises `PullError`."""
        self.declared, self.ledger = declared, ledger
        self.failed: dict[str, str] = {}
        """Reasons by name."""
        self.how = {model.name: "already there" for model in declared}
        self._counts: Counter[str] = Counter()
        self._look()

    def plan(self) -> Iterator[str]:
        """Yield what is to be done, and what is left alone, in lines."""
        for model in self.declared:
            step = f"make {model.name} from {model.base}" if model.base else f"pull {model.name}"
            try:
                if why := self._wanting(model):
                    yield f"{step}: {why}"
            except PullError as error:
                yield f"cannot {step}: {error}"
        for model in self.declared:
            if model.load:
                yield f"load {model.name}"
        for key in self._surplus():
            if self.ledger.has(key, self.there.get(key)):
                yield f"delete {key}: was added by this program, is declared no longer"
        for key in sorted(self.there.keys() - {model.key for model in self.declared}):
            if not self.ledger.has(key, self.there[key]):
                yield f"keep {key}: was not added by this program"

    def carry_out(self) -> None:
        """Do it all; what fails is in `failed`, and then nothing is deleted."""
        # A variant is made of what was pulled.
        for model in sorted(self.declared, key=lambda model: bool(model.base)):
            self._try(model, self._settle)
        for model in self.declared:
            if model.load and model.name not in self.failed:
                self._try(model, self._load)
        for key in self._surplus():
            if self.failed:
                print(f"{key}: not deleted, because something failed")
            else:
                self._prune(key)

    def done(self) -> str:
        """What was changed, counted."""
        told = [f"{number} {what}" for what, number in self._counts.items()]
        return ", ".join(told) or "nothing was to be changed"

    def _look(self) -> None:
        self.there: dict[str, Found] = persist("/api/tags", pull_models.models)
        """What is there, by comparable name."""

    def _wanting(self, model: Model) -> str:
        """Say why a model has to be pulled or made; empty if it is there as declared.

        Raises `FinalError` where that would overwrite what somebody else made.
        """
        entry, found = self.ledger[model.key], self.there.get(model.key)
        if not found:
            return "not there"
        mine = self.ledger.has(model.key, found)
        if not model.base:
            if model.digest not in ("", found.digest):
                return f"is {found.digest}, declared is {model.digest}"
            return "is a variant made by this program" if mine and entry.recipe else ""
        if not mine and not entry.pending:
            raise FinalError("is there, but was not made by this program: remove or rename it")
        base = self.there.get(comparable(model.base))
        same = mine and base and entry.recipe == model.recipe(base)
        return "" if same else "is declared otherwise now"

    def _surplus(self) -> list[str]:
        """Keys in the ledger that nobody declares."""
        return sorted(self.ledger.names() - {model.key for model in self.declared})

    def _try(self, model: Model, step: Callable[[Model], None]) -> None:
        try:
            step(model)
        except PullError as error:
            self.failed[model.name] = self.how[model.name] = str(error)
            print(f"{model.name}: given up, {error}")

    def _settle(self, model: Model) -> None:
        if not self._wanting(model):
            return
        began = time.monotonic()
        print(f"{model.name}: {'making' if model.base else 'pulling'}")
        if model.base:
            what = self._make(model)
        elif model.key in self.there:
            what = self._renew(model)
        else:
            what = self._pull(model)
        self.how[model.name] = f"{what} in {timedelta(seconds=int(time.monotonic() - began))}"
        self._counts[what.split()[-1]] += 1
        print(f"{model.name}: {self.how[model.name]}")

    def _pull(self, model: Model) -> str:
        """Pull a model that is not there; one that is not what was declared stays, and fails."""
        size = persist(model.name, pull, model.name)
        self._look()
        self.ledger.add(model.key, self._arrived(model))
        self._verify(model)
        return f"{size} pulled"

    def _renew(self, model: Model) -> str:
        """Pull a model anew; what was there comes back unless the new one is as declared."""
        kept = f"{model.name}-kept"
        recipe = self.ledger[model.key].recipe
        mine = self._keep(model, kept)
        failure, size = None, ""
        try:
            size = persist(model.name, pull, model.name)
            self._look()
            self._verify(model)
        except PullError as error:
            failure = error
            # If this fails too, the copy stays, and the next run begins with it.
            self._copy(kept, model.name)
        self._look()
        if mine:
            # What came back is still the variant that it was.
            self.ledger.add(model.key, self._arrived(model), recipe if failure else "")
        self._delete(comparable(kept))
        if failure:
            raise failure
        return f"{size} pulled"

    def _keep(self, model: Model, kept: str) -> bool:
        """Copy a model under the name `kept`, and say whether this program had added it.

        A copy that an earlier run left has what was there before that run: it is not touched.
        """
        key, old = comparable(kept), self.ledger[model.key]
        if self.ledger.has(key, self.there.get(key)):
            return old.digest == self.there[key].digest
        if key in self.there and not self.ledger[key].pending:
            raise FinalError(f"{kept} is in the way: remove or rename it")
        self.ledger.begin(key)
        self._copy(model.name, kept)
        self._look()
        self.ledger.add(key, self.there[key])
        return self.ledger.has(model.key, self.there[model.key])

    def _make(self, model: Model) -> str:
        base = self.there.get(comparable(model.base))
        if not base:
            raise FinalError(f"{model.base}, which it is made from, is not there")
        self.ledger.begin(model.key)
        follow("/api/create", model.modelfile, lambda _: None)
        self._look()
        self.ledger.add(model.key, self._arrived(model), model.recipe(base))
        return "made"

    def _load(self, model: Model) -> None:
        """Let the server load a model, and keep it for as long as declared."""
        began = time.monotonic()
        print(f"{model.name}: loading")
        wanted: dict[str, Any] = {"model": model.name, "stream": False}
        if model.keep_alive:
            # In a request only a number may be without a unit.
            wanted["keep_alive"] = -1 if model.keep_alive == "-1" else model.keep_alive
        with ask("/api/generate", LOAD, wanted) as response:
            if not json.load(response)["done"]:
                raise PullError("the server did not load it")
        print(f"{model.name}: loaded in {timedelta(seconds=int(time.monotonic() - began))}")

    def _prune(self, key: str) -> None:
        """Delete a model that this program had added, unless somebody has touched it since."""
        try:
            if self.ledger.has(key, self.there.get(key)):
                self._delete(key)
                self._counts["deleted"] += 1
                print(f"{key}: deleted")
            else:
                self.ledger.forget(key)
        except PullError as error:
            self.failed[key] = str(error)
            print(f"{key}: given up, {error}")

    def _delete(self, key: str) -> None:
        with ask("/api/delete", body={"model": self.there[key].name}, method="DELETE"):
            del self.there[key]
        self.ledger.forget(key)

    def _copy(self, name: str, other: str) -> None:
        with ask("/api/copy", body={"source": name, "destination": other}):
            pass

    def _arrived(self, model: Model) -> Found:
        if found := self.there.get(model.key):
            return found
        raise PullError("there is success, but /api/tags does not list it")

    def _verify(self, model: Model) -> None:
        found = self._arrived(model)
        if model.digest not in ("", found.digest):
            raise FinalError(f"the registry has {found.digest}, declared is {model.digest}")
