"""What a panel says, and how it becomes Grafana's JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import bargauge, stat, timeseries
from grafana_foundation_sdk.builders.common import GraphThresholdsStyleConfig, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    DataSourceRef,
    GraphThresholdsStyleMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
)

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
"""The data source that the chart makes."""

Builder = stat.Panel | timeseries.Panel | bargauge.Panel


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it asks Prometheus, and how to read the answer."""

    title: str
    unit: str
    """One of Grafana's units, or `suffix:` and a text."""
    about: str
    """What it shows and what is normal, for a person at home."""
    alert: str
    """The section of the runbook that helps when it looks wrong."""
    queries: Mapping[str, str]
    """PromQL by legend."""
    limits: tuple[tuple[str, float], ...] = ()
    """Colours, and the value from which each is right. None: nothing to judge."""
    below: str = "green"
    """The colour below all limits."""
    shape: Literal["stat", "lines", "bars"] = "lines"
    zero: str = ""
    """What to write instead of 0, where 0 means that there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard: titled rows of panels, each row as wide as the screen."""

    name: str
    title: str
    rows: Mapping[str, Sequence[Panel]]
    time: str
    """How far it looks back, such as `6h`."""
    by_model: bool = False
    """Whether it can be narrowed to some servers and models, `$server` and `$model` in queries."""


def high(orange: float, red: float) -> tuple[tuple[str, float], ...]:
    """Limits of what is bad when it is high."""
    return (("orange", orange), ("red", red))


def low(orange: float, green: float) -> tuple[tuple[str, float], ...]:
    """Limits of what is bad when it is low; goes with `below="red"`."""
    return (("orange", orange), ("green", green))


def encoded(board: Board, runbook: str) -> str:
    """Give the dashboard as JSON whose panels name their section of the page `runbook`."""
    made = (
        Dashboard(board.title)
        .uid(f"homelab-{board.name}")
        .tags(["homelab"])
        .readonly()
        .refresh("1m")
        .time(f"now-{board.time}", "now")
        .link(DashboardLink("Homelab").type(DashboardLinkType.DASHBOARDS).tags(["homelab"]))
    )
    size = 'ollama_model_size_bytes{instance=~"$server"}'
    for name, values in (
        ("server", "ollama_up, instance"),
        ("model", f"{size}, gen_ai_request_model"),
    ):
        if board.by_model:
            made.with_variable(
                QueryVariable(name)
                .label(name.title())
                .datasource(PROMETHEUS)
                .query(f"label_values({values})")
                .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
                .multi(True)
                .include_all(True)
                # Also what was asked for and is not on the disk.
                .all_value(".*")
            )
    number = 0
    for title, panels in board.rows.items():
        made.with_row(Row(title).id(number := number + 1))
        for panel in panels:
            width = 24 // len(panels)
            made.with_panel(_panel(panel, runbook).id(number := number + 1).span(width))
    return JSONEncoder(sort_keys=True).encode(made.build())


def _panel(panel: Panel, runbook: str) -> Builder:
    colours = [Threshold(color=panel.below if panel.limits else "blue")]
    colours += [Threshold(color=colour, value=value) for colour, value in panel.limits]
    made = (
        _shape(panel)
        .title(panel.title)
        .description(f"{panel.about}\n\nRunbook: {runbook}#{panel.alert.lower()}")
        .datasource(PROMETHEUS)
        .unit(panel.unit)
        .min(0)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours))
        # The pushes come every 10 s, and a chat is rarer than that.
        .interval("1m")
    )
    if panel.zero:
        instead = ValueMappingResult(text=panel.zero, color="text")
        made.mappings([ValueMap(options={"0": instead})])
    for letter, (legend, query) in zip("ABCDEF", panel.queries.items(), strict=False):
        target = Dataquery().ref_id(letter).expr(query).legend_format(legend)
        made.with_target(target if panel.shape == "lines" else target.instant())
    return made


def _shape(panel: Panel) -> Builder:
    if panel.shape == "stat":
        return stat.Panel().height(4)
    if panel.shape == "bars":
        return bargauge.Panel().height(8).orientation(VizOrientation.HORIZONTAL)
    marks = GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    legend = VizLegendOptions().show_legend(True)
    return timeseries.Panel().height(8).fill_opacity(10).thresholds_style(marks).legend(legend)
