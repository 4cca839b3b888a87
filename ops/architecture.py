"""`python -m ops.architecture`: draws the diagrams of docs/architecture.md from the program."""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pulumi

from ops.paths import Network, Node, Step
from ops.policies import stable
from ops.program import ROOT, Deployment, Registration, deploy_program

PAGE = ROOT / "docs" / "architecture.md"
STACK = "home"
SHAPES = {
    "address": ('(["', '"])'),
    "service": ('[["', '"]]'),
    "container": ('["', '"]'),
    "objects": ('["', '"]'),
    "disk": ('[("', '")]'),
    "outside": ('{{"', '"}}'),
}
"""How Mermaid writes the shape of each kind of node."""
WIDE = '%%{init: {"flowchart": {"wrappingWidth": 400}}}%%'
"""Otherwise Mermaid breaks the names of objects in two."""


def main() -> int:
    """Draw the diagrams of the page anew; 0 is success, 1 an error told in one line."""
    try:
        text = page(PAGE.read_text(), deploy_program(STACK))
    except (OSError, ValueError, pulumi.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    print(f"  {PAGE.relative_to(ROOT)}: drawn from Pulumi.{STACK}.yaml")
    return 0


def page(text: str, deployment: Deployment) -> str:
    """The page with the diagrams between its markers drawn anew.

    Raises ValueError unless it has markers for each diagram, and for no other.
    """
    diagrams = draw(deployment)
    found = re.findall(r"^<!-- diagram: (\w+) -->\n", text, re.MULTILINE)
    if sorted(found) != sorted(diagrams):
        wanted = ", ".join(sorted(diagrams))
        message = f"{PAGE.name}: has markers for {', '.join(found)}; it must have one for {wanted}"
        raise ValueError(message)
    first, *parts = re.split(
        r"(?<=^<!-- diagram: )(\w+) -->\n.*?(?=^<!-- end)", text, flags=re.M | re.S
    )
    drawn = [
        "\n".join([f"{name} -->", "```mermaid", WIDE, *diagrams[name], "```", rest])
        for name, rest in zip(parts[::2], parts[1::2], strict=True)
    ]
    return "".join([first, *drawn])


def draw(deployment: Deployment) -> dict[str, list[str]]:
    """The lines of each diagram, by its name."""
    paths = list(Network(deployment).paths())
    requests = [step for path in paths for step in path.steps if not path.to_release]
    metrics = [step for path in paths for step in path.steps if path.to_release]
    return {
        "resources": list(_resources(deployment)),
        "requests": _flowchart(requests),
        "metrics": _flowchart([*metrics, *_of_releases(deployment)]),
    }


def _resources(deployment: Deployment) -> Iterator[str]:
    """Draw each component with its objects by kind, and who waits for whom."""
    components = {
        made.name: made for made in deployment.resources.values() if ":index:" in made.type
    }
    own = [
        made
        for _, made in sorted(deployment.resources.items())
        # Generated passwords are told of where they are kept, in the Secrets.
        if made.parent in components and not made.type.endswith(":RandomPassword")
    ]
    yield "flowchart LR"
    for stack in sorted({made.parent for made in components.values()}):
        yield f'  subgraph {_id(f"stack {stack}")}["stack {stack}"]'
        for name, component in sorted(components.items()):
            yield f'  subgraph {_id(name)}["{_kind(component)} {name}"]'
            boxes: dict[str, list[Registration]] = {}
            for made in own:
                if made.parent == name:
                    boxes.setdefault(_box(made), []).append(made)
            for objects in boxes.values():
                kinds = ", ".join(sorted({_kind(made) for made in objects}))
                lines = sorted({_line(made, deployment) for made in objects})
                text = "<br/>".join([f"<b>{kinds}</b>", *lines])
                yield f"    {_node(Node('objects', text, name))}"
            yield "  end"
        yield "  end"
    of = {made.name: made.parent for made in own}
    waits = {(of[made.name], of[name]) for made in own for name in made.dependencies if name in of}
    for later, earlier in sorted(waits):
        if later != earlier:
            yield f"  {_id(later)} -- waits for --> {_id(earlier)}"


def _box(made: Registration) -> str:
    """What is drawn together: objects of one kind, or of one API group other than the core's."""
    group = made.type.rpartition(":")[0]
    return made.type if group == "kubernetes:core/v1" else group


def _line(made: Registration, deployment: Deployment) -> str:
    """One object: its name, and where it is or is reached."""
    metadata, spec = made.inputs.get("metadata", {}), made.inputs.get("spec") or {}
    name = stable(metadata.get("name") or made.inputs["name"])
    namespace = metadata.get("namespace") or made.inputs.get("namespace")
    words = [f"{namespace}/{name}" if namespace else name]
    if "local" in spec:
        (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
        nodes = [value for match in term["matchExpressions"] for value in match["values"]]
        words.append(f"{spec['local']['path']} on {', '.join(nodes)}")
    if _kind(made) == "Service":
        address = (metadata.get("annotations") or {}).get("metallb.io/loadBalancerIPs", "")
        words += [f"{address}:{port['port']}" for port in spec["ports"]]
    if _kind(made) == "IPAddressPool":
        words += spec["addresses"]
    passwords = {one.name for one in deployment.of_kind("RandomPassword")} & made.dependencies
    if _kind(made) == "Secret" and passwords:
        words.append(f"{len(passwords)} generated")
    return " ".join(words)


def _of_releases(deployment: Deployment) -> Iterator[Step]:
    """What the values of a release tell its pods to read, to show and to keep."""
    for release in deployment.of_kind("Release"):
        namespace = release.inputs["namespace"]
        own = [
            made
            for made in deployment.objects()
            if made.inputs["metadata"].get("namespace") == namespace
        ]
        rules = [made for made in own if _kind(made) == "PrometheusRule"]
        boards = [
            made
            for made in own
            if "grafana_dashboard" in (made.inputs["metadata"].get("labels") or {})
        ]
        for part, values in sorted(release.inputs.get("values", {}).items()):
            at = Node("container", part, f"release {release.inputs['name']}")
            if rules and False in _within(values, "ruleSelectorNilUsesHelmValues"):
                yield Step(_listed(rules), at, ("rules and alerts",))
            if boards and _within(values, "dashboards"):
                yield Step(_listed(boards), at, ("label grafana_dashboard",))
            for volume in deployment.of_kind("PersistentVolume"):
                if (name := volume.inputs["metadata"]["name"]) in _within(values, "volumeName"):
                    disk = Node("disk", volume.inputs["spec"]["local"]["path"])
                    yield Step(at, disk, (f"volume {name}",))


def _listed(made: list[Registration]) -> Node:
    names = sorted(one.inputs["metadata"]["name"] for one in made)
    where = made[0].inputs["metadata"]["namespace"]
    return Node("objects", "<br/>".join([f"<b>{_kind(made[0])}</b> in {where}", *names]))


def _within(values: Any, key: str) -> list[Any]:
    """Find every value that `key` has, at any depth."""
    if not isinstance(values, dict):
        return []
    below = [found for value in values.values() for found in _within(value, key)]
    return [values[key], *below] if key in values else below


def _flowchart(steps: Iterable[Step]) -> list[str]:
    """Draw each node once, inside its pod or release, and each step once."""
    once = list(dict.fromkeys(steps))
    nodes = dict.fromkeys(node for step in once for node in (step.source, step.target))
    lines = ["flowchart LR"]
    for group in dict.fromkeys(node.group for node in nodes):
        drawn = [_node(node) for node in nodes if node.group == group and node.kind != "pod"]
        if group:
            drawn = [f'subgraph {_id(group)}["{group}"]', *(f"  {one}" for one in drawn), "end"]
        lines += [f"  {line}" for line in drawn]
    for step in once:
        told = "<br/>".join(step.told)
        arrow = f'-- "{told}" -->' if step.open else f'-. "{told}<br/>closed" .-x'
        lines.append(f"  {_reference(step.source)} {arrow} {_reference(step.target)}")
    return lines


def _reference(node: Node) -> str:
    if node.kind == "pod":
        return _id(node.group)
    return _id(f"{node.group} {node.kind} {node.text.partition('<br/>')[0]}")


def _node(node: Node) -> str:
    opening, closing = SHAPES[node.kind]
    return f"{_reference(node)}{opening}{node.text}{closing}"


def _kind(made: Registration) -> str:
    return made.type.rpartition(":")[2]


def _id(text: str) -> str:
    return re.sub(r"\W+", "_", re.sub(r"</?b>", "", text)).strip("_")


if __name__ == "__main__":
    sys.exit(main())
