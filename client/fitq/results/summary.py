"""The summary of a finished submission: fits by status, speed, how near to the optimum."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fitq_shared.store.manifest import Manifest

#: A fit counts as near the optimum when its gap is at most this.
NEAR_GAP = 1e-3
#: Coefficients that are further from the optimum's than this, in standard errors, are worth a word.
FAR_STDERRS = 1.0
_ROWS_KEPT = 5


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
    """Adds up batches of RESULT_SCHEMA as they come, and keeps the first rows of all."""

    def __init__(self) -> None:
        self._near, self._off = 0, 0
        self._most_off: float | None = None
        self._reasons: Counter[tuple[str, str | None]] = Counter()
        self.first_rows: list[dict[str, Any]] = []

    def add(self, results: pa.RecordBatch) -> None:
        """Count the fits of a batch."""
        self._near += pc.sum(pc.less_equal(results["gap"], NEAR_GAP)).as_py() or 0
        off = results["stderrs_off"]
        self._off += pc.sum(pc.greater(off, FAR_STDERRS)).as_py() or 0
        self._most_off = max((most for most in (self._most_off, pc.max(off).as_py()) if most is not None), default=None)
        grouped = (
            pa.table(results.select(["status", "message"])).group_by(["status", "message"]).aggregate([([], "count_all")])
        )
        for status, message, fits in zip(*(column.to_pylist() for column in grouped.columns), strict=True):
            self._reasons[status, message] += fits
        self.first_rows += results.slice(0, _ROWS_KEPT - len(self.first_rows)).to_pylist()

    @property
    def fits(self) -> int:
        """How many have been added."""
        return self._reasons.total()

    def summarize(self, manifest: Manifest) -> Summary:
        """What has been added so far, with the times of the finished submission."""
        fits = self.fits
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

    def _statuses(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for (status, _), fits in self._reasons.items():
            counts[status] += fits
        return dict(counts.most_common())

    def _messages(self) -> dict[str, str]:
        rarest_first = reversed(self._reasons.most_common())
        return {status: message for (status, message), _ in rarest_first if message}
