"""Upload: jobs become chunks, these go to the store and their messages to the queue; what is there already is compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from fitq.readers import from_file, from_jobs
from fitq.submitting.admission import Admission
from fitq.submitting.budgets import fits_with_others
from fitq.submitting.planner import Chunk, plan
from fitq_shared import queue
from fitq_shared.errors import InputError
from fitq_shared.jobs.frames import shape_name
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows
from fitq_shared.store.payload import Payload, payload_of
from fitq_shared.store.reader import different_content, other_jobs
from fitq_shared.store.store import Store
from fitq_shared.store.together import offer

if TYPE_CHECKING:
    from celery import Celery


Jobs: TypeAlias = str | Path | Iterable[FitJob] | Iterable[Mapping[str, object]] | Iterable[pa.RecordBatch]


def planned(jobs: Jobs) -> tuple[Iterator[Chunk], int | None]:
    """The jobs as chunks, and how many jobs they are where they are few enough for the interactive lane.

    Raises:
        InputError: there are none; further ones come while the chunks are taken.
    """
    chunks = plan(_batches(jobs))
    first, size = _up_to(chunks, queue.INTERACTIVE_JOBS)
    return itertools.chain(first, chunks), size


def upload(store: Store, submission: str, chunks: Iterable[Chunk], size: int | None) -> None:
    """Store and enqueue the chunks that the submission does not have yet, and close it; `size` is that of `planned`.

    The same jobs make the same chunks, so that what an upload that was broken off has left is recognised.

    Raises:
        DifferentContent: the submission has other jobs.
        ServerFull: there is no room, and none is becoming free.
        SubmissionNotFound: it was deleted meanwhile.
    """
    manifest, known = store.manifest(submission), {entry.chunk: entry for entry in store.index(submission)}
    admission, lane = Admission(store, manifest), queue.lane_of(submission, size)
    app: Celery = queue.client_app(store.settings)
    found = 0
    try:
        for chunk in chunks:
            found += 1
            rows = Rows(chunk.frame, chunk.sets)
            payload = payload_of(chunk.number, rows)
            admission.count(rows, payload)
            if entry := known.get(chunk.number):
                if entry.digest != payload.digest:
                    raise other_jobs(submission, payload.first, payload.last)
            elif manifest.state == "closed":
                raise different_content(submission, f"it has {manifest.jobs} jobs, and the input has more")
            else:
                admission.wait_for_room(payload)
                _add(store, app, submission, rows, payload, lane)
    finally:
        app.close()
    if found < len(known):
        raise different_content(submission, f"it has {manifest.jobs} jobs, and the input has fewer")
    store.close(submission)


def _add(store: Store, app: Celery, submission: str, rows: Rows, payload: Payload, lane: str) -> None:
    store.add_chunk(submission, payload, lane)
    if lane == queue.INTERACTIVE_LANE and fits_with_others(rows):
        offer(store, shape_name(rows.frame), submission, payload.chunk)
    queue.publish(app, lane, submission, [payload.chunk])


def _batches(jobs: Jobs) -> Iterator[pa.RecordBatch]:
    """What the caller gave as record batches of checked jobs."""
    if isinstance(jobs, str | Path):
        return from_file(jobs)
    given = iter(jobs)
    first = next(given, None)
    if first is None:
        raise InputError("no jobs: nothing to submit")
    rest = itertools.chain([first], given)
    return rest if isinstance(first, pa.RecordBatch) else from_jobs(rest)


def _up_to(chunks: Iterator[Chunk], jobs: int) -> tuple[list[Chunk], int | None]:
    """Chunks from the front with more than `jobs` jobs, or all of them and then how many jobs they have."""
    taken: list[Chunk] = []
    for chunk in chunks:
        taken.append(chunk)
        if sum(chunk.jobs for chunk in taken) > jobs:
            return taken, None
    return taken, sum(chunk.jobs for chunk in taken)
