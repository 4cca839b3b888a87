"""Size and architecture of models that are not pulled yet: from the catalogue, or estimated."""

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
"""Factor for a model that is not in the catalogue; GPUStack's for weights."""

_REFERENCE = "llama3.2:3b"
"""Has the largest KV cache per byte of weights of all models with grouped-query attention, which
all since 2024 have."""

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
"""Bits per parameter by the digit of a quantization: llama.cpp's table for Llama 3.1 8B, K_M."""
_ROUNDED = 1.15
"""Factor for the parameters in a tag, which are rounded down: `3b` has 3.2 billion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's size, architecture and limits; `catalogue.yaml` describes each field."""

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
    estimated_from: str = ""
    """`size` or `name` if the shape is an estimate; empty for a row of the catalogue."""


@functools.cache
def catalogue() -> dict[str, Shape]:
    """Return all models of the catalogue, by name."""
    rows = yaml.load(Path(__file__).with_suffix(".yaml").read_text(), yaml.CSafeLoader)
    return {name: Shape(**row) for name, row in rows.items()}


def read_bytes() -> dict[str, float]:
    """Return bytes read for each token, by model, where clearly less than the model's size.

    For the whole catalogue, because the gateway is not restarted for another list of models.
    """
    return {name: model.read for name, model in catalogue().items() if model.read}


def prefixes(name: str) -> tuple[str, str]:
    """Return the model's prefixes of documents and of queries; empty if it has none."""
    model = catalogue().get(canonical(name))
    return (model.document, model.query) if model else ("", "")


def find(name: str, sizes: Mapping[str, str]) -> Shape | None:
    """Return a model's shape, or None if it is unknown.

    It is estimated from the declared size in `sizes` (quantities such as `4Gi`, by name), else of
    the catalogue, else estimated from the size in its name.
    """
    declared = {canonical(other): quantity for other, quantity in sizes.items()}
    if canonical(name) in declared:
        return _estimate(size(declared[canonical(name)]), "size")
    if model := catalogue().get(canonical(name)):
        return model
    bytes_ = _size_from_name(name)
    return None if bytes_ is None else _estimate(bytes_, "name")


def _estimate(bytes_: int, source: str) -> Shape:
    """Return a shape that needs as much memory as any model with files of this size."""
    reference = catalogue()[_REFERENCE]
    return Shape(
        size=math.ceil(bytes_ * SAFETY),
        layers=math.ceil(reference.layers * bytes_ * SAFETY / reference.size),
        kv_heads=reference.kv_heads,
        head_dim=reference.head_dim,
        # Compute buffers of 2 GiB, the largest that have been reported.
        vocab=2**20,
        context=2**20,
        estimated_from=source,
    )


def _size_from_name(name: str) -> int | None:
    """Return bytes by the parameters and the quantization in a name, such as `7b-q8_0`."""
    tag = name.rpartition(":")[2].lower()
    # Not after a letter: e4b has 8 billion, and a3b are the active ones of 30b.
    count = r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])"
    if not (match := re.search(count, tag) or re.search(count, name.lower())):
        return None
    parameters = int(match[1] or 1) * float(match[2]) * {"b": 1e9, "m": 1e6}[match[3]]
    quantization = re.search(r"(?:q|fp|bf|f|int)(\d+)", tag)
    bits = _BITS.get(quantization[1] if quantization else "4", 16.0)
    return int(parameters * bits / 8 * _ROUNDED)
