"""Chunks of a worker: claimed one by one, fitted as one batch, and made ready to be committed one by one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from fitq_shared.errors import ClaimLost, FitqError, FrameError
from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import decode, encode, shape_name
from fitq_shared.jobs.rows import Rows, join
from fitq_shared.jobs.schemas import JOB_SCHEMA, KEPT, SETS_SCHEMA
from fitq_shared.store.fitting import Claim, Commit, FittingStore
from fitq_worker.chunks.unreadable import recover_jobs
from fitq_worker.engine import Fitted, fit
from fitq_worker.engine.outcome.framing import empty_traces, error_results
from fitq_worker.fleet.devices import DEVICE_FAILED_STATUS

_log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """A chunk that this worker has claimed."""

    submission: str
    number: int
    attempt: int
    #: This attempt and those whose workers died.
    starts: int
    rows: Rows
    #: Why its jobs cannot be read; empty where they can.
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.submission} chunk {self.number}"


def claim_chunk(store: FittingStore, worker: str, submission: str, number: int) -> Chunk | None:
    """The chunk, if it is there and free."""
    claim = store.claim(submission, number, worker)
    if claim is None:
        return None
    try:
        return Chunk(submission, number, claim.attempt, claim.starts, _read(claim))
    except FrameError as error:
        if store.end_retry(submission, number):
            _log.error(
                "%s chunk %d: its jobs keep their earlier results, for it cannot be read: %s", submission, number, error
            )
            return None
        jobs = recover_jobs(claim.jobs_frame, claim.entry)
        return Chunk(
            submission, number, claim.attempt, claim.starts, Rows(jobs), f"the jobs of this chunk cannot be read: {error}"
        )


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


def fit_together(chunks: Sequence[Chunk], max_attempts: int, device: str, check_claims: Callable[[], None]) -> list[Commit]:
    """What to commit of each chunk; the chunks agree in shape and are fitted as one batch.

    Raises:
        ClaimLost: from `check_claims`.
    """
    started = time.monotonic()
    if problem := _problem(chunks[0], max_attempts):
        fitted = [_failed(chunks[0], problem, device)]
    else:
        fitted = _fit(chunks, device, check_claims)
    seconds = (time.monotonic() - started) / sum(len(chunk.rows.jobs) for chunk in chunks)
    return [_commit(chunk, *frames, seconds * len(chunk.rows.jobs)) for chunk, frames in zip(chunks, fitted, strict=True)]


def _read(claim: Claim) -> Rows:
    """The rows of a claimed chunk.

    Raises:
        FrameError: its frames are lost or of another version.
    """
    if not claim.jobs_frame:
        raise FrameError("Redis has lost its frame; check that maxmemory-policy is noeviction")
    sets = None if claim.sets_frame is None else decode(claim.sets_frame, SETS_SCHEMA)
    return Rows(decode(claim.jobs_frame, JOB_SCHEMA), sets)


def _problem(chunk: Chunk, max_attempts: int) -> str:
    """Why the chunk is not to be fitted; empty where it is."""
    if chunk.starts > max_attempts:
        return f"given up: {chunk.starts - 1} workers ended while they fitted the chunk of this job"
    return chunk.problem


def _fit(chunks: Sequence[Chunk], device: str, check_claims: Callable[[], None]) -> list[Fitted]:
    """The results of each chunk; failed jobs where the engine raises, so that the submission comes to its end."""
    jobs, sets = join([chunk.rows for chunk in chunks])
    try:
        return _split(fit(jobs, device, sets=sets, on_block=check_claims), chunks)
    except ClaimLost:
        raise
    except torch.AcceleratorError:
        # The process cannot use its device again: a fresh one gets the chunk, up to the limit of attempts.
        _log.exception("%s: the device failed, this process ends", chunks[0])
        os._exit(DEVICE_FAILED_STATUS)
    except Exception as error:
        if len(chunks) > 1:
            return [fitted for chunk in chunks for fitted in _fit([chunk], device, check_claims)]
        _log.exception("%s: the engine failed", chunks[0])
        return [_failed(chunks[0], f"the engine failed: {type(error).__name__}: {error}", device)]


def _split(fitted: Fitted, chunks: Sequence[Chunk]) -> list[Fitted]:
    """The rows of each chunk; either all of its jobs have traces or none."""
    lengths = [len(chunk.rows.jobs) for chunk in chunks]
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return [Fitted(*(frame.slice(start, length) for frame in fitted)) for start, length in zip(starts, lengths, strict=True)]


def _failed(chunk: Chunk, message: str, device: str) -> Fitted:
    """Results that say `message` of every job, and no traces."""
    jobs = chunk.rows.jobs
    return Fitted(error_results(jobs, message, device), empty_traces(jobs.slice(0, 0)))


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
