"""`python -m ops.upgrade BASE HEAD`: what an upgrade does, and whether it may be applied.

Exit code 0 is an open gate, 7 a closed one, 1 that something could not be read.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from ops import versions
from ops.changes import Difference, code, load
from ops.products import PRODUCTS, Product
from ops.versions import Bump, Version

CLOSED = 7
STEPS = ("major", "minor", "patch")
HEAD = """\
| upgrade | what changes | snapshot first | one-way | to know |
| --- | --- | --- | --- | --- |
"""
NOTHING = "No image, chart or model's digest changes: nothing to upgrade.\n"
LIBRARY = "https://ollama.com/library/"


def report(difference: Difference) -> tuple[str, list[str]]:
    """Write the report as Markdown, and list why the gate is closed; nothing where it is open."""
    bumps = [*versions.bumps(difference)]
    if not bumps:
        return NOTHING, []
    closed = [f"{_title(bump)}: {why}" for bump in bumps for why in refusals(bump)]
    text = HEAD + "".join(f"| {' | '.join(_cells(bump))} |\n" for bump in bumps)
    copied = [one.snapshot for bump in bumps if (one := _product(bump)) and one.snapshot]
    if closed:
        text += f"\n**Gate closed.** {'; '.join(closed)}\n"
    else:
        first = f"a snapshot of {', '.join(copied)}, " if copied else ""
        steps = f"{first}`make up`, `make canary`"
        text += f"\n**Gate open.** In this order, each with `STACK`: {steps}.\n"
    return text, closed


def refusals(bump: Bump) -> Iterator[str]:
    """Yield each reason, in one line, why this may not be applied."""
    if bump.kind == "model":
        return
    old, new, product = bump.old_version, bump.new_version, _product(bump)
    if not product:
        yield f"{code(bump.name)} is not in ops/products.py: nobody has looked what it does"
    if not new:
        yield f"{code(bump.new)} names no full version, so it may be another tomorrow"
    if product and product.one_way and old and new and new < old:
        yield f"{new.text} is older than {old.text}: {product.why}"
    if "@" in bump.old and "@" not in bump.new:
        yield f"{code(bump.new)} has no digest any more"


def _cells(bump: Bump) -> Iterator[str]:
    """Yield the cells of a bump's row."""
    old, new, product = bump.old_version, bump.new_version, _product(bump)
    step = _step(old, new)
    shown = [_short(bump.old, old), _short(bump.new, new)]
    yield f"{_title(bump)} {code(shown[0])} → {code(shown[1])}"
    if bump.kind == "model":
        yield f"[library]({LIBRARY}{bump.name.partition(':')[0]}/tags)"
    elif product and old and new:
        links = [f"[{new.text}]({product.notes.format(new.text)})"]
        if old.text != new.text:
            links.append(f"[all since]({product.compare.format(old.text, new.text)})")
        yield ", ".join(links)
    else:
        yield "unknown"
    yield f"**yes**: {product.snapshot}" if product and product.snapshot else "no"
    turns = product and product.one_way and step in STEPS[: STEPS.index(product.one_way) + 1]
    yield f"**yes**: {product.why}" if product and turns else "no"
    yield "; ".join([*_notes(bump, old, new, step), *versions.warnings(bump)]) or "nothing"


def _notes(bump: Bump, old: Version | None, new: Version | None, step: str) -> Iterator[str]:
    if bump.kind == "model":
        yield "other contents under the same name: record a baseline for the canary anew"
        return
    if old and new and old < new:
        skipped = getattr(new, step) - getattr(old, step) - 1
        if step == "major":
            yield "**major version**: read the notes of each"
        if step != "patch" and skipped > 0:
            yield f"skips {skipped} {step} version{'s' if skipped > 1 else ''}"
    if new and not new.final:
        yield "**not a final release**"
    if bump.kind == "image" and "@" not in bump.old + bump.new:
        yield "no digest: the tag can be moved"
    if bump.kind == "image" and _variant(bump.old, old) != _variant(bump.new, new):
        yield "**another variant of the image**"


def _step(old: Version | None, new: Version | None) -> str:
    """The greatest part that differs between two versions; `patch` where none does."""
    if old and new:
        return next((part for part in STEPS if getattr(old, part) != getattr(new, part)), "patch")
    return "major"


def _product(bump: Bump) -> Product | None:
    return PRODUCTS.get(bump.name)


def _title(bump: Bump) -> str:
    product = _product(bump)
    return product.title if product else code(bump.name)


def _short(reference: str, version: Version | None) -> str:
    """A reference as short as it can still be told from the other one."""
    _, _, digest = reference.rpartition("sha256:")
    if version:
        return f"{version.text} @{digest[:8]}" if "@" in reference else version.text
    return digest[:8] or "no digest"


def _variant(image: str, version: Version | None) -> str:
    """What stands in a tag after its version, such as `-rocm`."""
    return image.partition("@")[0].partition(version.text)[2] if version else ""


def main() -> int:
    """Print the report; a closed gate is also told in one line."""
    parser = argparse.ArgumentParser(prog="python -m ops.upgrade", description=__doc__)
    parser.add_argument("base", type=Path, help="folder of ops.render, before the upgrade")
    parser.add_argument("head", type=Path, help="folder of ops.render, after it")
    options = parser.parse_args()
    try:
        text, closed = report(Difference(load(options.base), load(options.head)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(text, end="")
    if closed:
        print(f"error: gate closed: {'; '.join(closed)}", file=sys.stderr)
    return CLOSED if closed else 0


if __name__ == "__main__":
    sys.exit(main())
