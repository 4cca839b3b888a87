"""Which JSON schemas Ollama may get: some end its process, and with it everybody's answers."""

from collections.abc import Iterator
from typing import Any

from gateway_rules import RefusalError

HOLD = ("format", "response_format", "text")
"""Keys of a request that hold a schema: Ollama's own, and two of OpenAI's."""
SIZES = ("minLength", "maxLength", "minItems", "maxItems")
NAMED = ("$defs", "definitions")
# On 0.24 these end the model's process: 64 nested arrays, 400 optional properties, 2001
# repetitions, an empty `anyOf`, the pattern `\d{3}`. A pattern with `(?` or `^*` ends Ollama
# itself, and a minimum above its maximum gave no answer within 60 s.
DEEPEST, WIDEST, MOST_REPEATED, MOST_PARTS = 32, 200, 2000, 2000


def check(asked: dict[str, Any]) -> None:
    """Raise RefusalError if a request has a schema that may end a process of Ollama's."""
    for key in HOLD:
        if isinstance(asked.get(key), dict):
            walk = _Walk()
            for name, part in walk.find(asked[key]):
                walk.named.setdefault(name, []).append(part)
            walk.look(asked[key], 0, ())


class _Walk:
    """One way through a schema, also through what it refers to."""

    def __init__(self) -> None:
        self.named: dict[str, list[Any]] = {}
        """What a reference leads to; several, where it depends on which of them is the root."""
        self.parts = 0

    def find(self, node: Any) -> Iterator[tuple[str, Any]]:
        """Yield all that can be referred to, by its reference."""
        for key, part in node.items() if isinstance(node, dict) else ():
            if key in NAMED and isinstance(part, dict):
                yield from ((f"#/{key}/{name}", one) for name, one in part.items())
            yield from self.find(part)

    def look(self, node: Any, depth: int, through: tuple[str, ...]) -> None:
        """Look at a part, which is reached `through` these references."""
        if not isinstance(node, dict | list):
            return
        self.parts += 1
        if self.parts > MOST_PARTS or depth > DEEPEST:
            raise _refusal("too large or too deep")
        if isinstance(node, list):
            for part in node:
                self.look(part, depth + 1, through)
            return
        self.judge(node)
        for key, part in node.items():
            if key == "$ref" and isinstance(part, str):
                if part in through or part not in self.named:
                    raise _refusal(f"{key}: must lead to a definition, and not in a circle")
                self.look(self.named[part], depth, (*through, part))
            else:
                self.look(part, depth + 1, through)

    def judge(self, node: dict[str, Any]) -> None:
        """Look at the words of one part; a property may be called like one, and is an object."""
        if isinstance(node.get("pattern"), str):
            raise _refusal("pattern: not possible here")
        if any(node.get(key) == [] for key in ("anyOf", "oneOf", "type")):
            raise _refusal("anyOf, oneOf and type: must not be empty")
        if isinstance(node.get("properties"), dict) and len(node["properties"]) > WIDEST:
            raise _refusal(f"properties: must not be more than {WIDEST}")
        sizes = {key: node[key] for key in SIZES if not isinstance(node.get(key, {}), dict)}
        for key, size in sizes.items():
            if type(size) is not int or not 0 <= size <= MOST_REPEATED:
                raise _refusal(f"{key}: must be a number from 0 to {MOST_REPEATED}")
        for least, most in (SIZES[:2], SIZES[2:]):
            if sizes.get(least, 0) > sizes.get(most, MOST_REPEATED):
                raise _refusal(f"{least}: must not be more than {most}")


def _refusal(why: str) -> RefusalError:
    return RefusalError(400, f"a schema that would end the model: {why}", "schema")
