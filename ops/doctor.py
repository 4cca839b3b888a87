"""`python -m ops.doctor --stack home`: looks before you touch the house, and after `up`.

Exit code 0 is that nothing fails, 1 that something does. Warnings are 0.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from subprocess import CompletedProcess

import pulumi
from kubernetes.client import ApiClient

from components import CHART_VALUES
from config import Settings, SettingsError, read, requested
from ops import (
    doctor_cluster,
    doctor_disk,
    doctor_house,
    doctor_images,
    doctor_laptop,
    doctor_taken,
    drift_declared,
    stacks,
)
from ops.cluster import Cluster, UnreadableError
from ops.doctor_checks import Check, Result, ok, run
from ops.drift_declared import State
from ops.program import ROOT, Deployment, deploy_program, stack_config
from ops.stacks import Stack

HOSTS = "docs/hosts.md#what-the-machine-needs"
HOUSE, RUNBOOK = "docs/house.md", "docs/runbook.md"
MICROK8S = f"{HOUSE}#1-microk8s-on-the-house"
DIRECTORIES = f"{HOUSE}#2-directories-on-the-house"
KUBECONFIG = f"{HOUSE}#3-kubeconfig-for-the-laptop"
PULUMI = f"{HOUSE}#4-pulumi-on-the-laptop"
TAILSCALE = f"{HOUSE}#5-known-trouble-with-tailscale"
PAGE_PORT, GRAFANA_PORT = 8080, 3000
ANSWER = 10.0
"""Seconds for an answer, whose model may have to be loaded first."""


@dataclass(frozen=True, kw_only=True)
class House:
    """All that the checks look at."""

    stack: Stack
    stack_file: Path
    settings: Settings
    program: Deployment
    """The program as it is here, with this stack file."""
    exported: CompletedProcess[str]
    """What `pulumi stack export` answered."""

    @cached_property
    def state(self) -> State | None:
        """What the last `up` left, None if there was none; raises UnreadableError."""
        if self.exported.returncode:
            raise UnreadableError("without the state nobody knows what the stack has made")
        try:
            return drift_declared.state(lambda *_: self.exported)
        except UnreadableError:
            return None

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster to read; raises UnreadableError."""
        return Cluster(self.settings.context, self.stack.kubeconfig)

    def api(self) -> ApiClient:
        """Make a client that can write; raises UnreadableError."""
        return ApiClient(doctor_laptop.configuration(self.settings.context, self.stack.kubeconfig))

    def password(self) -> str:
        """The admin's on the page; raises UnreadableError."""
        name = ("open_webui_password", "--show-secrets")
        if (told := self.stack.cli("stack", "output", *name)).returncode:
            raise UnreadableError(f"pulumi stack output: {' '.join(told.stderr.split())}")
        return told.stdout.strip()


def main() -> int:
    """Look, print and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.doctor", description=__doc__)
    parser.add_argument("--stack", default="sandbox", help="the stack to look at")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--after", action="store_true", help="look at the house, up or not")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        house = find(options.stack)
    except (SettingsError, pulumi.RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    up = options.after or (house.exported.returncode == 0 and house.state)
    looks = before(house) + (after(house) if up else [])
    results = run(looks)
    seconds = round(time.monotonic() - began, 1)
    code = int(any(result.level == "fail" for _, result in results))
    if options.json:
        told = [{"name": one.name, **asdict(result), "page": one.page} for one, result in results]
        whole = {"stack": options.stack, "checks": told, "seconds": seconds, "code": code}
        print(json.dumps(whole, indent=1))
    else:
        print("\n".join(lines(results)) + f"; {seconds:.0f} s")
    return code


def find(name: str) -> House:
    """Read what is here of a stack; raises SettingsError or RunError."""
    raw = stack_config(name)
    try:
        stack = stacks.find(name)
    except UnreadableError as error:
        # What needs no state can still be looked at.
        away = CompletedProcess([], 1, "", str(error))
        stack = Stack(name=name, cli=lambda *_: away, kubeconfig=None, simulated=False)
    return House(
        stack=stack,
        stack_file=ROOT / f"Pulumi.{name}.yaml",
        settings=read(raw, requested(CHART_VALUES)),
        program=deploy_program(name, raw),
        exported=doctor_laptop.exported(stack.cli),
    )


def before(house: House) -> list[Check]:
    """Give the checks for which nothing has to be up."""
    settings, stack = house.settings, house.stack
    context = (settings.context, stack.kubeconfig)
    images = [settings.ollama.image, settings.ollama.gateway_image, settings.webui.image]
    images += [settings.webui.backup.image] if settings.webui.backup else []
    wanted = {settings.observability.lan_address: GRAFANA_PORT}
    if settings.webui.lan_address:
        wanted[settings.webui.lan_address] = PAGE_PORT
    network = settings.network

    def addresses() -> Result:
        place = (wanted, network.pool, network.lan)
        up = bool(house.state)
        return doctor_taken.addresses(house.cluster, house.program, *place, is_up=up)

    def gpu() -> Result:
        if not (device := settings.profile.device):
            return ok("models run on the processor")
        return doctor_cluster.gpu(house.cluster, settings.node_of(settings.ollama), device)

    return [
        Check("tools", PULUMI, lambda: doctor_laptop.tools(shutil.which("pulumi"))),
        Check("state", PULUMI, lambda: doctor_laptop.state(stack.name, house.exported)),
        Check("passphrase", PULUMI, lambda: doctor_laptop.passphrase(stack.cli, house.stack_file)),
        Check("api", KUBECONFIG, lambda: doctor_laptop.connection(*context)),
        Check("rights", KUBECONFIG, lambda: doctor_cluster.rights(house.api())),
        Check("version", MICROK8S, lambda: doctor_cluster.version(house.cluster)),
        Check("rbac", MICROK8S, lambda: doctor_cluster.rbac(house.api())),
        Check("dns", MICROK8S, lambda: doctor_cluster.dns(house.cluster)),
        Check("marks", TAILSCALE, lambda: doctor_cluster.marks(house.cluster)),
        Check("nodes", PULUMI, lambda: doctor_cluster.nodes(house.cluster, settings.nodes)),
        Check("gpu", HOSTS, gpu),
        Check(
            "observability",
            "docs/observability-stack.md",
            lambda: doctor_taken.observability(house.cluster, house.state),
        ),
        Check(
            "metallb",
            "docs/metallb-pool.md",
            lambda: doctor_taken.metallb(house.cluster, house.state, network.metallb),
        ),
        Check(
            "names",
            "docs/local-storage.md",
            lambda: doctor_taken.names(house.cluster, house.state, house.program),
        ),
        Check("addresses", "docs/metallb-pool.md", addresses),
        Check("disk", DIRECTORIES, lambda: doctor_disk.disks(house.api(), settings)),
        Check("backups", "docs/backups.md", lambda: doctor_disk.backups(settings)),
        Check("images", MICROK8S, lambda: doctor_images.images(images)),
    ]


def after(house: House) -> list[Check]:
    """Give the checks of the running house."""
    settings, outputs = house.settings, house.program.outputs
    pages, grafana = outputs["open_webui_urls"], outputs["grafana_url"]
    origins = outputs["open_webui_origins"]
    places = dict.fromkeys(pages, doctor_house.PAGE_HEALTH) | {grafana: doctor_house.GRAFANA_HEALTH}
    lan = settings.network.lan

    def answers() -> Result:
        home = doctor_laptop.at_home(lan, settings.observability.lan_address)
        return doctor_house.answers(places, away="" if home else lan)

    def completion() -> Result:
        who = (settings.webui.admin_email, house.password())
        return doctor_house.completion(pages, *who, settings.ollama.names[0])

    def metrics() -> Result:
        return doctor_house.metrics(
            lambda path, **query: house.cluster.ask(doctor_house.PROMETHEUS + path, **query)
        )

    return [
        Check("page", f"{RUNBOOK}#openwebuidown", answers),
        Check(
            "websocket", f"{RUNBOOK}#openwebuidown", lambda: doctor_house.websocket(pages, origins)
        ),
        Check("completion", f"{RUNBOOK}#ollamadown", completion, ANSWER),
        Check("metrics", f"{RUNBOOK}#gatewaynotreporting", metrics),
    ]


def lines(results: list[tuple[Check, Result]]) -> Iterator[str]:
    """Give one line for each check, and one that counts them."""
    width = max(len(check.name) for check, _ in results)
    for check, result in results:
        answer = f"; to do: {result.do}" if result.do else ""
        more = f" ({check.page})" if result.level != "ok" else ""
        yield f"  {result.level:<4}  {check.name:<{width}}  {result.text}{answer}{more}"
    levels = [result.level for _, result in results]
    yield "  " + ", ".join(f"{levels.count(one)} {one}" for one in ("fail", "warn", "ok"))


if __name__ == "__main__":
    sys.exit(main())
