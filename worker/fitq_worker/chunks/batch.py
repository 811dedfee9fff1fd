"""Chunks of a worker: claimed one by one, fitted as one batch, and made ready to be committed one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitq_shared.errors import FitqError, FrameError
from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frame_rules import check_jobs, check_positions
from fitq_shared.jobs.frames import decode, encode, shape_name
from fitq_shared.jobs.rows import Rows, join
from fitq_shared.jobs.schemas import JOB_SCHEMA, KEPT, SETS_SCHEMA
from fitq_shared.store.fitting import Claim, Commit, FittingStore
from fitq_worker.chunks.isolation import MAX_DEATHS, after_death, failed, fit_all, fit_in_parts, parse_trials
from fitq_worker.chunks.unreadable import recover_jobs
from fitq_worker.engine import Fitted, fit

_log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """A chunk that this worker has claimed."""

    submission: str
    number: int
    attempt: int
    #: This attempt and those whose workers died.
    starts: int
    rows: Rows
    #: Why its jobs are not to be fitted; empty where they are.
    problem: str = ""
    #: What was noted when its last worker died, for `parse_trials`.
    trial: bytes = b""

    def __str__(self) -> str:
        return f"{self.submission} chunk {self.number}"


def claim_chunk(store: FittingStore, worker: str, submission: str, number: int) -> Chunk | None:
    """The chunk, if it is there and free."""
    claim = store.claim(submission, number, worker)
    if claim is None:
        return None
    # From the second start on trials are noted as soon as the jobs are read: without any it is reading them that kills.
    if claim.starts > (2 * MAX_DEATHS if claim.trial else max(store.settings.max_attempts, 2)):
        problem = f"given up: {claim.starts - 1} workers ended with the chunk of this job"
        return _unfitted(store, submission, number, claim._replace(jobs_frame=b""), problem)
    try:
        return Chunk(submission, number, claim.attempt, claim.starts, _read(claim), trial=claim.trial)
    except FrameError as error:
        return _unfitted(store, submission, number, claim, f"the jobs of this chunk cannot be read: {error}")


def _unfitted(store: FittingStore, submission: str, number: int, claim: Claim, problem: str) -> Chunk | None:
    """A chunk whose jobs end as errors; none where it is a retry, for then they keep the results that they have."""
    if store.end_retry(submission, number):
        _log.error("%s chunk %d: its jobs keep their earlier results; %s", submission, number, problem)
        return None
    return Chunk(submission, number, claim.attempt, claim.starts, Rows(recover_jobs(claim.jobs_frame, claim.entry)), problem)


def claim_companions(store: FittingStore, worker: str, first: Chunk) -> list[Chunk]:
    """Small chunks of the same shape that wait in the interactive lane, claimed too.

    A chunk that is tried again after a death has none: if it killed its worker, it must not take others with it.
    """
    if first.starts > 1 or first.problem:
        return []
    found: list[Chunk | None] = []
    try:
        for submission, number in store.take_offers(shape_name(first.rows.jobs), first.submission, first.number):
            found.append(claim_chunk(store, worker, submission, number))
    except FitqError as error:
        _log.warning("%s: fitted without others that wait: %s", first, error)
    # One that cannot be read ends through its own message.
    return [chunk for chunk in found if chunk is not None and not chunk.problem]


def fit_together(
    chunks: Sequence[Chunk],
    max_attempts: int,
    device: str,
    check_claims: Callable[[], None],
    note_trial: Callable[[bytes], None],
) -> list[Commit]:
    """What to commit of each chunk; the chunks agree in shape and are fitted as one batch.

    A chunk with which workers died is alone and fitted in parts, each of which is given to `note_trial` before.

    Raises:
        ClaimLost, DrainEnded: from `check_claims`.
    """
    started = time.monotonic()
    rows = join([chunk.rows for chunk in chunks])
    fitted = _fit(chunks[0], rows, max_attempts, device, check_claims, note_trial)
    seconds = (time.monotonic() - started) / len(rows.jobs)
    parts = zip(chunks, _split(fitted, chunks), strict=True)
    return [_commit(chunk, *frames, seconds * len(chunk.rows.jobs)) for chunk, frames in parts]


def _read(claim: Claim) -> Rows:
    """The rows of a claimed chunk.

    Raises:
        FrameError: its frames are lost, cannot be read, or hold other jobs than were submitted or what no job may.
    """
    entry = claim.entry
    if not claim.jobs_frame or (entry.sets_digest and not claim.sets_frame):
        raise FrameError("Redis has lost its frame; check that maxmemory-policy is noeviction")
    sets = None if claim.sets_frame is None else decode(claim.sets_frame, SETS_SCHEMA)
    rows = Rows(decode(claim.jobs_frame, JOB_SCHEMA), sets)
    check_positions(rows.jobs, entry.job_count, entry.first, entry.last)
    check_jobs(rows)
    return rows


def _fit(
    first: Chunk,
    rows: Rows,
    max_attempts: int,
    device: str,
    check_claims: Callable[[], None],
    note_trial: Callable[[bytes], None],
) -> Fitted:
    """The results of all rows, which are those of the first chunk and its companions."""
    if first.problem:
        return failed(rows.jobs, first.problem, device)

    def fit_rows(some: Rows) -> Fitted:
        return fit(some.jobs, device, sets=some.sets, on_block=check_claims)

    deaths = first.starts - 1
    if not deaths:
        return fit_all(rows, fit_rows, device)
    trials = after_death(parse_trials(first.trial, len(rows.jobs)), len(rows.jobs), deaths, max_attempts)
    return fit_in_parts(rows, trials, deaths, fit_rows, device, note_trial)


def _split(fitted: Fitted, chunks: Sequence[Chunk]) -> list[Fitted]:
    """The rows of each chunk; either all of its jobs have traces or none."""
    lengths = [len(chunk.rows.jobs) for chunk in chunks]
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return [Fitted(*(frame.slice(start, length) for frame in fitted)) for start, length in zip(starts, lengths, strict=True)]


def _commit(chunk: Chunk, results: pa.RecordBatch, traces: pa.RecordBatch, seconds: float) -> Commit:
    numbers = pa.array(np.full(len(results), chunk.number, dtype=np.int32))
    results = replace_columns(results, {"chunk": numbers})
    trace_frame = encode(traces) if len(traces) else b""
    found = sorted(results["status"].value_counts().to_pylist(), key=lambda entry: -entry["counts"])
    statuses = {entry["values"]: entry["counts"] for entry in found}
    kept = _keep_jobs(chunk, results["status"]) if statuses.keys() & set(KEPT) else b""
    return Commit(encode(results), trace_frame, len(results), seconds, statuses, chunk.attempt, kept)


def _keep_jobs(chunk: Chunk, statuses: pa.Array) -> bytes:
    """The frame of the jobs that may be retried; empty where they could not be read."""
    return b"" if chunk.problem else encode(chunk.rows.jobs.filter(pc.is_in(statuses, pa.array(KEPT, pa.string()))))
