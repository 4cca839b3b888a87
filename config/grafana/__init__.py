"""The dashboards of the house, made with Grafana's own typed builders."""

from collections.abc import Iterable

from config.grafana import ai, house, usage
from config.grafana.panels import Board, encoded


def boards(disks: str) -> list[Board]:
    """Every dashboard there is; `disks` is a PromQL regular expression of mount points."""
    return [ai.BOARD, usage.BOARD, house.board(disks)]


def dashboards(disks: Iterable[str], runbook: str) -> dict[str, str]:
    """The dashboards as JSON text, by name.

    They watch the mount points `disks` and send people to the page `runbook`.
    """
    made = boards("|".join(sorted(set(disks))))
    return {board.name: encoded(board, runbook) for board in made}
