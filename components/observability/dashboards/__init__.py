"""Grafana dashboards."""

from collections.abc import Iterable

from components.observability.dashboards import ai, server, usage
from components.observability.dashboards.panels import encoded
from components.observability.promql import any_of


def dashboards(
    disks: Iterable[str], runbook: str, backup_hours: int | None = None
) -> dict[str, str]:
    """Return all dashboards as JSON, by name.

    `disks` are mount points, `backup_hours` is the interval of backups, and `runbook` is the URL of
    a page with a section for each panel's alert.
    """
    boards = (ai.BOARD, usage.BOARD, server.board(any_of(sorted(set(disks))), backup_hours))
    return {board.name: encoded(board, runbook) for board in boards}
