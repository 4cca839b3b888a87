"""Check of JSON schemas: some crash Ollama, which would end all running responses."""

import json
import re
import secrets
from typing import Any

from gateway_routes import RefusalError

SIZES = ("minLength", "maxLength", "minItems", "maxItems")
RANGES = (SIZES[:2], SIZES[2:], ("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum"))
NAMED = ("$defs", "definitions")
INSIDE = ("properties", "additionalProperties", "items", "prefixItems")
"""Keys of what is written after a bracket, so that a grammar may refer to itself there."""
SUFFIXES = {"items": 5, "prefixItems": 6, "additionalProperties": 17, "allOf": -5}
"""Bytes that llama.cpp adds to the name of a rule for that of a part; 5 more for one of a list."""
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
# llama.cpp writes a grammar; Ollama keeps so many bytes or four times the schema's, and the rest of
# a longer one ends the process. Measured: an optional property takes 7 times its rule's name.
SMALL_GRAMMAR, MOST_GRAMMAR = 2**15, 2**20
MOST_VALUES = 20_000  # checked in 50 ms, during which the event loop is blocked


def check(request: dict[str, Any]) -> None:
    """Raise RefusalError if a request has a schema that may crash Ollama or a model's process."""
    if not isinstance(schema := request.get("format"), dict):
        return
    traversal = _Traversal(schema)
    traversal.visit(schema, 0, (), (), 1, 0)
    traversal.judge_grammar()
    # llama.cpp merges all objects of an `allOf` into one.
    if traversal.merges and traversal.properties > WIDEST:
        raise _refusal(f"properties beside allOf: must not be more than {WIDEST} in all")


LONG = secrets.token_hex(16)
"""Prefix of what stands for a string of more than 300 bytes; random, so that none can be forged."""


class _Traversal:
    """A traversal of one schema, references included."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.parts, self.values, self.properties, self.merges = 0, 0, 0, False
        self.grammar, self.source, self.refs = 2000, 0, set[str]()
        """Bytes of the grammar at most, bytes of the schema at least, and references resolved."""
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

    def visit(
        self,
        node: Any,
        depth: int,
        through: tuple[str, ...],
        bare: tuple[str, ...],
        times: int,
        name: int,
    ) -> None:
        """Check a node, reached `through` references and copied `times` times by llama.cpp.

        `bare` are the references since the last bracket, `name` is the length of its rule's name.
        """
        self.values += 1
        self.parts += times if isinstance(node, dict | list) else 0
        if self.parts > MOST_PARTS or self.values > MOST_VALUES or depth > DEEPEST:
            raise _refusal("too large or too deep")
        if isinstance(node, list):
            for part in node:
                self.visit(part, depth + 1, through, bare, times, name + 5)
        if not isinstance(node, dict):
            return
        self.judge(node, times)
        self.measure(node, times, name)
        # llama.cpp copies a schema for each of its types.
        types = node.get("type")
        times *= len(types) if isinstance(types, list) else 1
        for key, part in node.items():
            if key == "$ref" and isinstance(part, str):
                if part in bare or part not in self.named:
                    raise _refusal(
                        f"{key}: must lead to a definition, and back only by a property or item"
                    )
                self.resolve(part, depth, through, bare, times)
            elif key == "properties" and isinstance(part, dict):
                for property_name, value in part.items():
                    length = name + 1 + len(property_name.encode(errors="replace"))
                    self.visit(value, depth + 2, through, (), times, length)
            else:
                since = () if key in INSIDE else bare
                longer = name + SUFFIXES.get(key, 0)
                self.visit(part, depth + 1, through, since, times, longer)

    def resolve(
        self, ref: str, depth: int, through: tuple[str, ...], bare: tuple[str, ...], times: int
    ) -> None:
        """Check the definitions of a reference, whose rules are written once."""
        if ref in through:
            return
        before = self.grammar, self.source
        self.visit(self.named[ref], depth, (*through, ref), (*bare, ref), times, len(ref) + 3)
        if ref in self.refs and not self.merges:
            self.grammar, self.source = before
        self.refs.add(ref)

    def measure(self, node: dict[str, Any], times: int, name: int) -> None:
        """Add the rules of a node to the grammar's size."""
        if not node.keys() <= {"type", "description", "title", "default"}:
            numbers = [str(node.get(key, "")) for pair in RANGES[2:] for key in pair]
            pattern = node.get("pattern")
            written = 10 * len(pattern) if isinstance(pattern, str) else 0
            self.grammar += times * (3 * name + 60 + 100 * len("".join(numbers)) + written)
        values = node.get("enum")
        for value in [*(values if isinstance(values, list) else ()), node.get("const", "")]:
            text = json.dumps(value, ensure_ascii=False)
            if LONG in text:
                raise _refusal("enum and const: must not have a string of more than 300 bytes")
            self.source += len(text) + 1
            self.grammar += times * (2 * len(text.encode(errors="replace")) + 5)
        names = node.get("properties")
        for key in names if isinstance(names, dict) else ():
            length = len(key.encode(errors="replace"))
            more = 20 * length if node.get("additionalProperties", False) is not False else 0
            if key.startswith(LONG):
                raise _refusal("properties: must not have a name of more than 300 bytes")
            if more and re.search(r"[\]\\\0]", key):
                raise _refusal("properties beside additionalProperties: must not have ], \\ or NUL")
            self.source += length + 3
            self.grammar += times * (7 * (name + 1) + 8 * length + 85 + more)

    def judge_grammar(self) -> None:
        """Raise RefusalError if Ollama would cut the grammar off."""
        if self.grammar > max(SMALL_GRAMMAR, min(MOST_GRAMMAR, 4 * self.source)):
            raise _refusal("names of properties: too many and too long, or too deep")

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
                type(size) in (int, float) and size in range(MOST_REPEATED + 1)
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
