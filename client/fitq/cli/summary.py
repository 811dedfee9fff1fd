"""The summary of a finished submission for people: fits by status, speed, how near to the optimum, the first rows."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from fitq_shared.jobs.frames import Status
from fitq_shared.store.manifest import Manifest

#: A fit counts as near the optimum when its gap is at most this.
NEAR_GAP = 1e-3
#: Coefficients that are further from the optimum's than this, in standard errors, are worth a word.
FAR_STDERRS = 1.0
_ROWS_SHOWN = 5


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of a submission as a whole."""

    submission: str
    fits: int
    statuses: dict[str, int]
    #: The commonest message of each status that has one.
    messages: dict[str, str]
    #: Wall time from the first fit's start to the last one's end.
    seconds: float | None
    fits_per_second: float | None
    #: Share of all fits whose gap is at most NEAR_GAP.
    near_optimum: float
    #: Fits with a coefficient more than FAR_STDERRS standard errors from the optimum's, and the most by which one is.
    stderrs_off: int
    most_stderrs_off: float | None


class Tally:
    """Adds up batches of RESULT_SCHEMA as they come."""

    def __init__(self) -> None:
        self._near, self._off = 0, 0
        self._most_off: float | None = None
        self._reasons: Counter[tuple[str, str | None]] = Counter()
        self._first_rows: list[dict[str, Any]] = []

    def add(self, results: pa.RecordBatch) -> None:
        """Count the fits of a batch; the first rows of all are kept."""
        self._near += pc.sum(pc.less_equal(results["gap"], NEAR_GAP)).as_py() or 0
        off = results["stderrs_off"]
        self._off += pc.sum(pc.greater(off, FAR_STDERRS)).as_py() or 0
        self._most_off = max((most for most in (self._most_off, pc.max(off).as_py()) if most is not None), default=None)
        grouped = (
            pa.table(results.select(["status", "message"])).group_by(["status", "message"]).aggregate([([], "count_all")])
        )
        for status, message, fits in zip(*(column.to_pylist() for column in grouped.columns), strict=True):
            self._reasons[status, message] += fits
        self._first_rows += results.slice(0, _ROWS_SHOWN - len(self._first_rows)).to_pylist()

    def summary(self, manifest: Manifest) -> Summary:
        """What has been added so far, with the times of the finished submission."""
        fits = self._reasons.total()
        times = manifest.started_at, manifest.finished_at
        return Summary(
            submission=manifest.id,
            fits=fits,
            statuses=self._statuses(),
            messages=self._messages(),
            seconds=None if None in times else times[1] - times[0],  # type: ignore[operator]
            fits_per_second=manifest.fits_per_second,
            near_optimum=self._near / max(fits, 1),
            stderrs_off=self._off,
            most_stderrs_off=self._most_off,
        )

    def rendered(self, summary: Summary) -> RenderableType:
        """A summary and the first rows that were added, for a rich console."""
        return Group(_totals(summary), "", _first_rows(self._first_rows))

    def _statuses(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for (status, _), fits in self._reasons.items():
            counts[status] += fits
        return dict(counts.most_common())

    def _messages(self) -> dict[str, str]:
        rarest_first = reversed(self._reasons.most_common())
        return {status: message for (status, message), _ in rarest_first if message}


def status_style(status: str) -> str:
    """Colour of a status: green is good, yellow fell short, red failed."""
    return {Status.CONVERGED: "green", Status.MAX_STEPS: "yellow", Status.STALLED: "yellow"}.get(Status(status), "red")


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
