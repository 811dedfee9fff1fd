"""Upload: the chunks of a submission go to the store and their messages to the queue; what is there already is compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fitq.admission import Admission
from fitq.loads import fits_with_others
from fitq.planner import Chunk
from fitq_shared import broker
from fitq_shared.errors import DifferentContent
from fitq_shared.frames import shape_name
from fitq_shared.payload import Payload, payload_of
from fitq_shared.reader import different_content
from fitq_shared.rows import Rows
from fitq_shared.store import Store
from fitq_shared.waiting import offer

if TYPE_CHECKING:
    from celery import Celery


def upload(store: Store, submission: str, chunks: Iterable[Chunk], lane: str) -> None:
    """Store and enqueue the chunks that the submission does not have yet, and close it.

    The same jobs make the same chunks, so that what an upload that was broken off has left is recognised.

    Raises:
        DifferentContent: the submission has other jobs.
        ServerFull: there is no room, and none is becoming free.
        SubmissionNotFound: it was deleted meanwhile.
    """
    manifest, known = store.manifest(submission), {entry.chunk: entry for entry in store.index(submission)}
    admission = Admission(store, manifest)
    app: Celery = broker.client_app(store.settings)
    found = 0
    try:
        for chunk in chunks:
            found += 1
            rows = Rows(chunk.frame, chunk.sets)
            payload = payload_of(chunk.number, rows)
            admission.count(rows, payload)
            if entry := known.get(chunk.number):
                if entry.digest != payload.digest:
                    raise different_content(submission, payload.first, payload.last)
            elif manifest.state == "closed":
                raise _different(submission, f"it has {manifest.jobs} jobs, and the input has more")
            else:
                admission.wait_for_room(payload)
                _add(store, app, submission, rows, payload, lane)
    finally:
        app.close()
    if found < len(known):
        raise _different(submission, f"it has {manifest.jobs} jobs, and the input has fewer")
    store.close(submission)


def _add(store: Store, app: Celery, submission: str, rows: Rows, payload: Payload, lane: str) -> None:
    store.add_chunk(submission, payload, lane)
    if lane == broker.INTERACTIVE_LANE and fits_with_others(rows):
        offer(store, shape_name(rows.frame), submission, payload.chunk)
    broker.publish(app, lane, submission, [payload.chunk])


def _different(submission: str, what: str) -> DifferentContent:
    return DifferentContent(
        f"{submission} was made of other jobs: {what}; submit them under another key, or `fitq delete {submission}` first"
    )
