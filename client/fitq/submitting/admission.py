"""Admission: jobs are stored only as fast as the server has memory for them and for their results."""

from __future__ import annotations

import time

import numpy as np
import pyarrow.compute as pc

from fitq_shared.errors import ServerFull
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.trace import recorded_counts
from fitq_shared.masking import mask_url
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.payload import Payload
from fitq_shared.store.submitting import Memory, SubmittingStore
from fitq_shared.waiting import attempts

#: Bytes of a stored result apart from its tags and coefficients, and of each of the P numbers of its lists; measured,
#: compressed.
RESULT_BYTES, RESULT_BYTES_PER_COEFFICIENT = 110, 32
#: Bytes of a stored loss, measured, compressed.
LOSS_BYTES = 3.5
#: What is kept free of the server's memory, as a share: its buffers, fragmentation, other clients.
RESERVE = 0.1
#: The server is asked again after this many bytes of jobs and expected results.
CHECK_BYTES = 8 * 2**20
#: How long an upload waits while nothing is fitted.
PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.25


class Admission:
    """Holds an upload back while the server has no memory for it; a retry too, whose results come beside earlier ones."""

    def __init__(self, store: SubmittingStore, manifest: Manifest, *, retry: bool = False) -> None:
        self._store, self._submission = store, manifest.id
        self._jobs = 0
        self._results_bytes = 0.0  # expected of all jobs uploaded
        self._frames_bytes = 0  # of all jobs uploaded
        self._since_check = float(CHECK_BYTES)
        self._in_redis, self._retry = not manifest.results_url, retry

    def count(self, rows: Rows, payload: Payload) -> int:
        """Count a chunk of the submission, about to be stored or stored by an earlier upload.

        Returns the bytes, about, that its results will take in the server's memory.
        """
        self._jobs += payload.job_count
        self._frames_bytes += payload.size
        results = int(result_bytes(rows)) if self._in_redis else 0
        self._results_bytes += results
        self._since_check += payload.size + results
        return results

    def wait_for_room(self, payload: Payload) -> None:
        """Return when there is memory for these jobs, which were counted, and for the results of all that were.

        Raises:
            ServerFull: there is too little for the results alone, or nothing has been fitted for a while.
        """
        if self._since_check >= CHECK_BYTES:
            self._since_check = 0.0
            self._wait(payload)

    def _wait(self, payload: Payload) -> None:
        done, patience_ends = -1, 0.0
        for _ in attempts(_POLL_SECONDS, _POLL_SECONDS):
            memory = self._store.memory()
            if not memory.limit:
                return
            fitted, others = self._look_at_submissions()
            open_share = max(1.0 - fitted / self._jobs, 0.0)
            results, frames = self._results_bytes * open_share, self._frames_bytes * open_share
            room = memory.limit * (1.0 - RESERVE) - memory.used - others
            if results + payload.size <= room:
                return
            if results > room + frames:
                raise self._full(memory, results, "and nothing that is fitted first makes enough room")
            if fitted > done:
                done, patience_ends = fitted, time.monotonic() + PATIENCE_SECONDS
            elif time.monotonic() > patience_ends:
                raise self._full(
                    memory, results, f"and nothing was fitted in {PATIENCE_SECONDS:.0f} s: is a worker running?"
                )

    def _look_at_submissions(self) -> tuple[int, float]:
        """How many of the counted jobs are fitted, and what the results of all other submissions will still take."""
        fitted, others = self._fitted(self._store.manifest(self._submission)), 0.0
        for manifest in self._store.active_manifests():
            if manifest.id != self._submission:
                others += manifest.results_bytes_to_come
        return fitted, others

    def _fitted(self, manifest: Manifest) -> int:
        return max(self._jobs - manifest.retrying, 0) if self._retry else manifest.done_jobs

    def _full(self, memory: Memory, results: float, why: str) -> ServerFull:
        return ServerFull(
            f"Redis at {mask_url(self._store.settings.redis_url)} has no room for more jobs: {_mib(memory.used)} of "
            f"{_mib(memory.limit)} are in use, the results of {self._jobs:,} jobs will take {_mib(results)} beside those of "
            f"other submissions, {why}; delete "
            "finished submissions, raise maxmemory, or keep results in files (FITQ_RESULTS_URL)"
        )


def result_bytes(rows: Rows) -> float:
    """Bytes, about, that the results and traces of these jobs will take."""
    jobs = rows.jobs
    coefficients = int(jobs["degree"][0].as_py()) + 1
    losses = recorded_counts(jobs["trace"][0].as_py(), jobs["steps"].to_numpy())
    traces = 0.0 if jobs["optimizer"][0].as_py() == "exact" else LOSS_BYTES * float(np.sum(losses))
    tags = float(pc.sum(pc.binary_length(jobs["tags"])).as_py() or 0)
    return traces + tags + len(jobs) * (RESULT_BYTES + RESULT_BYTES_PER_COEFFICIENT * coefficients)


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
