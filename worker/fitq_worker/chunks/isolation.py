"""Isolation: the one job at which the engine raises, or with which a worker dies, ends as an error; the others are fitted.

Where the engine raises, the jobs are halved until the job is alone. A death leaves nobody to do that: a chunk that comes
back is fitted in parts, and each is noted before it is fitted. The next worker halves the part with which this one died.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import pyarrow as pa
import torch

from fitq_shared.errors import WorkerError
from fitq_shared.jobs.rows import Rows
from fitq_worker.engine import Fitted
from fitq_worker.engine.outcome.framing import empty_traces, error_results
from fitq_worker.fleet.devices import DEVICE_FAILED_STATUS

#: At so many jobs of a chunk the engine may raise; the next part at which it does is given up whole.
MAX_RAISING_JOBS = 32
#: With so many deaths a chunk is not halved any further: the part with which a worker dies is given up whole.
MAX_DEATHS = 64

_log = logging.getLogger(__name__)

Fit: TypeAlias = Callable[[Rows], Fitted]


class Trials(msgspec.Struct, frozen=True):
    """What is known of a chunk whose workers died. Its parts begin at 0 and at each of the `cuts`."""

    cuts: list[int] = []
    #: Where the part begins during whose fits the last worker died; None where it died at something else.
    trying: int | None = None
    #: Where the parts begin that are given up.
    given_up: list[int] = []

    def parts(self, job_count: int) -> list[tuple[int, int]]:
        """First row and the row after the last of each part."""
        return list(itertools.pairwise([0, *self.cuts, job_count]))


def parse_trials(note: bytes, job_count: int) -> Trials:
    """The trials of a note; those of a chunk of which nothing is known where the note is none of this chunk."""
    try:
        found = msgspec.json.decode(note or b"{}", type=Trials)
    except msgspec.DecodeError:
        return Trials()
    bounds = [0, *found.cuts, job_count]
    return found if all(first < second for first, second in itertools.pairwise(bounds)) else Trials()


def after_death(trials: Trials, job_count: int, deaths: int, max_attempts: int) -> Trials:
    """What to try after so many deaths: the part that was tried last is halved, or given up where it is a single job."""
    first_death = not trials.cuts and not trials.given_up
    suspect = 0 if first_death else trials.trying
    trials = msgspec.structs.replace(trials, trying=None)
    part = next((part for part in trials.parts(job_count) if part[0] == suspect), None)
    if part is None:
        return trials
    start, stop = part
    if stop - start > 1 and deaths < MAX_DEATHS:
        return msgspec.structs.replace(trials, cuts=sorted([*trials.cuts, (start + stop) // 2]))
    if deaths >= max_attempts:
        return msgspec.structs.replace(trials, given_up=[*trials.given_up, start])
    return trials


def fit_in_parts(rows: Rows, trials: Trials, deaths: int, fit: Fit, device: str, note: Callable[[bytes], None]) -> Fitted:
    """Fit a chunk with which so many workers died; each part is noted before it is fitted.

    Raises:
        WorkerError: from `fit`; the part that was tried is noted no more, because nobody has died with it.
    """
    fitted = []
    try:
        for start, stop in trials.parts(len(rows.jobs)):
            part = rows.slice(start, stop - start)
            if start in trials.given_up:
                fitted.append(failed(part.jobs, _reason(stop - start, deaths), device))
            else:
                note(msgspec.json.encode(msgspec.structs.replace(trials, trying=start)))
                fitted.append(fit_all(part, fit, device))
    except WorkerError:
        note(msgspec.json.encode(trials))
        raise
    note(msgspec.json.encode(trials))
    return _join(fitted)


def fit_all(rows: Rows, fit: Fit, device: str) -> Fitted:
    """Fit the rows; a job at which the engine raises becomes an error that says why.

    Raises:
        WorkerError: from `fit`; the claims are lost or to be given back.
    """
    waiting, fitted, raised = [rows], [], 0
    while waiting:
        part = waiting.pop()
        try:
            fitted.append(fit(part))
        except WorkerError:
            raise
        except torch.AcceleratorError:
            # The process cannot use its device again: a fresh one gets the chunk, up to the limit of attempts.
            _log.exception("the device failed, this process ends")
            os._exit(DEVICE_FAILED_STATUS)
        except Exception as error:
            half = len(part.jobs) // 2
            if half and raised < MAX_RAISING_JOBS:
                waiting += [part.slice(half), part.slice(0, half)]
                continue
            raised += 1
            _log.warning("job %s: the engine failed", part.jobs["id"][0].as_py(), exc_info=error)
            fitted.append(failed(part.jobs, _explain(error), device))
    return _join(fitted)


def failed(jobs: pa.RecordBatch, message: str, device: str) -> Fitted:
    """Results that say `message` of every job, and traces without losses where the jobs keep traces."""
    keeps = jobs["trace"][0].as_py() not in (None, "none") and jobs["optimizer"][0].as_py() != "exact"
    return Fitted(error_results(jobs, message, device), empty_traces(jobs if keeps else jobs.slice(0, 0)))


def _explain(error: Exception) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return (
            "its fit needs more memory than this worker process may use: give it fewer points, restarts or recorded losses, "
            "or start workers with more (`fitq-worker start --memory`)"
        )
    return f"the engine failed: {type(error).__name__}: {error}"


def _reason(job_count: int, deaths: int) -> str:
    if job_count == 1:
        return f"given up: {deaths} workers ended while they fitted this job or others of its chunk, the last with it alone"
    return f"given up: {deaths} workers ended while they fitted the chunk of this job, the last with {job_count} jobs of it"


def _join(parts: list[Fitted]) -> Fitted:
    if len(parts) == 1:
        return parts[0]
    return Fitted(*(pa.concat_batches(batches) for batches in zip(*parts, strict=True)))
