"""The one task: claim a chunk, fit it, commit it. Runs in the pool's child, the only process that imports torch."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.signals import setup_logging, worker_process_init

from fitq_shared.broker import FIT_CHUNK
from fitq_shared.errors import ServerError
from fitq_shared.settings import Settings
from fitq_shared.store import Claim, Commit, Store
from fitq_worker.devices import DEVICE_VARIABLE
from fitq_worker.logs import configure_logging

if TYPE_CHECKING:
    import pyarrow as pa

    from fitq_worker.engine import Fitted

#: A server that is away is waited for this long before fitted results are given up and the chunk is run again.
COMMIT_RETRY_SECONDS = (1, 2, 4, 8, 16, 30)
_DEVICE_FAILED_STATUS = 70

# With a receiver connected Celery leaves logging alone. Both the worker process and the pool's child import this module.
setup_logging.connect(configure_logging)
_log = logging.getLogger(__name__)

#: What a task returns to Celery: a line for Flower; nothing else reads it.
Summary = dict[str, Any]


class _ClaimLost(Exception):
    """The chunk is another worker's now, or its submission was deleted."""


@shared_task(name=FIT_CHUNK, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
def fit_chunk(task: Any, submission: str, chunk: int) -> Summary:
    """Fit a chunk and commit its results; a chunk that is done, deleted or in other hands is left alone."""
    store, worker = _store(), task.request.hostname
    claim = store.claim(submission, chunk, worker)
    if claim is None:
        return {"skipped": "committed, deleted or claimed by another worker"}
    try:
        return _fit_claimed(store, submission, chunk, claim, _renewal(store, submission, chunk, worker))
    except _ClaimLost:
        _log.info("%s chunk %d: stopped, the claim was lost", submission, chunk)
        return {"skipped": "the claim was lost: the submission was deleted or the worker was taken for dead"}


@worker_process_init.connect  # type: ignore[untyped-decorator]
def prepare(**_celery: Any) -> None:
    """Import the engine and start compiling before the first chunk comes; end where the device does not work.

    A process that stayed would take chunk after chunk and turn every one into errors.
    """
    try:
        import torch

        from fitq_worker.engine import warm_up

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        torch.zeros(1, device=_device())
        warm_up(_device())
    except Exception:
        _log.exception("%s does not work, this process ends", _device())
        os._exit(_DEVICE_FAILED_STATUS)


def _fit_claimed(store: Store, submission: str, chunk: int, claim: Claim, renew: Callable[[], None]) -> Summary:
    from fitq_shared.frames import JOB_SCHEMA, decode

    jobs = decode(claim.jobs, JOB_SCHEMA)
    started = time.monotonic()
    if claim.attempt > store.settings.max_attempts:
        message = f"given up: {claim.attempt - 1} workers ended while they fitted the chunk of this job"
        results, traces = _failed(jobs, message)
    else:
        results, traces = _fitted(jobs, submission, chunk, renew)
    commit = _commit(results, traces, chunk, time.monotonic() - started)
    stored = _stored(store, submission, chunk, commit)
    statuses = ", ".join(f"{fits} {status}" for status, fits in commit.statuses.items())
    dropped = "" if stored else " (dropped: committed before, or deleted)"
    _log.info("%s chunk %d: %d fits in %.2f s: %s%s", submission, chunk, commit.jobs, commit.seconds, statuses, dropped)
    return {"fits": commit.jobs, "seconds": round(commit.seconds, 3), "statuses": commit.statuses, "stored": stored}


def _fitted(jobs: pa.RecordBatch, submission: str, chunk: int, renew: Callable[[], None]) -> Fitted:
    """What the engine makes of the jobs; every one a failed fit when it raises, so that the submission comes to its end."""
    import torch

    from fitq_worker.engine import fit

    try:
        return fit(jobs, _device(), on_block=renew)
    except _ClaimLost:
        raise
    except torch.AcceleratorError:
        # Such an error stays in the process: a fresh one gets the chunk, up to the limit of attempts.
        _log.exception("%s chunk %d: the device failed, this process ends", submission, chunk)
        os._exit(_DEVICE_FAILED_STATUS)
    except Exception as error:
        _log.exception("%s chunk %d: the engine failed", submission, chunk)
        return _failed(jobs, f"the engine failed: {type(error).__name__}: {error}")


def _failed(jobs: pa.RecordBatch, message: str) -> Fitted:
    """Results that say `message` of every job, and no traces."""
    import pyarrow as pa

    from fitq_shared.frames import RESULT_SCHEMA, TRACE_SCHEMA, Status
    from fitq_worker.engine import Fitted

    rows = jobs.num_rows
    known: dict[str, Any] = {
        "index": jobs["index"],
        "id": jobs["id"],
        "status": pa.array([Status.ERROR] * rows, pa.string()),
        "message": pa.array([message] * rows, pa.string()),
        "seed": jobs["seed"],
        "device": pa.array([_device()] * rows, pa.string()),
    }
    columns = [known[field.name] if field.name in known else pa.nulls(rows, field.type) for field in RESULT_SCHEMA]
    results = pa.RecordBatch.from_arrays(columns, schema=RESULT_SCHEMA)
    return Fitted(results, pa.RecordBatch.from_pylist([], schema=TRACE_SCHEMA))


def _commit(results: pa.RecordBatch, traces: pa.RecordBatch, chunk: int, seconds: float) -> Commit:
    import pyarrow as pa

    from fitq_shared.frames import encode

    numbers = pa.array([chunk] * results.num_rows, pa.int32())
    results = results.set_column(results.schema.get_field_index("chunk"), results.schema.field("chunk"), numbers)
    trace_frame = encode(traces) if traces.num_rows else b""
    statuses = Counter(results["status"].to_pylist())
    return Commit(encode(results), trace_frame, results.num_rows, seconds, dict(statuses.most_common()))


def _stored(store: Store, submission: str, chunk: int, commit: Commit) -> bool:
    """Commit, riding out a server that is away; after the last try the chunk is left to the reconciler."""
    for seconds in COMMIT_RETRY_SECONDS:
        try:
            return store.commit(submission, chunk, commit)
        except ServerError as error:
            _log.warning("%s chunk %d: commit failed, next try in %d s: %s", submission, chunk, seconds, error)
            time.sleep(seconds)
    return store.commit(submission, chunk, commit)


def _renewal(store: Store, submission: str, chunk: int, worker: str) -> Callable[[], None]:
    """A function that keeps the claim when called often, at the price of a command every third of a lease."""
    renewed = time.monotonic()

    def renew() -> None:
        nonlocal renewed
        if time.monotonic() - renewed < store.settings.lease_seconds / 3:
            return
        try:
            if not store.renew(submission, chunk, worker):
                raise _ClaimLost
        except ServerError as error:
            _log.warning("%s chunk %d: claim not renewed: %s", submission, chunk, error)
        renewed = time.monotonic()

    return renew


def _device() -> str:
    return os.environ.get(DEVICE_VARIABLE, "cpu")


@functools.cache
def _store() -> Store:
    return Store(Settings.from_environment())
