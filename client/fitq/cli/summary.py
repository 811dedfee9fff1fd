"""The summary of a finished submission for people: totals and the first rows."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from fitq.cli.output import status_style
from fitq.results.summary import FAR_STDERRS, NEAR_GAP, Summary


def render(summary: Summary, first_rows: list[dict[str, Any]]) -> RenderableType:
    """A summary and the first rows of RESULT_SCHEMA, for a rich console."""
    return Group(_totals(summary), "", _first_rows(first_rows))


def _totals(summary: Summary) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row(f"{summary.fits:,}", "fits")
    for status, fits in summary.statuses.items():
        why = f"[dim]: {escape(summary.messages[status])}[/]" if status in summary.messages else ""
        table.add_row(f"{fits:,}", f"[{status_style(status)}]{status}[/]{why}")
    table.add_row(f"{summary.near_optimum:.2%}", f"with a gap of at most {NEAR_GAP:g} to the optimum of their loss")
    if summary.stderrs_off:
        off = f"with a coefficient more than {FAR_STDERRS:g} standard error off, at most {summary.most_stderrs_off:.2g}"
        table.add_row(f"{summary.stderrs_off:,}", off)
    if summary.fits_per_second is not None and summary.seconds is not None:
        table.add_row(f"{summary.fits_per_second:,.0f}", f"fits per second ({summary.seconds:.1f} s)")
    return table


def _first_rows(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="first fits", title_justify="left", box=None, pad_edge=False, header_style="dim")
    for name, justify in (("id", "left"), ("status", "left"), ("coefficients", "left"), ("rmse", "right"), ("r2", "right")):
        table.add_column(name, justify=justify, no_wrap=name == "status")  # type: ignore[arg-type]
    table.add_column("gap", justify="right")
    for row in rows:
        coefficients = " ".join(_number(value) for value in row["coefficients"] or ())
        status = f"[{status_style(row['status'])}]{row['status']}[/]"
        table.add_row(escape(row["id"]), status, coefficients, *(_number(row[name]) for name in ("rmse", "r2", "gap")))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.5g}"
