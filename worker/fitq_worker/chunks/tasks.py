"""The one task: claim a chunk, fit it, commit it. It runs in the pool's child, the only process that imports torch."""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.exceptions import Reject
from celery.signals import setup_logging, worker_process_init, worker_shutting_down

from fitq_shared.errors import (
    ClaimLost,
    DrainEnded,
    ResultsUnreachable,
    ServerError,
    SubmissionDamaged,
    SubmissionNotFound,
)
from fitq_shared.queue import FIT_CHUNK, INTERACTIVE_LANE
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.waiting import attempts, persist
from fitq_worker.chunks.leases import Leases
from fitq_worker.fleet.devices import DEVICE_FAILED_STATUS, DEVICE_VARIABLE
from fitq_worker.fleet.drain import tell_to_stop
from fitq_worker.fleet.logs import configure_logging
from fitq_worker.fleet.memory import limit_memory

if TYPE_CHECKING:
    from fitq_worker.chunks.batch import Chunk

#: How long a worker tries to commit while the files for results cannot be written; then it gives the results up, and the
#: chunk runs again: other submissions keep theirs elsewhere. For the server, which all of them need, it waits.
FILES_PATIENCE_SECONDS = 60.0
#: After that the chunks of submissions that keep their files there wait this long, and others have the worker.
AVOID_SECONDS = 60.0
#: Pauses between attempts to commit.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 10.0

# With a receiver connected Celery leaves logging alone. Both the worker process and the pool's child import this module.
setup_logging.connect(configure_logging)
_log = logging.getLogger(__name__)

#: Where files could not be written, and until when it is not tried again.
_out_of_reach: dict[str, float] = {}

#: What a task returns to Celery: a line for Flower; nothing else reads it.
Summary = dict[str, Any]


@shared_task(name=FIT_CHUNK, bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
def fit_chunk(task: Any, submission: str, chunk: int) -> Summary:
    """Fit a chunk and commit its results; a chunk that is done, deleted or another worker's is left alone.

    Small chunks of the same shape that wait in the interactive lane are fitted with it. Their own messages come later
    and find them committed.

    Raises:
        Reject: the drain has ended; the message goes back to its lane at once.
    """
    from fitq_worker.chunks import batch

    store, worker = _store(), task.request.hostname
    try:
        first = batch.claim_chunk(store, worker, submission, chunk)
    except SubmissionNotFound as error:
        return {"skipped": str(error)}
    except (SubmissionDamaged, ServerError) as error:
        _log.error("chunk %d left alone: %s", chunk, error)
        return {"skipped": str(error)}
    if first is None:
        return {"skipped": "committed, deleted or claimed by another worker"}
    interactive = task.request.delivery_info.get("routing_key") == INTERACTIVE_LANE
    chunks = [first, *batch.claim_companions(store, worker, first)] if interactive else [first]
    leases = Leases(store, worker, chunks)
    try:
        if _out_of_reach.get(store.results_url(submission), 0.0) > time.monotonic():
            leases.give_back()
            return {"skipped": "its results could not be written a moment ago"}
        with leases:
            note_trial = functools.partial(store.note_trial, submission, chunk, worker)
            commits = batch.fit_together(chunks, store.settings.max_attempts, _device(), leases.check, note_trial)
            pairs = zip(chunks, commits, strict=True)
            summaries = [_commit(store, chunk, commit, len(chunks), leases) for chunk, commit in pairs]
    except (ClaimLost, ServerError) as error:
        if isinstance(error, ResultsUnreachable):
            _out_of_reach[store.results_url(submission)] = time.monotonic() + AVOID_SECONDS
        _log.warning("%s: given back, %s", first, error)
        leases.give_back()
        return {"skipped": str(error)}
    except DrainEnded as error:
        _log.info("%s: given back, %s", first, error)
        leases.give_back()
        raise Reject(str(error), requeue=True) from None
    return {**summaries[0], "chunks": len(chunks)}


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def stop(**_celery: Any) -> None:
    """In Celery's main process, at every TERM: it takes no more messages, and its child has the drain for its chunk."""
    tell_to_stop()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def prepare(**_celery: Any) -> None:
    """Import the engine and start compiling before the first chunk comes; end when the device does not work.

    A process that stayed would take chunk after chunk and turn every one into errors.
    """
    try:
        import torch

        from fitq_worker.engine import warm_up

        limit_memory()
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        torch.zeros(1, device=_device())
        warm_up(_device())
    except Exception:
        _log.exception("%s does not work, this process ends", _device())
        os._exit(DEVICE_FAILED_STATUS)


def _commit(store: FittingStore, chunk: Chunk, commit: Commit, together: int, leases: Leases) -> Summary:
    stored = _commit_patiently(store, chunk, commit, leases)
    statuses = ", ".join(f"{fits} {status}" for status, fits in commit.statuses.items())
    company = f" in a batch of {together} chunks" if together > 1 else ""
    dropped = "" if stored else " (dropped: committed before, or deleted)"
    _log.info("%s: %d fits in %.2f s%s: %s%s", chunk, commit.job_count, commit.seconds, company, statuses, dropped)
    return {"fits": commit.job_count, "seconds": round(commit.seconds, 3), "statuses": commit.statuses, "stored": stored}


def _commit_patiently(store: FittingStore, chunk: Chunk, commit: Commit, leases: Leases) -> bool:
    """Commit, again and again while the server is away or full; a claim that is lost meanwhile ends it.

    Raises:
        ClaimLost: the submission was deleted, or another worker has the chunk.
        DrainEnded: the results are given up, and another worker fits the chunk.
        ResultsUnreachable: files could not be written for FILES_PATIENCE_SECONDS.
    """
    give_up = time.monotonic() + FILES_PATIENCE_SECONDS

    def wait_or_give_up(error: Exception) -> None:
        if isinstance(error, ResultsUnreachable) and time.monotonic() > give_up:
            raise error
        _log.warning("%s: commit failed, trying again: %s", chunk, error)
        leases.check()

    return persist(
        lambda: store.commit(chunk.submission, chunk.number, commit),
        ServerError,
        attempts(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS),
        wait_or_give_up,
    )


def _device() -> str:
    return os.environ.get(DEVICE_VARIABLE, "cpu")


@functools.cache
def _store() -> FittingStore:
    return FittingStore(Settings.from_environment())
