"""Retries: some fits of a submission are made again, from jobs that were kept or from the input given once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitq.readers.changes import change_jobs, check_changes
from fitq.results.streams import RESULTS, CompletionOrder
from fitq.submitting.admission import Admission
from fitq.submitting.planner import plan
from fitq.submitting.upload import Jobs, batches_of, enqueue
from fitq_shared import queue
from fitq_shared.errors import InputError, JobsNotKept, ServerError
from fitq_shared.jobs.frames import decode
from fitq_shared.jobs.rows import Indices, Rows
from fitq_shared.jobs.schemas import FAILED, JOB_SCHEMA, RESULT_SCHEMA, SETS_SCHEMA, Status
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.payload import payload_of
from fitq_shared.store.replaced import entries, parse
from fitq_shared.store.retrying import Earlier, RetryingStore, still_open
from fitq_shared.store.submitting import SubmittingStore

#: What a retry needs of a result: the job, how its fit ended, and the chunk that has it.
_FITS_SCHEMA = pa.schema([RESULT_SCHEMA.field(name) for name in ("index", "id", "status", "chunk")])


class Retried(NamedTuple):
    """How many jobs are fitted again, and how many were being retried already."""

    jobs: int
    running: int


def find_fits(store: SubmittingStore, submission: str, statuses: Collection[str] | None = None) -> pa.Table:
    """The newest results with one of these statuses, by default those that failed; a table for `retry`.

    Raises:
        InputError: no status is called so.
    """
    wanted = list(FAILED) if statuses is None else list(statuses)
    if unknown := [status for status in wanted if status not in list(Status)]:
        raise InputError(f"status = {unknown[0]!r}: expected one of {', '.join(Status)}")
    batches = (batch for _, batch in CompletionOrder(store, submission, RESULTS).ready())
    found = (batch.filter(pc.is_in(batch["status"], pa.array(wanted, pa.string()))) for batch in batches)
    tables = [pa.Table.from_batches([batch]).select(_FITS_SCHEMA.names).cast(_FITS_SCHEMA) for batch in found]
    return pa.concat_tables([_FITS_SCHEMA.empty_table(), *tables])


def fits_of(results: list[dict[str, Any]]) -> pa.Table:
    """The same of single results, each the newest of its job."""
    return pa.Table.from_pylist(results, _FITS_SCHEMA)


def retry(
    store: SubmittingStore, submission: str, fits: pa.Table, jobs: Jobs | None, changes: Mapping[str, object]
) -> Retried:
    """Fit the jobs of these results again; see `Submission.retry`."""
    check_changes(changes)
    manifest = store.manifest(submission)
    if manifest.state == "open":
        raise still_open(submission)
    free = _FreeFits(store, submission, fits)
    if free.count:
        _add(store, manifest, free, _kept(store, free) if jobs is None else _given(batches_of(jobs), free), changes)
    return Retried(free.count, len(fits) - free.count)


class _FreeFits:
    """Those of the fits that nobody retries yet, by position, and what is known of retries from the same chunks."""

    def __init__(self, store: SubmittingStore, submission: str, fits: pa.Table) -> None:
        fits = fits.sort_by("index").combine_chunks()
        positions, chunks = fits["index"].to_numpy(), fits["chunk"].to_numpy()
        numbers: list[int] = np.unique(chunks).tolist()
        values = dict(zip(numbers, store.replaced(submission, numbers), strict=True))
        # The index second: of two retries at once each then sees the other's, or the store refuses the later one.
        alive = [entry.number for entry in store.index(submission)]
        free = np.ones(len(fits), dtype=np.bool_)
        for chunk, value in values.items():
            noted = parse(value)
            retried = noted["position"][np.isin(noted["by"], alive)]
            if len(retried):
                free &= (chunks != chunk) | ~np.isin(positions, retried)
        self._known = {chunk: len(value) for chunk, value in values.items()}
        self._statuses = fits["status"].filter(pa.array(free))
        self.submission, self.ids = submission, fits["id"].filter(pa.array(free))
        self.positions: Indices = positions[free]
        self.chunks: Indices = chunks[free]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.positions)

    def places(self, positions: Indices) -> Indices:
        """Where the fits at these positions stand, -1 for each that is not among them."""
        places = np.searchsorted(self.positions, positions)
        there = self.positions[np.minimum(places, self.count - 1)] == positions
        return np.where(there, places, -1)

    def replaced_by(self, positions: Indices) -> tuple[list[Earlier], dict[str, int]]:
        """The chunks that have the newest results of the jobs at these positions, and the numbers of these by status."""
        places = self.places(positions)
        chunks, statuses = self.chunks[places], self._statuses.take(pa.array(places))
        numbers: list[int] = np.unique(chunks).tolist()
        earlier = [Earlier(chunk, positions[chunks == chunk], self._known[chunk]) for chunk in numbers]
        return earlier, dict(Counter(statuses.to_pylist()))

    def note(self, earlier: Iterable[Earlier]) -> None:
        """Take these as retried: the store knows of them now."""
        for chunk, positions, known in earlier:
            self._known[chunk] = known + len(entries(positions, 0))


def _add(
    store: SubmittingStore, manifest: Manifest, free: _FreeFits, source: Iterator[Rows], changes: Mapping[str, object]
) -> None:
    """Store and enqueue chunks of these jobs; after bad input, those that are not fitted yet are taken back."""
    submission, retrying = manifest.id, RetryingStore(store.settings)
    admission, lane = Admission(store, manifest, retry=True), queue.lane_of(submission, free.count)
    app, added = queue.client_app(store.settings), list[int]()
    try:
        batches = (batch for rows in source for batch in change_jobs(rows, changes))
        for rows in map(_sorted, plan(batches)):
            payload = payload_of(0, rows)
            admission.count(rows, payload)
            admission.wait_for_room(payload)
            earlier, statuses = free.replaced_by(rows.jobs["index"].to_numpy())
            added.append(retrying.add(submission, payload, earlier, statuses, lane))
            free.note(earlier)
            enqueue(store, app, submission, rows, added[-1], lane)
    except ServerError as error:
        error.add_note(f"{len(added)} chunks of the retry are on their way; retrying the same jobs again adds the rest")
        raise
    except BaseException:
        retrying.end(submission, added)
        raise
    finally:
        app.close()
        retrying.disconnect()


def _sorted(rows: Rows) -> Rows:
    """The rows by position, as readers of results expect them."""
    return Rows(rows.jobs.sort_by("index"), rows.sets)


def _kept(store: SubmittingStore, free: _FreeFits) -> Iterator[Rows]:
    """The jobs as the submission has kept them.

    Raises:
        JobsNotKept: it has not kept all of them.
    """
    kept = sum(len(rows.jobs) for rows in _read_kept(store, free))
    if kept < free.count:
        raise JobsNotKept(
            f"{free.submission} has not kept {free.count - kept:,} of the {free.count:,} jobs: only those whose fits failed "
            "or stalled are kept; give the input once more",
            free.submission,
        )
    return _read_kept(store, free)


def _read_kept(store: SubmittingStore, free: _FreeFits) -> Iterator[Rows]:
    digests = {entry.number: entry.sets_digest for entry in store.index(free.submission)}
    for chunk in np.unique(free.chunks).tolist():
        (frame,) = store.kept_frames(free.submission, [chunk])
        if frame is None:
            continue
        jobs = decode(frame, JOB_SCHEMA)
        jobs = jobs.filter(pc.is_in(jobs["index"], pa.array(free.positions[free.chunks == chunk])))
        digest = digests[chunk] if jobs["sample_set"].null_count < len(jobs) else ""
        sets = store.sets_frame(free.submission, digest) if digest else None
        if sets is not None or not digest:
            yield Rows(jobs, None if sets is None else decode(sets, SETS_SCHEMA))


def _given(batches: Iterable[pa.RecordBatch], free: _FreeFits) -> Iterator[Rows]:
    """The jobs as the input has them.

    Raises:
        InputError: a job has another id there, or is not there.
    """
    found = 0
    for batch in batches:
        places = free.places(batch["index"].to_numpy())
        jobs = batch.filter(pa.array(places >= 0))
        if not len(jobs):
            continue
        _check_ids(jobs, free.ids.take(pa.array(places[places >= 0])), free.submission)
        yield Rows(jobs)
        found += len(jobs)
        if found == free.count:
            return
    raise _other_input(free.submission, f"the input has {found:,} of the {free.count:,} jobs to retry")


def _check_ids(jobs: pa.RecordBatch, expected: pa.Array, submission: str) -> None:
    row = pc.index(pc.not_equal(jobs["id"], expected), True).as_py()
    if row >= 0:
        position, given, known = (column[row].as_py() for column in (jobs["index"], jobs["id"], expected))
        raise _other_input(submission, f"job {position} of the input is {given!r}, not {known!r}")


def _other_input(submission: str, what: str) -> InputError:
    return InputError(
        f"{submission} was made of other jobs: {what}; give the input it was submitted with, read the same way"
    )
