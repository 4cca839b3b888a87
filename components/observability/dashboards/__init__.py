"""Grafana dashboards, made with Grafana's own typed builders."""

from collections.abc import Iterable

from components.observability.dashboards import ai, server, usage
from components.observability.dashboards.panels import Board, encoded
from components.observability.promql import any_of


def boards(disks: str, backup_hours: int | None) -> list[Board]:
    """Every dashboard there is; `disks` is a PromQL regular expression of mount points."""
    return [ai.BOARD, usage.BOARD, server.board(disks, backup_hours)]


def dashboards(
    disks: Iterable[str], runbook: str, backup_hours: int | None = None
) -> dict[str, str]:
    """The dashboards as JSON text, by name.

    They watch the mount points `disks`, and backups every `backup_hours` if there are any, and
    send people to the page `runbook`.
    """
    made = boards(any_of(sorted(set(disks))), backup_hours)
    return {board.name: encoded(board, runbook) for board in made}
