"""Check of JSON schemas: some crash Ollama, which would end all running responses."""

import re
from typing import Any

from gateway_rules import RefusalError

HOLD = ("format", "response_format", "text")
"""Keys of a request that hold a schema: Ollama's own, and two of OpenAI's."""
SIZES = ("minLength", "maxLength", "minItems", "maxItems")
RANGES = (SIZES[:2], SIZES[2:], ("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum"))
NAMED = ("$defs", "definitions")
# Patterns that llama.cpp converts: literals, classes whose ranges ascend, one quantifier each.
PATTERN = re.compile(
    r"\^(?:(?:[\w @:/,#-]|\\\.|\.|\[\^?(?:a-[b-z]|A-[B-Z]|0-[1-9]|[\w .%+@:/])+-?\])"
    r"(?:[*+?]|\{\d{1,4}(?:,\d{0,4})?\})?)*\$",
    re.ASCII,
)
REPETITION = re.compile(r"\{(\d+)(?:,(\d*))?\}")
# On 0.24 these end the model's process: 64 nested arrays, 400 optional properties, 2001
# repetitions, an empty `anyOf`, the patterns `^\d{3}$` and `^[z-a]$`. A pattern with `(?` or `^*`
# ends Ollama itself. With a minimum above its maximum, the process fills all memory.
DEEPEST, WIDEST, MOST_REPEATED, MOST_PARTS = 32, 200, 2000, 2000
MOST_VALUES = 20_000  # checked in 10 ms, during which the event loop is blocked


def check(request: dict[str, Any]) -> None:
    """Raise RefusalError if a request has a schema that may crash Ollama or a model's process."""
    for key in HOLD:
        if isinstance(request.get(key), dict):
            traversal = _Traversal(request[key])
            traversal.visit(request[key], 0, (), 1)
            # llama.cpp merges all objects of an `allOf` into one.
            if traversal.merges and traversal.properties > WIDEST:
                raise _refusal(f"properties beside allOf: must not be more than {WIDEST} in all")


class _Traversal:
    """A traversal of one schema, references included."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.parts, self.values, self.properties, self.merges = 0, 0, 0, False
        self.named: dict[str, list[Any]] = {}
        """Definitions by reference: several, because the root of a reference is not known."""
        nodes: list[Any] = [schema]
        while nodes:
            node = nodes.pop()
            for key, part in node.items() if isinstance(node, dict) else ():
                if key in NAMED and isinstance(part, dict):
                    for name, definition in part.items():
                        self.named.setdefault(f"#/{key}/{name}", []).append(definition)
                nodes.append(part)

    def visit(self, node: Any, depth: int, through: tuple[str, ...], times: int) -> None:
        """Check a node, reached `through` references and copied `times` times by llama.cpp."""
        self.values += 1
        self.parts += times if isinstance(node, dict | list) else 0
        if self.parts > MOST_PARTS or self.values > MOST_VALUES or depth > DEEPEST:
            raise _refusal("too large or too deep")
        if isinstance(node, list):
            for part in node:
                self.visit(part, depth + 1, through, times)
        if not isinstance(node, dict):
            return
        self.judge(node, times)
        # llama.cpp copies a schema for each of its types.
        types = node.get("type")
        times *= len(types) if isinstance(types, list) else 1
        for key, part in node.items():
            if key == "$ref" and isinstance(part, str):
                if part in through or part not in self.named:
                    raise _refusal(f"{key}: must lead to a definition, and not in a circle")
                self.visit(self.named[part], depth, (*through, part), times)
            else:
                self.visit(part, depth + 1, through, times)

    def judge(self, node: dict[str, Any], times: int) -> None:
        """Check a node's keywords; a property of the same name is an object, and skipped."""
        if isinstance(pattern := node.get("pattern"), str) and not _is_convertible(pattern):
            raise _refusal(
                "pattern: must have characters, classes and quantifiers only, as ^[a-z]+$"
            )
        if any(node.get(key) == [] for key in ("anyOf", "oneOf", "type")):
            raise _refusal("anyOf, oneOf and type: must not be empty")
        self.merges = self.merges or isinstance(node.get("allOf"), list)
        if isinstance(node.get("properties"), dict):
            self.properties += len(node["properties"]) * times
            if len(node["properties"]) > WIDEST:
                raise _refusal(f"properties: must not be more than {WIDEST}")
        for key in SIZES:
            size = node.get(key, 0)
            if not isinstance(size, dict) and not (
                type(size) is int and 0 <= size <= MOST_REPEATED
            ):
                raise _refusal(f"{key}: must be a number from 0 to {MOST_REPEATED}")
        for least, most in RANGES:
            low, high = node.get(least), node.get(most)
            if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
                raise _refusal(f"{least}: must not be more than {most}")


def _is_convertible(pattern: str) -> bool:
    """Return whether a pattern is known to be harmless."""
    sizes = [(int(low), int(high or low)) for low, high in REPETITION.findall(pattern)]
    return (
        bool(PATTERN.fullmatch(pattern))
        and all(low <= high for low, high in sizes)
        and sum(high for _, high in sizes) <= MOST_REPEATED
    )


def _refusal(reason: str) -> RefusalError:
    return RefusalError(400, f"a schema that would end the model: {reason}", "schema")
