"""Upload: jobs become chunks, these go to the store and their messages to the queue; what is there already is compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from fitq.readers import from_file, from_jobs
from fitq.submitting.admission import Admission
from fitq.submitting.budgets import is_small
from fitq.submitting.planner import plan
from fitq_shared import queue
from fitq_shared.errors import InputError
from fitq_shared.jobs.frames import shape_name
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows
from fitq_shared.store.payload import payload_of
from fitq_shared.store.submitting import SubmittingStore, different_content, different_jobs

if TYPE_CHECKING:
    from celery import Celery


Jobs: TypeAlias = str | Path | Iterable[FitJob] | Iterable[Mapping[str, object]] | Iterable[pa.RecordBatch]


def plan_jobs(jobs: Jobs) -> tuple[Iterator[Rows], int | None]:
    """The jobs as chunks, and their number where they are few enough for the interactive lane.

    Raises:
        InputError: there are none; further ones come while the chunks are taken.
    """
    chunks = plan(batches_of(jobs))
    first, job_count = _take_up_to(chunks, queue.INTERACTIVE_JOBS)
    return itertools.chain(first, chunks), job_count


def upload(store: SubmittingStore, submission: str, chunks: Iterable[Rows], job_count: int | None) -> None:
    """Store and enqueue the chunks that the submission does not have yet, and close it; both are from `plan_jobs`.

    The same jobs make the same chunks, so that those of an upload that was broken off are recognised.

    Raises:
        DifferentContent: the submission has other jobs.
        SubmissionCancelled: it was cancelled.
        ServerFull: there is no room, and none is becoming free.
        SubmissionNotFound: it was deleted meanwhile.
    """
    index, manifest = store.index(submission), store.manifest(submission)
    known = {entry.number: entry for entry in index if entry.number < manifest.chunks}  # without retries
    admission, lane = Admission(store, manifest), queue.lane_of(submission, job_count)
    app: Celery = queue.client_app(store.settings)
    chunk_count = 0
    try:
        for chunk, rows in enumerate(chunks):
            chunk_count += 1
            payload = payload_of(chunk, rows)
            results = admission.count(rows, payload)
            if entry := known.get(chunk):
                if entry.digest != payload.digest:
                    raise different_jobs(submission, payload.first, payload.last)
            elif manifest.state == "closed":
                raise different_content(submission, f"it has {manifest.jobs} jobs, and the input has more")
            else:
                admission.wait_for_room(payload)
                store.add_chunk(submission, payload, lane, results)
                enqueue(store, app, submission, rows, payload.chunk, lane)
    finally:
        app.close()
    if chunk_count < len(known):
        raise different_content(submission, f"it has {manifest.jobs} jobs, and the input has fewer")
    store.close(submission, chunk_count)  # others may have added chunks since the index was read


def enqueue(store: SubmittingStore, app: Celery, submission: str, rows: Rows, chunk: int, lane: str) -> None:
    """Let workers know of a chunk of these rows, which is stored."""
    if lane == queue.INTERACTIVE_LANE and is_small(rows):
        store.offer(shape_name(rows.jobs), submission, chunk)
    queue.publish(app, lane, submission, [chunk])


def batches_of(jobs: Jobs) -> Iterator[pa.RecordBatch]:
    """What the caller gave, as record batches of checked jobs."""
    if isinstance(jobs, str | Path):
        return from_file(jobs)
    given = iter(jobs)
    first = next(given, None)
    if first is None:
        raise InputError("no jobs: nothing to submit")
    rest = itertools.chain([first], given)
    return rest if isinstance(first, pa.RecordBatch) else from_jobs(rest)


def _take_up_to(chunks: Iterator[Rows], limit: int) -> tuple[list[Rows], int | None]:
    """Chunks from the front that have more than `limit` jobs together; or all of them, and the number of their jobs."""
    taken: list[Rows] = []
    job_count = 0
    for rows in chunks:
        taken.append(rows)
        job_count += len(rows.jobs)
        if job_count > limit:
            return taken, None
    return taken, job_count
