"""Which models may be declared: what cannot be pulled or made is refused early."""

import re
from collections.abc import Iterator

from config.declaration import Model
from config.settings import Settings

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
    "nomic-embed-text": ("v1.5",),
}
"""Tags per family of the Ollama library, November 2026. A family that is not here may be asked
for; a size that its family does not have may not."""

PARAMETERS: dict[str, type] = {
    "frequency_penalty": float,
    "min_p": float,
    "num_keep": int,
    "num_predict": int,
    "presence_penalty": float,
    "repeat_last_n": int,
    "repeat_penalty": float,
    "seed": int,
    "stop": list,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "typical_p": float,
}
"""Parameters of a variant by type: those of `Options` in Ollama's api/types.go that shape an
answer. Ollama passes over what it does not know, and a context has a key of its own."""

_NAME = re.compile(r"(?P<path>(?:[\w.-]+/)*)(?P<family>[\w.-]+):(?P<tag>[\w.-]+)")


def wrong(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with the declared models, each in one line with its key."""
    ollama, embedding = settings.ollama, settings.webui.embedding_model
    names = ollama.names
    if not names:
        yield "ollama.models: [] must name at least one model, such as llama3.2:3b"
    for index, model in enumerate(ollama.models):
        key = f"ollama.models[{index}]"
        if not_so := problem(model.name, is_variant=model.base is not None):
            yield f"{key}: {model.name!r} {not_so}"
        if model.name in names[:index]:
            yield f"{key}: {model.name!r} must be listed once"
        if model.digest is not None and not re.fullmatch("[0-9a-f]{64}", model.digest):
            yield f"{key}.digest: {model.digest!r} must be 64 hex digits, as the Job's log has them"
        if model.keep_alive and model.name == embedding:
            yield f"{key}.keep_alive: must not be set for webui.embedding_model"
        yield from _variant(key, model, ollama.models)
    if not_so := problem(embedding):
        yield f"webui.embedding_model: {embedding!r} {not_so}"
    if ollama.loaded_models and ollama.loaded_at_once > ollama.loaded_models:
        yield (
            f"ollama.loaded_models: {ollama.loaded_models} must be at least"
            f" {ollama.loaded_at_once}, for the first model and each with a keep_alive of its own"
        )
    task = settings.webui.task_model
    if task is not None and task not in names:
        yield f"webui.task_model: {task!r} must be one of ollama.models: {', '.join(names)}"


def _variant(key: str, model: Model, others: list[Model]) -> Iterator[str]:
    """Yield what is wrong with what a variant is made of."""
    made = {
        "context": model.context,
        "system": model.system,
        "template": model.template,
        "parameters": model.parameters,
    }
    given = [name for name, value in made.items() if value is not None]
    if model.base is None:
        for name in given:
            yield f"{key}.{name}: needs a base to make this model from, and a name of its own"
        return
    bases = [other.name for other in others if other.base is None]
    if model.base not in bases:
        yield f"{key}.base: {model.base!r} must be one of ollama.models: {', '.join(bases)}"
    if not given:
        yield f"{key}.base: needs one of {', '.join(made)}, or the two are the same model"
    if model.digest is not None:
        yield f"{key}.digest: must not be set for a variant; the digest of its base pins it"
    for name in ("system", "template"):
        if made[name] == "":
            yield f"{key}.{name}: '' must not be empty: the base's own would stay"
    for name, value in (model.parameters or {}).items():
        if name not in PARAMETERS:
            yield f"{key}.parameters.{name}: unknown; known are {', '.join(PARAMETERS)}"
        elif not _fits(value, PARAMETERS[name]):
            kind = {int: "a whole number", float: "a number", list: "a list of texts"}
            yield f"{key}.parameters.{name}: {value!r} must be {kind[PARAMETERS[name]]}"


def _fits(value: object, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    return type(value) is kind or (kind is float and type(value) is int)


def problem(name: str, *, is_variant: bool = False) -> str | None:
    """Say what is wrong with a model's name and what would be right.

    None if it can be pulled, or, for a variant, if it cannot be taken for one to be pulled.
    """
    if not (match := _NAME.fullmatch(name)):
        example = f"{name}:{SIZES[name][0]}" if name in SIZES else "llama3.2:3b"
        return f"must be family:tag, such as {example}"
    family, tag = match["family"], match["tag"]
    if tag == "latest":
        return "must name a fixed tag, not latest"
    if is_variant:
        known = not match["path"] and family in SIZES
        return f"must have a name of its own, such as my-{family}:{tag}" if known else None
    if match["path"] or family not in SIZES or tag.split("-")[0] in SIZES[family]:
        return None
    relatives = [
        f"{other}:{tag}"
        for other, tags in SIZES.items()
        if tag in tags and other.rstrip("0123456789.") == family.rstrip("0123456789.")
    ]
    alternatives = ", ".join([f"{family}:{size}" for size in SIZES[family]] + relatives)
    return f"does not exist in the Ollama library; there are {alternatives}"
