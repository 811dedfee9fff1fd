"""The manifest: what is known of one submission."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import msgspec

#: Unix seconds; any that a clock may show.
Time = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
Total = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one submission; times are Unix seconds, None for what has not happened yet."""

    id: str
    #: What was submitted, for people: a file name or the like.
    source: str
    #: `open` while jobs may still be added, `closed` when all of them are in, `cancelled` when no more are fitted.
    state: Literal["open", "closed", "cancelled"]
    created_at: Time
    #: The name under which it can be found and repeated, if it has one.
    key: str = ""
    #: Where result and trace frames are kept as files; empty where they are in Redis.
    results_url: str = ""
    #: What the results of all its jobs take in the memory of Redis, about.
    results_bytes: Total = 0
    #: What counts against the quota of bytes: job frames as they were stored, and `results_bytes`.
    counted_bytes: Total = 0
    started_at: Time | None = None
    finished_at: Time | None = None
    jobs: Total = 0
    chunks: Total = 0
    done_jobs: Total = 0
    done_chunks: Total = 0
    #: Worker time spent on committed chunks, in seconds.
    fit_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    #: Finished fits by status; of a retried job, the newest one counts.
    statuses: dict[str, int] = {}
    #: Jobs that are being fitted again, and chunks of such jobs so far; the totals above are those of the input.
    retrying: int = 0
    retry_chunks: int = 0

    @property
    def finished(self) -> bool:
        """All jobs are in and all their results are stored, or no more come because it was cancelled; none is retried."""
        return self.finished_at is not None and not self.retrying

    @property
    def all_chunks(self) -> int:
        """Numbers of chunks are below this one; those of retried jobs come after those of the input."""
        return self.chunks + self.retry_chunks

    @property
    def results_bytes_to_come(self) -> float:
        """What the results of jobs that are not fitted yet will take in the memory of Redis, about."""
        return 0.0 if self.finished else self.results_bytes * max(1.0 - self.done_jobs / max(self.jobs, 1), 0.0)

    @property
    def fits_per_second(self) -> float | None:
        """Finished fits over wall time since the first was started."""
        if self.started_at is None:
            return None
        return self.done_jobs / max((self.finished_at or time.time()) - self.started_at, 1e-3)
