"""Submission: follow jobs that were handed in together, collect what came out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from fitq_shared import frames
from fitq_shared.errors import ServerUnreachable, SubmissionTimeout
from fitq_shared.manifest import Manifest
from fitq_shared.store import Store
from fitq_shared.trace import recorded_steps

#: How long a wait goes on without an answer from the server, for instance while it restarts.
MAX_OUTAGE_SECONDS = 120.0
_FIRST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.05, 0.25

_STEPS_SCHEMA = pa.list_(pa.int32())


class Submission:
    """Jobs that were handed in together; only an id, everything else is asked of the server.

    Raises, from every method: SubmissionNotFound, ServerUnreachable.
    """

    def __init__(self, store: Store, submission: str) -> None:
        self.id = submission
        self._store = store

    def __repr__(self) -> str:
        return f"Submission({self.id!r})"

    def status(self) -> Manifest:
        """Totals, counters by status and times, as they are now."""
        return self._store.manifest(self.id)

    def progress(self, timeout_seconds: float | None = None) -> Iterator[Manifest]:
        """The manifest now and again until the submission is finished, which the last one says.

        Outages of the server of up to two minutes are ridden out.

        Raises:
            SubmissionTimeout: `timeout_seconds` are over; the submission goes on.
        """
        deadline = float("inf") if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = _FIRST_POLL_SECONDS
        while True:
            manifest = self._status_through_outages(deadline)
            yield manifest
            if manifest.finished:
                return
            if time.monotonic() >= deadline:
                raise self._timeout(manifest, timeout_seconds)
            time.sleep(max(min(pause, deadline - time.monotonic()), 0.0))
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)

    def wait(self, timeout_seconds: float | None = None) -> Manifest:
        """Return the manifest once all fits are done; see `progress`."""
        *_, last = self.progress(timeout_seconds)
        return last

    def results(self) -> pa.Table:
        """Results stored so far, one row a fit in the order of the input; RESULT_SCHEMA."""
        found = [self._store.result_frame(self.id, chunk) for chunk in self._committed()]
        return _sorted([frames.decode(frame, frames.RESULT_SCHEMA) for frame in found if frame], frames.RESULT_SCHEMA)

    def traces(self) -> pa.Table:
        """Loss traces stored so far, one row a fit in the order of the input.

        Columns `index`, `id`, `step` (list of int32, how many updates were made) and `loss` (list of float32, in units
        of y squared) of the same lengths. Jobs with `trace: none` have no row.
        """
        found = [self._store.trace_frame(self.id, chunk) for chunk in self._committed()]
        table = _sorted([frames.decode(frame, frames.TRACE_SCHEMA) for frame in found if frame], frames.TRACE_SCHEMA)
        return pa.table({"index": table["index"], "id": table["id"], "step": _steps(table), "loss": table["loss"]})

    def delete(self) -> None:
        """Remove the submission with its jobs and results; fits that are running are dropped."""
        self._store.delete(self.id)

    def _committed(self) -> Iterator[int]:
        self.status()
        return self._store.committed_chunks(self.id)

    def _status_through_outages(self, deadline: float) -> Manifest:
        give_up = min(time.monotonic() + MAX_OUTAGE_SECONDS, deadline)
        pause = _FIRST_POLL_SECONDS
        while True:
            try:
                return self.status()
            except ServerUnreachable:
                if time.monotonic() + pause > give_up:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_POLL_SECONDS)

    def _timeout(self, manifest: Manifest, seconds: float | None) -> SubmissionTimeout:
        done = f"{manifest.done_jobs} of {manifest.jobs} fits are done"
        return SubmissionTimeout(
            f"{self.id} did not finish in {seconds:g} s ({done}); it goes on: `fitq wait {self.id}`, and look whether a "
            "worker is running"
        )


def _sorted(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches, schema).sort_by("index")


def _steps(traces: pa.Table) -> pa.Array:
    """The recorded steps of each row of a table of TRACE_SCHEMA."""
    kinds = list(zip(*(traces[name].to_pylist() for name in ("trace", "steps", "made")), strict=True))
    different = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    steps = pa.array([recorded_steps(*kind) for kind in different], _STEPS_SCHEMA)
    return steps.take(pa.array([different[kind] for kind in kinds], pa.int64()))
