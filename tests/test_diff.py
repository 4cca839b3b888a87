"""Each planted change, rendered through the program, is told with exactly its risks."""

import copy
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import deploy_program, stack_config

from components import _kubernetes, observability
from components.ollama import model_job, stack
from components.open_webui import environment
from config import versions
from ops import changes, diff, render, risks
from ops.__main__ import main
from ops.changes import Difference, Made

Config = dict[str, Any]
Plant = Callable[[Config, pytest.MonkeyPatch], object]

OLLAMA, WEBUI = "`Deployment ollama-stack/ollama`", "`Deployment ollama-stack/open-webui`"
UNLOADED = (
    f"Restarts: {OLLAMA}: the models are unloaded; running answers have 330 s to end, new ones"
    " wait until it is back"
)
AWAY = (
    f"Restarts: {WEBUI}: the chat page is away until it is ready again; answers that stream are cut"
)
PAGE = "`Service ollama-stack/open-webui-service-local`"
POOL = "`IPAddressPool metallb-system/homelab`"
DOOR = "`NetworkPolicy ollama-stack/open-webui`"
MONITORING = "`Release observability/kube-prom-stack`"
UNPRIVILEGED = [
    f"Who may reach what: closed by `Namespace ollama-stack`: pods up to Pod Security `{level}`"
    for level in ("baseline", "privileged")
]
VOLUME = "`PersistentVolume ollama-stack-models`"


def rendered(folder: Path, config: Config) -> dict[str, Made]:
    """What the real program makes of `config`, written and read back."""
    render.write(folder, render.render(deploy_program("home", config), config))
    return changes.load(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The house as it is."""
    return rendered(tmp_path_factory.mktemp("base"), stack_config("home"))


def bounds(tree: Any, bound: str, resource: str) -> float:
    """Sum a bound of a resource, in cores or GiB, in whatever lies below `tree`."""
    units = {"m": 1 / 1000, "Mi": 1 / 1024, "Gi": 1.0}
    if isinstance(tree, list):
        return sum(bounds(item, bound, resource) for item in tree)
    if not isinstance(tree, dict):
        return 0
    total = sum(bounds(item, bound, resource) for key, item in tree.items() if key != "resources")
    if asked := str(((tree.get("resources") or {}).get(bound) or {}).get(resource, "")):
        number, unit = re.fullmatch(r"([\d.]+)(\D*)", asked).groups()  # type: ignore[union-attr]
        total += float(number) * units.get(unit, 1)
    return total


def told(base: dict[str, Made], head: dict[str, Made]) -> dict[str, str]:
    """What an expected line leaves open, as it changes with every request of the program."""
    pods = [*(list(made.containers()) for made in base.values()), observability.CHART_VALUES]
    (job,) = (made.name for made in head.values() if made.kind == "Job")

    def line(bound: str, resource: str, more: float) -> str:
        had = sum(bounds(pod, bound, resource) for pod in pods)
        room, unit = (93, "GiB") if resource == "memory" else (24, "cores")
        was, now = (
            f"{number:.1f}".removesuffix(".0") if unit == "GiB" else f"{number:g}"
            for number in (had, had + more)
        )
        return (
            f"Capacity: `evo4t` {resource} {bound}: {was} {unit} → {now} {unit} of {room} {unit}"
            f" ({(had + more) / room:.0%})"
        )

    return {
        "job": f"`Job {job}`",
        "more_memory": line("requests", "memory", 40 - 19),
        "more_limit": line("limits", "memory", 64 - 24),
        "larger_models": line("requests", "memory", 54 - 19),
        "larger_limit": line("limits", "memory", 64 - 24),
        "more_cores": line("requests", "cpu", 1),
        "less_cpu": line("requests", "cpu", -0.5),
        "less_limit": line("limits", "memory", -4),
        "less_memory": line("requests", "memory", -1),
    }


def put(path: str, value: object) -> Plant:
    """Change one key of the stack file."""

    def change(config: Config, _: pytest.MonkeyPatch) -> None:
        *above, last = path.split(".")
        for key in above:
            config = config[key]
        config[last] = value

    return change


def together(*plants: Plant) -> Plant:
    return lambda config, patch: [plant(config, patch) for plant in plants]


def chart(part: str, key: str, value: object) -> Plant:
    """Change one of the chart's values."""

    def change(_: Config, patch: pytest.MonkeyPatch) -> None:
        patch.setitem(observability.CHART_VALUES[part], key, value)

    return change


def option(module: str, kind: str, **changed: object) -> Plant:
    """Have a component make each resource of `kind` with other arguments."""

    def change(_: Config, patch: pytest.MonkeyPatch) -> None:
        original = getattr(importlib.import_module(f"components.{module}"), kind)
        patch.setattr(
            f"components.{module}.{kind}",
            lambda name, **rest: original(name, **{**rest, **changed}),
        )

    return change


def second_machine(config: Config, _: pytest.MonkeyPatch) -> None:
    disk = {"path": "/mnt/evo4t", "size": "500Gi"}
    machine = {"address": "192.168.1.99", "cpus": 8, "memory": "16Gi", "disk": disk}
    config["nodes"]["spare"] = machine
    config["webui"]["node"] = "spare"


def no_deny(_: Config, patch: pytest.MonkeyPatch) -> None:
    original = _kubernetes.policy
    patch.setattr(
        "components.ollama.stack.policy",
        lambda name, *rest, **rules: (
            None if name.endswith("default-deny") else original(name, *rest, **rules)
        ),
    )


def renamed(_: Config, patch: pytest.MonkeyPatch) -> None:
    original = _kubernetes.service
    patch.setattr(
        "components.ollama.stack.service",
        lambda logical, *rest, **more: original(f"{logical}-new", *rest, **more),
    )


def newer_program(_: Config, patch: pytest.MonkeyPatch) -> None:
    program = {name: f"{text}# newer\n" for name, text in model_job.PROGRAM.items()}
    patch.setattr(model_job, "PROGRAM", program)
    original = _kubernetes.texts
    patch.setattr(
        "components.ollama.gateway.texts",
        lambda *folder: {name: f"{text}# newer\n" for name, text in original(*folder).items()},
    )


CASES: dict[str, tuple[Plant, list[str]]] = {
    "newer Ollama": (
        put("ollama.image", "ollama/ollama:0.41.0@sha256:" + "a" * 64),
        [
            UNLOADED,
            f"Versions: image of `ollama`: `{versions.OLLAMA_IMAGE}` →"
            f" `ollama/ollama:0.41.0@sha256:{'a' * 64}`",
        ],
    ),
    "older Ollama without digest": (
        put("ollama.image", "ollama/ollama:0.39.0"),
        [
            UNLOADED,
            f"Versions: image of `ollama`: `{versions.OLLAMA_IMAGE}` → `ollama/ollama:0.39.0`,"
            " **older than before**: data may not open, **no longer pinned by digest**",
        ],
    ),
    "same version, other contents": (
        put("ollama.image", versions.OLLAMA_IMAGE.partition("@")[0] + "@sha256:" + "b" * 64),
        [
            UNLOADED,
            f"Versions: image of `ollama`: `{versions.OLLAMA_IMAGE}` →"
            f" `{versions.OLLAMA_IMAGE.partition('@')[0]}@sha256:{'b' * 64}`,"
            " **the same version with other contents**",
        ],
    ),
    "newer Open WebUI, which leaves the models loaded": (
        put("webui.image", "ghcr.io/open-webui/open-webui:v0.13.0"),
        [
            AWAY,
            "Versions: image of `open-webui`:"
            f" `{versions.OPEN_WEBUI_IMAGE}` → `ghcr.io/open-webui/open-webui:v0.13.0`",
        ],
    ),
    "newer image of gateway and Job": (
        put("ollama.gateway_image", "ghcr.io/open-webui/open-webui:v0.13.0"),
        [
            UNLOADED,
            "Restarts: {job} runs again, and pulls what is missing",
            "Versions: image of `gateway`, `sync-models`:"
            f" `{versions.GATEWAY_IMAGE}` → `ghcr.io/open-webui/open-webui:v0.13.0`",
        ],
    ),
    "newer chart": (
        put("observability.chart_version", "99.0.0"),
        [
            f"Restarts: {MONITORING}: Helm upgrades it; what changes is in all of the chart",
            f"Versions: chart `observability/kube-prom-stack`: `{versions.KUBE_PROMETHEUS_STACK}`"
            " → `99.0.0`",
        ],
    ),
    "models in another directory": (
        put("ollama.volume.path", "/mnt/evo4t/elsewhere"),
        [
            f"`up` would refuse: {VOLUME} is deleted and made anew, because of `spec.local`,"
            " but is protected (docs/changes.md)",
            f"Data: {VOLUME} is deleted and made anew, because of `spec.local`; what is in"
            " `/mnt/evo4t/models` stays there, pods find what is in `/mnt/evo4t/elsewhere`",
            f"Replaced, not updated: {VOLUME} is deleted and made anew, because of `spec.local`",
        ],
    ),
    "more room for models": (
        put("ollama.volume.size", "600Gi"),
        ["Capacity: `evo4t` volumes: 650 GiB → 750 GiB of 931 GiB (81%)"],
    ),
    "less room for history": (
        put("observability.volume.size", "20Gi"),
        [
            "Data: Prometheus' `retentionSize`: `40960MiB` → `16384MiB`; history beyond the new"
            " one is deleted",
            f"Restarts: {MONITORING}: Helm upgrades it; what changes is in `prometheus`",
            "Capacity: `evo4t` volumes: 650 GiB → 620 GiB of 931 GiB (67%)",
        ],
    ),
    "more room for history": (
        put("observability.volume.size", "60Gi"),
        [
            "Data: Prometheus' `retentionSize`: `40960MiB` → `49152MiB`",
            f"Restarts: {MONITORING}: Helm upgrades it; what changes is in `prometheus`",
            "Capacity: `evo4t` volumes: 650 GiB → 660 GiB of 931 GiB (71%)",
        ],
    ),
    "more memory for models": (
        put("ollama.memory", {"request": "40Gi", "limit": "64Gi"}),
        [UNLOADED, "{more_limit}", "{more_memory}"],
    ),
    "more cores for models": (
        put("ollama.cpu", 9.0),
        [UNLOADED, "{more_cores}"],
    ),
    "a smaller machine": (
        put("nodes.evo4t.disk.size", "700Gi"),
        ["Capacity: `evo4t` volumes: 650 GiB → 650 GiB of 700 GiB (93%)"],
    ),
    "the page at another address": (
        together(
            put("network.pool", "192.168.1.101-192.168.1.103"),
            put("webui.lan_address", "192.168.1.103"),
        ),
        [
            f"Who may reach what: **opened** by {POOL}: announced on the home network:"
            " 192.168.1.101-192.168.1.103",
            f"Who may reach what: closed by {POOL}: announced on the home network:"
            " 192.168.1.101-192.168.1.102",
            f"Who may reach what: **opened** by {PAGE}: home network, 192.168.1.103 port 8080",
            f"Who may reach what: closed by {PAGE}: home network, 192.168.1.101 port 8080",
            AWAY,
        ],
    ),
    "the page no longer on the tailnet": (
        put("webui.tailnet_address", None),
        [
            f"Who may reach what: closed by {WEBUI}: the node's 100.102.114.95 port 8080",
            f"Who may reach what: closed by {DOOR}: ingress from 100.64.0.0/10, port 8080",
            *UNPRIVILEGED,
            AWAY,
        ],
    ),
    "a wider home network": (
        put("network.lan", "192.168.0.0/16"),
        [
            f"Who may reach what: **opened** by {DOOR}: ingress from 192.168.0.0/16, port 8080",
            f"Who may reach what: closed by {DOOR}: ingress from 192.168.1.0/24, port 8080",
        ],
    ),
    "sign-in by a proxy": (
        together(
            put("webui.lan_address", None),
            put("webui.tailnet_address", None),
            put("webui.trusted_email_header", "X-Me"),
            put("webui.origins", ["https://chat.example.org"]),
        ),
        [
            f"Who may reach what: **opened** by {WEBUI}: `WEBUI_AUTH_TRUSTED_EMAIL_HEADER` ="
            " `X-Me`",
            f"Who may reach what: closed by {WEBUI}: the node's 100.102.114.95 port 8080",
            f"Who may reach what: closed by {PAGE}: home network, 192.168.1.101 port 8080",
            f"Who may reach what: closed by {DOOR}: ingress from 100.64.0.0/10, port 8080",
            f"Who may reach what: closed by {DOOR}: ingress from 192.168.1.0/24, port 8080",
            *UNPRIVILEGED,
            AWAY,
        ],
    ),
    "anybody may sign up": (
        lambda _, patch: patch.setitem(environment.FIXED, "ENABLE_SIGNUP", "true"),
        [
            f"Who may reach what: **opened** by {WEBUI}: `ENABLE_SIGNUP` = `true`",
            f"Who may reach what: closed by {WEBUI}: `ENABLE_SIGNUP` = `false`",
            AWAY,
        ],
    ),
    "Grafana without a password, on every address": (
        together(
            chart("grafana", "service", {"type": "NodePort"}),
            chart("grafana", "grafana.ini", {"auth.anonymous": {"enabled": True}}),
        ),
        [
            f"Who may reach what: **opened** by {MONITORING}:"
            " `grafana.grafana.ini.auth.anonymous.enabled`",
            f"Who may reach what: **opened** by {MONITORING}: `grafana.service.type` = `NodePort`",
            f"Restarts: {MONITORING}: Helm upgrades it; what changes is in `grafana`",
        ],
    ),
    "nothing closes the namespace any more": (
        no_deny,
        [
            "Who may reach what: **opened** by `NetworkPolicy ollama-stack/ollama-default-deny`:"
            " it no longer closes `Egress` of its pods",
            "Who may reach what: **opened** by `NetworkPolicy ollama-stack/ollama-default-deny`:"
            " it no longer closes `Ingress` of its pods",
        ],
    ),
    "models may be fetched from anywhere": (
        lambda _, patch: patch.setattr(stack, "INTERNET", {}),
        [
            "Who may reach what: **opened** by `NetworkPolicy ollama-stack/ollama`: egress to"
            " anyone, port any",
            "Who may reach what: closed by `NetworkPolicy ollama-stack/ollama`: egress to"
            " 0.0.0.0/0 but 10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12,"
            " 192.168.0.0/16, port 443",
        ],
    ),
    "MetalLB by the addon": (
        put("network.metallb", "addon"),
        [
            "Data: `Namespace metallb-system` is deleted, and everything in it, claims included",
            "Who may reach what: closed by `Namespace metallb-system`: pods up to Pod Security"
            " `baseline`",
            "Who may reach what: closed by `Namespace metallb-system`: pods up to Pod Security"
            " `privileged`",
            "Who may reach what: closed by `Role metallb-system/homelab-reader`: get, list"
            " `secrets`",
            "Restarts: `Release metallb-system/metallb` goes, and is not coming back",
        ],
    ),
    "one model for another": (
        put("ollama.models", ["llama3.2:3b", "llama3.3:70b", "gemma3:4b"]),
        [
            UNLOADED,
            "Restarts: {job} runs again, and pulls what is missing",
            # Without codellama there is no completion of code, and so no API key.
            AWAY,
            "Capacity: model `llama3.3:70b` is downloaded",
            "Capacity: model `codellama:7b` is declared no longer: the Job deletes it,"
            " if it had pulled it",
            "{larger_limit}",
            "{larger_models}",
        ],
    ),
    "models stay loaded": (put("ollama.keep_alive", "-1"), [UNLOADED]),
    # Their ConfigMaps change in place.
    "newer programs of our own": (
        newer_program,
        [UNLOADED, "Restarts: {job} runs again, and pulls what is missing"],
    ),
    "another cluster": (
        put("context", "other"),
        [
            "Data: the kubeconfig's context is `other`, no longer `homelab`: if it is another"
            " cluster, all is taken for deleted here and made there"
        ],
    ),
    "a longer key": (
        option("open_webui.page", "RandomPassword", length=64),
        [
            *(
                f"`up` would refuse: `RandomPassword open-webui-{name}` is deleted and made anew,"
                " because of `length`, but is protected (docs/changes.md)"
                for name in ("admin-password", "secret-key")
            ),
            "Data: `RandomPassword open-webui-admin-password` is deleted and made anew, because of"
            " `length`: the account keeps its old one, which nobody can look up any more",
            "Data: `RandomPassword open-webui-secret-key` is deleted and made anew, because of"
            " `length`: everybody is signed out, and what it encrypted in the chat page's database"
            " cannot be read",
            *(
                f"Replaced, not updated: `RandomPassword open-webui-{name}` is deleted and made"
                " anew, because of `length`"
                for name in ("admin-password", "secret-key")
            ),
        ],
    ),
    "volumes that are deleted with their claims": (
        option("local_storage", "StorageClass", reclaim_policy="Delete"),
        [
            "`up` would refuse: `StorageClass local-path` is deleted and made anew, because of"
            " `reclaimPolicy`, but is protected (docs/changes.md)",
            "Data: `StorageClass local-path` is reclaimed by `Delete`, no longer kept",
            "Replaced, not updated: `StorageClass local-path` is deleted and made anew, because of"
            " `reclaimPolicy`",
        ],
    ),
    "nothing is protected": (
        put("protect", False),
        [
            "Data: no longer protected against deletion:"
            " `RandomPassword open-webui-admin-password`, `RandomPassword open-webui-secret-key`,"
            " `LocalStorage storage`, `Namespace observability`, `Namespace ollama-stack`,"
            " `PersistentVolume ollama-stack-models`, `PersistentVolume ollama-stack-open-webui`,"
            " `PersistentVolume observability-prometheus`,"
            " `PersistentVolumeClaim ollama-stack/models`,"
            " `PersistentVolumeClaim ollama-stack/open-webui`, `StorageClass local-path`",
        ],
    ),
    "people on the dashboards": (put("observability.label_users", True), [UNLOADED, AWAY]),
    "the page on another machine": (
        second_machine,
        [
            "`up` would refuse: `PersistentVolume ollama-stack-open-webui` is deleted and made"
            " anew, because of `spec.nodeAffinity`, but is protected (docs/changes.md)",
            "Data: `PersistentVolume ollama-stack-open-webui` is deleted and made anew, because of"
            " `spec.nodeAffinity`; `/mnt/evo4t/open-webui` stays on the old machine, and what is"
            " in it is not moved",
            "Replaced, not updated: `PersistentVolume ollama-stack-open-webui` is deleted and made"
            " anew, because of `spec.nodeAffinity`",
            f"Who may reach what: **opened** by {DOOR}: ingress from 192.168.1.99/32, port 8080",
            AWAY,
            "{less_cpu}",
            "{less_limit}",
            "{less_memory}",
            "Capacity: `evo4t` volumes: 650 GiB → 550 GiB of 931 GiB (59%)",
            "Capacity: `spare` cpu requests: 0 cores → 0.5 cores of 8 cores (6%)",
            "Capacity: `spare` memory limits: 0 GiB → 4 GiB of 16 GiB (25%)",
            "Capacity: `spare` memory requests: 0 GiB → 1 GiB of 16 GiB (6%)",
            "Capacity: `spare` volumes: 0 GiB → 100 GiB of 500 GiB (20%)",
        ],
    ),
    "another logical name": (
        renamed,
        [
            "`up` would refuse: `Service ollama-stack/ollama-service` exists already: registered"
            " as `ollama-service-new` instead of `ollama-service`, it needs an alias"
        ],
    ),
}


@pytest.mark.parametrize(("plant", "wanted"), CASES.values(), ids=CASES)
def test_a_planted_change_has_exactly_these_risks(
    plant: Plant,
    wanted: list[str],
    base: dict[str, Made],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = copy.deepcopy(stack_config("home"))
    plant(config, monkeypatch)
    head = rendered(tmp_path, config)

    found = [f"{risk.topic}: {risk.text}" for risk in risks.risks(Difference(base, head))]

    open_ended = told(base, head)
    assert found == [line.format(**open_ended) for line in wanted]


def test_the_unchanged_program_has_nothing_to_report(base: dict[str, Made], tmp_path: Path) -> None:
    again = rendered(tmp_path, stack_config("home"))

    assert diff.report(Difference(base, again)) == "No change to what the program makes.\n"


def claims(spec: dict[str, Any], **options: list[str]) -> dict[str, Made]:
    properties = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": "a", "name": "b"},
        "spec": spec,
    }
    made = Made("x", "kubernetes:core/v1:PersistentVolumeClaim::b", dict(options), properties)
    return {made.key: made}


def test_what_the_engine_overlooks_is_no_risk_and_what_it_is_told_replaces() -> None:
    old, new = {"storageClassName": "x", "volumeMode": "y"}, {"storageClassName": "z"}
    told = "because of `spec.volumeMode`"
    replaced = claims({**old, "volumeMode": "Block"}, replaceOnChanges=["spec.volumeMode"])
    overlooked = claims({**old, **new}, ignoreChanges=["spec.storageClassName"])
    plain = claims({**old, **new})

    assert risks.risks(Difference(claims(old), overlooked)) == []
    assert [risk.topic for risk in risks.risks(Difference(claims(old), plain))] == [
        risks.DATA,
        risks.REPLACED,
    ]
    assert told in risks.risks(Difference(claims(old), replaced))[0].text


def test_what_an_account_may_do_more_is_told() -> None:
    def role(**rule: list[str]) -> dict[str, Made]:
        properties = {"metadata": {"name": "reader"}, "rules": [{"verbs": ["list", "get"], **rule}]}
        made = Made("x", "kubernetes:rbac.authorization.k8s.io/v1:ClusterRole::x", {}, properties)
        return {made.key: made}

    some = role(resources=["secrets"], resourceNames=["mine"])
    more = role(resources=["pods", "secrets"], apiGroups=["", "apps"])
    found = risks.risks(Difference(some, more))

    assert [risk.text for risk in found] == [
        "**opened** by `ClusterRole reader`: get, list `apps/pods`",
        "**opened** by `ClusterRole reader`: get, list `apps/secrets`",
        "**opened** by `ClusterRole reader`: get, list `pods`",
        "**opened** by `ClusterRole reader`: get, list `secrets`",
        "closed by `ClusterRole reader`: get, list `secrets` named mine",
    ]


def test_the_report_has_the_risks_first_and_each_diff_below_its_component(
    base: dict[str, Made], tmp_path: Path
) -> None:
    config = copy.deepcopy(stack_config("home"))
    config["ollama"]["keep_alive"] = "2h"
    head = rendered(tmp_path, config)

    told = diff.report(Difference(base, head))
    above, _, below = told.partition("```diff\n")
    body, _, rest = below.partition("\n```\n")

    assert above == (
        f"**1 changed**\n\n### Restarts\n\n- {UNLOADED.removeprefix('Restarts: ')}\n\n"
        "### ollama\n\n<details><summary>changed Deployment ollama-stack/ollama</summary>\n\n"
    )
    assert [line for line in body.splitlines() if line[0] in "+-"] == [
        "-            value: 30m",
        "+            value: 2h",
    ]
    assert rest == "\n</details>\n"


def test_a_change_that_no_rule_knows_is_told_as_such(
    base: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.observability.stack.alerts", lambda *_, **__: {})
    head = rendered(tmp_path, stack_config("home"))
    removed = sum(made.kind == "PrometheusRule" for made in base.values())

    assert diff.report(Difference(base, head)).startswith(
        f"**{removed} removed**\n\nNothing restarts, is replaced, opened or lost"
    )


def test_what_looks_like_a_secret_is_never_in_the_report(
    base: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copy.deepcopy(stack_config("home"))
    chart("grafana", "adminPassword", "hunter2!")(config, monkeypatch)
    head = rendered(tmp_path, config)

    told = diff.report(Difference(base, head))
    assert "+      adminPassword: '[secret]'" in told
    assert "hunter2" not in told


def test_folders_of_another_hand_are_masked_too(tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").write_text("a::b: {properties: {password: hunter2!}}\n")

    assert "hunter2" not in diff.report(Difference({}, changes.load(tmp_path)))


def whole(text: str) -> bool:
    """Say whether every code block and fold that begins in `text` ends there."""
    fence = ""
    for line in text.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif found := re.match("`{3,}", line):
            fence = found[0]
    return not fence and text.count("<details>") == text.count("</details>")


def test_the_longest_report_fits_in_a_comment(base: dict[str, Made]) -> None:
    told = diff.report(Difference({}, base))

    assert 60_000 < len(told) <= 65536
    assert whole(told)
    assert re.search(r"_Left out for length, see the program itself: \d+ diffs._\n$", told)


def test_a_report_of_any_length_is_cut_between_blocks_and_says_so(base: dict[str, Made]) -> None:
    everything = Difference({}, base)
    for limit in (200, 500, 1000, 2500, 6000, 15000, 40000):
        told = diff.report(everything, limit)
        assert len(told) <= limit
        assert whole(told), limit
        assert told.endswith("._\n")
        assert "_Left out for length, see the program itself:" in told


def test_a_diff_cannot_end_its_block(base: dict[str, Made]) -> None:
    evil = Made("x", "a:b:C::d", {}, {"data": "```\n# Approved\n````\n<details>\n"})
    told = diff.report(Difference(base, {**base, evil.key: evil}))

    assert "\n`````diff\n" in told
    assert whole(told.replace("+    <details>", ""))


def test_a_folder_that_is_no_render_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(tmp_path), str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: must be a folder that python -m ops render wrote\n"
    )
