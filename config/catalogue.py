"""What is known of a model before it is pulled: its row of the catalogue, or its size alone."""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from config.model_name import canonical
from config.quantities import size

SAFETY = 1.2
"""What is added to a model that is not in the catalogue, as GPUStack adds to its weights."""

_LIKE = "llama3.2:3b"
"""Has the most context per byte of all models with grouped queries, as all since 2024 have."""

_BITS = {
    "1": 2.0,
    "2": 3.2,
    "3": 4.0,
    "4": 4.9,
    "5": 5.7,
    "6": 6.6,
    "8": 8.5,
    "16": 16.0,
    "32": 32.0,
}
"""Bits per parameter by the digit of a quantisation: llama.cpp's table of Llama 3.1 8B, K_M."""
_ROUNDED = 1.15
"""Parameters of a tag are rounded down: `3b` has 3.2 billion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's files, shape and limits; what each field is stands above `catalogue.yaml`."""

    size: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    full_every: int = 1
    window: int = 0
    picture: int = 0
    read: int | None = None
    since: str = "0.0.0"
    document: str = ""
    query: str = ""
    guessed: str = ""
    """What this was guessed by, its `size` or its `name`; empty for a row of the catalogue."""


@functools.cache
def catalogue() -> dict[str, Shape]:
    """All models that are known, by name."""
    rows = yaml.load(Path(__file__).with_suffix(".yaml").read_text(), yaml.CSafeLoader)
    return {name: Shape(**row) for name, row in rows.items()}


def read_bytes() -> dict[str, float]:
    """Bytes read for each token, of all models known to read less than their files.

    Of all, not of those that the house has: a list of models is none of the gateway's settings.
    """
    return {name: model.read for name, model in catalogue().items() if model.read}


def prefixes(name: str) -> tuple[str, str]:
    """What a document and what a query begin with for this model; empty where nothing is known."""
    model = catalogue().get(canonical(name))
    return (model.document, model.query) if model else ("", "")


def find(name: str, sizes: Mapping[str, str]) -> Shape | None:
    """Look a model up; else estimate it by its declared size, or by its name; None if neither says.

    `sizes` are declared ones by name, such as `4Gi`.
    """
    declared = {canonical(other): text for other, text in sizes.items()}
    if canonical(name) in declared:
        return _of_size(size(declared[canonical(name)]), "size")
    if model := catalogue().get(canonical(name)):
        return model
    bytes_ = _size_in(name)
    return None if bytes_ is None else _of_size(bytes_, "name")


def _of_size(bytes_: int, guessed: str) -> Shape:
    """A stand-in that takes as much as any model with files of this size."""
    like = catalogue()[_LIKE]
    return Shape(
        size=math.ceil(bytes_ * SAFETY),
        layers=math.ceil(like.layers * bytes_ * SAFETY / like.size),
        kv_heads=like.kv_heads,
        head_dim=like.head_dim,
        # 2 GiB of buffers, the most that is known of any model.
        vocab=2**20,
        context=2**20,
        guessed=guessed,
    )


def _size_in(name: str) -> int | None:
    """Bytes of a model by the parameters and the quantisation in its name, such as `7b-q8_0`."""
    tag = name.rpartition(":")[2].lower()
    # Not after a letter: e4b has 8 billion, and a3b are the active ones of 30b.
    count = r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])"
    if not (found := re.search(count, tag) or re.search(count, name.lower())):
        return None
    parameters = int(found[1] or 1) * float(found[2]) * {"b": 1e9, "m": 1e6}[found[3]]
    quantised = re.search(r"(?:q|fp|bf|f|int)(\d+)", tag)
    bits = _BITS.get(quantised[1] if quantised else "4", 16.0)
    return int(parameters * bits / 8 * _ROUNDED)
