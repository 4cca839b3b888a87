"""Write every object that the program registers, as YAML.

It needs no state, no secrets and no cluster; one file for each component, and `stack.yaml`.
"""

import argparse
import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pulumi
import yaml

from config import SettingsError
from ops.masking import masked
from ops.program import Deployment, Registration, deploy_program, stack_config

MARK = "# Written by python -m ops render; not to be edited.\n"
STACK = "stack"
"""Name of the file with what belongs to no component."""


class _Dumper(yaml.CSafeDumper):
    """Texts of several lines and JSON as such, so that a small change is a small diff."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if text.startswith("{"):
        # A dashboard is one line of JSON.
        with contextlib.suppress(json.JSONDecodeError):
            text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Any) -> str:
    """Write `value` as YAML that is the same on every machine: keys sorted, no references."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=1000)
    return text


def render(lab: Deployment, config: dict[str, Any]) -> dict[str, str]:
    """Write what a run with `config` registered, as YAML texts by component."""
    components = {made.name for made in lab.resources.values() if made.type.startswith("homelab:")}
    files: dict[str, dict[str, Any]] = {STACK: {}}
    for key, made in lab.resources.items():
        home = made.name if made.type.startswith("homelab:") else made.parent
        files.setdefault(home if home in components else STACK, {})[key] = _entry(made)
    outputs = masked(lab.outputs, lab.secret_outputs)
    files[STACK] |= {"outputs": {"properties": outputs}, "nodes": {"properties": config["nodes"]}}
    return {name: MARK + to_yaml(entries) for name, entries in files.items()}


def _entry(made: Registration) -> dict[str, Any]:
    secret = {"data", "stringData"} if made.type.endswith(":Secret") else set()
    options = {
        "protect": made.protect,
        "ignoreChanges": list(made.ignored),
        "replaceOnChanges": list(made.replaced_by),
        "dependsOn": sorted(made.dependencies),
    }
    properties = masked(made.inputs, made.secrets | secret)
    return {"options": {k: v for k, v in options.items() if v}, "properties": properties}


def write(out: Path, files: dict[str, str]) -> None:
    """Make `out` the folder of exactly these files.

    Raises FileExistsError, and changes nothing, if it holds what no render wrote.
    """
    for there in sorted(out.iterdir()) if out.exists() else ():
        if not (there.is_file() and there.suffix == ".yaml" and _rendered(there)):
            raise FileExistsError(f"{out}: {there.name} is no render's; it must be a new folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, text in files.items():
        (out / f"{name}.yaml").write_text(text)


def _rendered(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(MARK)) == MARK.encode()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("out", type=Path, help="folder to write, new or of an earlier render")
    parser.add_argument("--stack", default="home", help="whose Pulumi.<stack>.yaml it reads")


def run(options: argparse.Namespace) -> int:
    """Render one stack; 1 is an error in one line, and nothing is written."""
    try:
        config = stack_config(options.stack)
        write(options.out, render(deploy_program(options.stack, config), config))
    except (SettingsError, pulumi.RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
