"""Panels and dashboards, and their encoding as Grafana's JSON."""

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
"""The chart's data source."""

Builder = stat.Panel | timeseries.Panel | bargauge.Panel


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: its queries, and how to read them."""

    title: str
    unit: str
    """A unit of Grafana's, or `suffix:` and a text."""
    about: str
    """Description: what it shows, and what is normal."""
    alert: str
    """Alert whose runbook section helps."""
    queries: Mapping[str, str]
    """PromQL by legend."""
    limits: tuple[tuple[str, float], ...] = ()
    """Thresholds: a colour, and the value from which it applies."""
    below: str = "green"
    """Colour below all limits."""
    shape: Literal["stat", "lines", "bars"] = "lines"
    zero: str = ""
    """Text instead of 0, if 0 means that there is no data."""


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard of rows of panels, by title; a row's panels share its width."""

    name: str
    title: str
    rows: Mapping[str, Sequence[Panel]]
    time: str
    """Time range, such as `6h`."""
    by_model: bool = False
    """Whether it has the variables `$server` and `$model`."""


def high(orange: float, red: float) -> tuple[tuple[str, float], ...]:
    """Return limits of a value that is bad if high."""
    return (("orange", orange), ("red", red))


def low(orange: float, green: float) -> tuple[tuple[str, float], ...]:
    """Return limits of a value that is bad if low, with `below="red"`."""
    return (("orange", orange), ("green", green))


def encoded(board: Board, runbook: str) -> str:
    """Return the dashboard as JSON; its panels link to sections of the page `runbook`."""
    dashboard = (
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
            dashboard.with_variable(
                QueryVariable(name)
                .label(name.title())
                .datasource(PROMETHEUS)
                .query(f"label_values({values})")
                .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
                .multi(True)
                .include_all(True)
                # Not only models on the disk: requests may be for others.
                .all_value(".*")
            )
    number = 0
    for title, panels in board.rows.items():
        dashboard.with_row(Row(title).id(number := number + 1))
        for panel in panels:
            width = 24 // len(panels)
            dashboard.with_panel(_panel(panel, runbook).id(number := number + 1).span(width))
    return JSONEncoder(sort_keys=True).encode(dashboard.build())


def _panel(panel: Panel, runbook: str) -> Builder:
    colours = [Threshold(color=panel.below if panel.limits else "blue")]
    colours += [Threshold(color=colour, value=value) for colour, value in panel.limits]
    builder = (
        _shape(panel)
        .title(panel.title)
        .description(f"{panel.about}\n\nRunbook: {runbook}#{panel.alert.lower()}")
        .datasource(PROMETHEUS)
        .unit(panel.unit)
        .min(0)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours))
        # Longer than the 10 s between pushes, because chats are rarer.
        .interval("1m")
    )
    if panel.zero:
        instead = ValueMappingResult(text=panel.zero, color="text")
        builder.mappings([ValueMap(options={"0": instead})])
    for letter, (legend, query) in zip("ABCDEF", panel.queries.items(), strict=False):
        target = Dataquery().ref_id(letter).expr(query).legend_format(legend)
        builder.with_target(target if panel.shape == "lines" else target.instant())
    return builder


def _shape(panel: Panel) -> Builder:
    if panel.shape == "stat":
        return stat.Panel().height(4)
    if panel.shape == "bars":
        return bargauge.Panel().height(8).orientation(VizOrientation.HORIZONTAL)
    marks = GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    legend = VizLegendOptions().show_legend(True)
    return timeseries.Panel().height(8).fill_opacity(10).thresholds_style(marks).legend(legend)
