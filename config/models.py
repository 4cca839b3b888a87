"""Checks of the declared models, and the model Job's list of them."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from packaging.version import Version

from config.catalogue import find
from config.errors import KeyPath, Problem
from config.model_name import canonical
from config.settings import Model, Ollama, Settings

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
"""Tags by family of the Ollama library, November 2026. Other families and other tags are accepted;
a size that its family does not have is not."""


def validate_name(name: str, *, is_variant: bool = False) -> str | None:
    """Return which name is wanted instead, or None if this one is valid.

    A variant must not have the name of a model in the Ollama library.
    """
    path, _, short = canonical(name).rpartition("/")
    family, _, tag = short.partition(":")
    # With any path, as in Ollama's internal/modelref.
    if f"-{tag}".endswith("-cloud"):
        return "a model that runs locally: this one runs at ollama.com"
    if tag == "local":
        return "a tag other than local, which Ollama ignores"
    if path or (is_variant and family not in SIZES):
        return None
    if is_variant:
        return f"a new name, such as my-{family}:{tag}"
    sizes, wanted = SIZES.get(family, ()), tag.partition("-")[0]
    if not sizes or wanted in sizes or not re.fullmatch(r"e?[\d.]+[bm]", wanted):
        return None
    others = [
        f"{other}:{wanted}"
        for other, tags in SIZES.items()
        if wanted in tags and other.rstrip("0123456789.") == family.rstrip("0123456789.")
    ]
    names = ", ".join([f"{family}:{size}" for size in sizes] + others)
    return f"a model of the Ollama library: {names}"


def check_names(settings: Settings) -> Iterator[Problem]:
    """Check that the models' names are valid and distinct, and that each base is in the list."""
    for key, server in settings.model_servers.items():
        models = server.models
        named = {index: model for index, model in enumerate(models) if hasattr(model, "name")}
        bases = {
            canonical(model.name) for model in named.values() if getattr(model, "base", "") is None
        }
        seen: set[str] = set()
        for index, model in named.items():
            path: KeyPath = (*key.split("."), "models", index)
            base = getattr(model, "base", None)
            if canonical(model.name) in seen:
                yield Problem((*path, "name"), model.name, "each model once")
            elif want := validate_name(model.name, is_variant=base is not None):
                yield Problem((*path, "name"), model.name, want)
            seen.add(canonical(model.name))
            if base and canonical(base) not in bases and len(named) == len(models):
                want = f"one of {key}.models that has no base: {', '.join(sorted(bases))}"
                yield Problem((*path, "base"), base, want)


def check_sizes(settings: Settings) -> Iterator[Problem]:
    """Check that the size of each model to pull is known."""
    for key, path, name in _models_to_pull(settings):
        if not find(name, settings.model_servers[key].model_sizes or {}):
            want = f"a name with its size, or {key}.model_sizes: {{{name}: 4Gi}}"
            yield Problem(path, name, want)


def check_versions(settings: Settings) -> Iterator[Problem]:
    """Check that Ollama's version supports each model to pull."""
    for key, _, name in _models_to_pull(settings):
        image, sizes = (server := settings.model_servers[key]).image, server.model_sizes or {}
        if (shape := find(name, sizes)) and _version(image) < Version(shape.since):
            path = (*key.split("."), "image")
            yield Problem(path, image, f"{shape.since} or newer for {name}")


def _models_to_pull(settings: Settings) -> Iterator[tuple[str, KeyPath, str]]:
    """Yield the server's key, and key and name of each model that is not a variant."""
    for key, server in settings.model_servers.items():
        for index, model in enumerate(server.models):
            if hasattr(model, "name") and getattr(model, "base", "") is None:
                yield key, (*key.split("."), "models", index, "name"), model.name
    yield "ollama", ("webui", "embedding_model"), settings.webui.embedding_model


def _version(image: str) -> Version:
    """Return the version in an image's tag, without a suffix such as `-rocm`."""
    match = re.search(r":v?(\d+\.\d+\.\d+(-?rc\d+)?)", image)
    assert match, f"{image}: config.settings lets no other image through"
    return Version(match[1])


def check_uses(settings: Settings) -> Iterator[Problem]:
    """Check the keys that refer to the list of models."""
    webui = settings.webui
    for key, server in settings.model_servers.items():
        yield from _check_server_uses(settings, (*key.split("."),), server)
    if webui.task_model and not settings.ollama.find(webui.task_model):
        want = f"one of ollama.models: {', '.join(settings.ollama.names)}"
        yield Problem(("webui", "task_model"), webui.task_model, want)
    if want := validate_name(webui.embedding_model) or "":
        yield Problem(("webui", "embedding_model"), webui.embedding_model, want)


def _check_server_uses(settings: Settings, path: KeyPath, server: Ollama) -> Iterator[Problem]:
    minimum = server.preloaded_weights
    if server.loaded_models and server.loaded_models < minimum:
        want = f"{minimum} or more: the first model, and each with a keep_alive"
        yield Problem((*path, "loaded_models"), server.loaded_models, want)
    for index, model in enumerate(server.models):
        if model.keep_alive and (other := _conflicting(model, server)):
            tokens = other.context or server.context_length
            want = (
                f"the context of {other.name}, {tokens}, or no keep_alive: both have the same"
                " weights, which Ollama loads once"
            )
            key = "context" if model.context else "keep_alive"
            yield Problem((*path, "models", index, key), model.context or model.keep_alive, want)
        if model.keep_alive and canonical(model.name) == canonical(settings.webui.embedding_model):
            want = "nothing for webui.embedding_model"
            yield Problem((*path, "models", index, "keep_alive"), model.keep_alive, want)
    for name, quantity in (server.model_sizes or {}).items():
        if canonical(name) not in map(canonical, settings.model_set):
            want = f"a size for one of {', '.join(settings.model_set)}"
            yield Problem((*path, "model_sizes", name), quantity, want)


def _conflicting(model: Model, ollama: Ollama) -> Model | None:
    """Return an earlier preloaded model with the same weights and another context, or None.

    Ollama unloads it to load this one.
    """
    for other in ollama.preloaded:
        if other is model:
            return None
        is_same = canonical(other.base or other.name) == canonical(model.base or model.name)
        contexts = {model.context or ollama.context_length, other.context or ollama.context_length}
        if is_same and len(contexts) > 1:
            return other
    return None


def model_job_entries(models: Iterable[Model], names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the model Job's list of `models`, and of any more `names` of models to pull.

    The Job loads the first model, and each with a `keep_alive`.
    """
    entries: list[dict[str, Any]] = []
    for model in models:
        keys = ("name", "digest", "keep_alive", "base", "system", "template")
        entry = {key: value for key in keys if (value := getattr(model, key)) is not None}
        parameters = model.parameters.model_dump(exclude_none=True) if model.parameters else {}
        if model.context:
            parameters["num_ctx"] = model.context
        if parameters:
            entry["parameters"] = parameters
        if not entries or model.keep_alive:
            entry["load"] = True
        entries.append(entry)
    declared = {canonical(entry["name"]) for entry in entries}
    return entries + [{"name": name} for name in names if canonical(name) not in declared]
