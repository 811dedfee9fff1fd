"""The manifest: what is known of one submission."""

from __future__ import annotations

import time
from typing import Literal

import msgspec


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one submission; times are Unix seconds, None for what has not happened yet."""

    id: str
    #: What was submitted, for people: a file name or the like.
    source: str
    #: `open` while jobs may still be added, `closed` when all of them are in, `cancelled` when no more are fitted.
    state: Literal["open", "closed", "cancelled"]
    created_at: float
    #: The name under which it can be found and repeated, if it has one.
    key: str = ""
    #: Where result and trace frames are kept as files; empty where they are in Redis.
    results_url: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    jobs: int = 0
    chunks: int = 0
    done_jobs: int = 0
    done_chunks: int = 0
    #: Worker time spent on committed chunks, in seconds.
    fit_seconds: float = 0.0
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
    def fits_per_second(self) -> float | None:
        """Finished fits over wall time since the first was started."""
        if self.started_at is None:
            return None
        return self.done_jobs / max((self.finished_at or time.time()) - self.started_at, 1e-3)
