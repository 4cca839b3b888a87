"""Grafana dashboards."""

from collections.abc import Iterable

from components.observability.dashboards import ai, server, usage
from components.observability.dashboards.panels import Board, encoded
from components.observability.promql import any_of


def boards(disks: str, backup_hours: int | None) -> list[Board]:
    """Return all dashboards; `disks` is a PromQL regular expression of mount points."""
    return [ai.BOARD, usage.BOARD, server.board(disks, backup_hours)]


def dashboards(
    disks: Iterable[str], runbook: str, backup_hours: int | None = None
) -> dict[str, str]:
    """Return all dashboards as JSON, by name.

    `disks` are mount points, `backup_hours` is the interval of backups, and `runbook` is the URL of
    a page with a section for each panel's alert.
    """
    disks = any_of(sorted(set(disks)))
    return {board.name: encoded(board, runbook) for board in boards(disks, backup_hours)}
