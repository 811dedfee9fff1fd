"""Which chunks get a new message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from fitq_shared.queue import BULK_LANES, INTERACTIVE_LANE, client_app, publish
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.payload import Payload
from fitq_shared.store.stranded import StrandedChunks
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.fleet.reconciler import reconcile

LANE = BULK_LANES[3]
COMMIT = Commit(results=b"results", traces=b"", job_count=1, seconds=0.5, statuses={"converged": 1}, attempt=1)


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    """The app that publishes."""
    app = client_app(settings)
    yield app
    app.close()


@pytest.fixture
def submission(store: SubmittingStore, redis_client: redis.Redis) -> str:
    """A submission of two chunks whose messages were sent long ago and are in no queue."""
    store.open("sub", "")
    for chunk in (0, 1):
        store.add_chunk("sub", Payload(chunk, b"frame", 1, chunk, chunk), LANE)
        redis_client.hset(SubmissionKeys(store.settings.namespace, "sub").enqueued, str(chunk), f"{LANE} 1.0")
    return "sub"


def test_stranded_chunks_get_one_new_message_each(
    store: SubmittingStore, stranded: StrandedChunks, app: Celery, submission: str
) -> None:
    """In their own lane, and not again while that message is fresh."""
    assert reconcile(stranded, app) == 2
    assert store.message_count(LANE) == 2
    assert reconcile(stranded, app) == 0


def test_a_chunk_that_may_be_waiting_gets_no_message(
    store: SubmittingStore, stranded: StrandedChunks, app: Celery, submission: str
) -> None:
    """Whatever waits in its lane may be it."""
    publish(app, LANE, "another", [0])
    assert reconcile(stranded, app) == 0
    assert store.message_count(LANE) == 1


def test_a_full_lane_does_not_hold_back_the_others(stranded: StrandedChunks, app: Celery, submission: str) -> None:
    """Only its own lane counts."""
    publish(app, INTERACTIVE_LANE, "another", [0])
    assert reconcile(stranded, app) == 2


def test_a_chunk_in_work_or_done_gets_no_message(
    stranded: StrandedChunks, app: Celery, submission: str, fitting: FittingStore
) -> None:
    """Leased and committed chunks are where they belong."""
    fitting.claim(submission, 0, "a")
    fitting.commit(submission, 1, COMMIT)
    assert reconcile(stranded, app) == 0


def test_deleted_submissions_are_left_alone(
    store: SubmittingStore, stranded: StrandedChunks, app: Celery, submission: str
) -> None:
    """Nothing brings them back."""
    store.delete(submission)
    assert reconcile(stranded, app) == 0
