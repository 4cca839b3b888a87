"""Which models may be declared, and what the model Job is told of them."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from packaging.version import Version

from config.catalogue import find
from config.errors import Path, Problem
from config.model_name import canonical
from config.settings import Model, Settings

SIZES: dict[str, tuple[str, ...]] = {
    "codellama": ("7b", "13b", "34b", "70b"),
    "embeddinggemma": ("300m",),
    "gemma": ("2b", "7b"),
    "gemma2": ("2b", "9b", "27b"),
    "gemma3": ("270m", "1b", "4b", "12b", "27b"),
    "gemma4": ("e2b", "e4b", "12b", "26b", "31b"),
    "gpt-oss": ("20b", "120b"),
    "llama3.1": ("8b", "70b", "405b"),
    "llama3.2": ("1b", "3b"),
    "llama3.3": ("70b",),
    "nomic-embed-text": ("v1.5", "137m"),
}
"""Tags per family of the Ollama library, November 2026. Another family or kind of tag may be asked
for; a size that its family does not have may not."""


def unavailable(name: str, *, is_variant: bool = False) -> str | None:
    """Say which name would be right; None if this one can be pulled.

    A variant's name is right if it cannot be taken for that of a model to be pulled.
    """
    path, _, short = canonical(name).rpartition("/")
    family, _, tag = short.partition(":")
    if path or (is_variant and family not in SIZES):
        return None
    if is_variant:
        return f"a name of its own, such as my-{family}:{tag}"
    if f"-{tag}".endswith("-cloud"):
        return "a model that is on the disk: this one runs at ollama.com"
    sizes, asked = SIZES.get(family, ()), tag.partition("-")[0]
    if not sizes or asked in sizes or not re.fullmatch(r"e?[\d.]+[bm]", asked):
        return None
    relatives = [
        f"{other}:{asked}"
        for other, tags in SIZES.items()
        if asked in tags and other.rstrip("0123456789.") == family.rstrip("0123456789.")
    ]
    there = ", ".join([f"{family}:{size}" for size in sizes] + relatives)
    return f"one that the Ollama library has: {there}"


def declared(settings: Settings) -> Iterator[Problem]:
    """Check the models of the list against each other."""
    models = settings.ollama.models
    named = {index: one for index, one in enumerate(models) if hasattr(one, "name")}
    bases = {canonical(one.name) for one in named.values() if getattr(one, "base", "") is None}
    seen: set[str] = set()
    for index, model in named.items():
        at, base = ("ollama", "models", index), getattr(model, "base", None)
        if canonical(model.name) in seen:
            yield Problem((*at, "name"), model.name, "each model once")
        elif want := unavailable(model.name, is_variant=base is not None):
            yield Problem((*at, "name"), model.name, want)
        seen.add(canonical(model.name))
        if base and canonical(base) not in bases and len(named) == len(models):
            want = f"one of ollama.models that has no base: {', '.join(sorted(bases))}"
            yield Problem((*at, "base"), base, want)


def known(settings: Settings) -> Iterator[Problem]:
    """Check that the size of each model to be pulled is known."""
    for at, name in _pulled(settings):
        if not find(name, settings.ollama.model_sizes or {}):
            want = f"a name that says its size, or ollama.model_sizes: {{{name}: 4Gi}}"
            yield Problem(at, name, want)


def runnable(settings: Settings) -> Iterator[Problem]:
    """Check that Ollama is new enough for each model to be pulled."""
    image, sizes = settings.ollama.image, settings.ollama.model_sizes or {}
    for _, name in _pulled(settings):
        if (model := find(name, sizes)) and _version(image) < Version(model.since):
            yield Problem(("ollama", "image"), image, f"{model.since} or newer for {name}")


def _pulled(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Give each name that is pulled, and where it is written."""
    for index, model in enumerate(settings.ollama.models):
        if hasattr(model, "name") and getattr(model, "base", "") is None:
            yield ("ollama", "models", index, "name"), model.name
    yield ("webui", "embedding_model"), settings.webui.embedding_model


def _version(image: str) -> Version:
    """The version in an image's tag, less what a build adds, such as `-rocm`."""
    found = re.search(r":v?(\d+\.\d+\.\d+(-?rc\d+)?)", image)
    assert found, f"{image}: config.settings lets no other image through"
    return Version(found[1])


def used(settings: Settings) -> Iterator[Problem]:
    """Check the keys that go by the list of models."""
    ollama, webui = settings.ollama, settings.webui
    least = ollama.loaded_at_once
    if ollama.loaded_models and ollama.loaded_models < least:
        want = f"{least} or more: the first model and each with a keep_alive of its own"
        yield Problem(("ollama", "loaded_models"), ollama.loaded_models, want)
    if webui.task_model and not ollama.named(webui.task_model):
        want = f"one of ollama.models: {', '.join(ollama.names)}"
        yield Problem(("webui", "task_model"), webui.task_model, want)
    if reason := unavailable(webui.embedding_model):
        yield Problem(("webui", "embedding_model"), webui.embedding_model, reason)
    for index, model in enumerate(ollama.models):
        if model.keep_alive and canonical(model.name) == canonical(webui.embedding_model):
            at = ("ollama", "models", index, "keep_alive")
            yield Problem(at, model.keep_alive, "nothing for webui.embedding_model")
    for name, text in (ollama.model_sizes or {}).items():
        if canonical(name) not in map(canonical, settings.model_set):
            want = f"a size for one of {', '.join(settings.model_set)}"
            yield Problem(("ollama", "model_sizes", name), text, want)


def told(models: Iterable[Model], embedding_model: str) -> list[dict[str, Any]]:
    """What the model Job is told; it loads the first model, and each with a keep_alive."""
    jobs: list[dict[str, Any]] = []
    for model in models:
        plain = ("name", "digest", "keep_alive", "base", "system", "template")
        job = {key: value for key in plain if (value := getattr(model, key)) is not None}
        parameters = model.parameters.model_dump(exclude_none=True) if model.parameters else {}
        if model.context:
            parameters["num_ctx"] = model.context
        if parameters:
            job["parameters"] = parameters
        if not jobs or model.keep_alive:
            job["load"] = True
        jobs.append(job)
    if canonical(embedding_model) not in [canonical(job["name"]) for job in jobs]:
        jobs.append({"name": embedding_model})
    return jobs
