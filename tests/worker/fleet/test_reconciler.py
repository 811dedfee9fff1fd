"""Which chunks get a new message."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest
import redis
from celery import Celery

from fitq_shared.errors import AccessDenied
from fitq_shared.queue import BULK_LANES, INTERACTIVE_LANE, client_app, publish
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.keys import SubmissionKeys, expiries, lane
from fitq_shared.store.payload import Payload
from fitq_shared.store.stranded import StrandedChunks
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.fleet import reconciler
from fitq_worker.fleet.reconciler import Reconciler, reconcile

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


def test_a_submission_that_something_else_has_written_to_does_not_keep_others_waiting(
    store: SubmittingStore, stranded: StrandedChunks, app: Celery, submission: str, redis_client: redis.Redis
) -> None:
    """Neither by its manifest nor by what is noted of its messages."""
    for name in ("a", "z"):
        store.open(name, "")
    redis_client.hset(SubmissionKeys(store.settings.namespace, "a").manifest, "jobs", "many")
    redis_client.hset(SubmissionKeys(store.settings.namespace, "z").enqueued, "0", "no message")
    assert reconcile(stranded, app) == 2


def test_a_chunk_that_may_be_waiting_gets_no_message(
    store: SubmittingStore, stranded: StrandedChunks, app: Celery, submission: str
) -> None:
    """Whatever waits in its lane may be it."""
    publish(app, LANE, "another", [0])
    assert reconcile(stranded, app) == 0
    assert store.message_count(LANE) == 1


def test_a_chunk_whose_message_was_overtaken_gets_a_new_one(
    store: SubmittingStore, stranded: StrandedChunks, app: Celery, submission: str, fitting: FittingStore
) -> None:
    """A lost chunk does not starve behind a backlog: a lane is a queue, and a younger message has left it."""
    publish(app, LANE, "another", [0])
    store.open("another", "")
    store.add_chunk("another", Payload(0, b"frame", 1, 0, 0), LANE)
    assert reconcile(stranded, app) == 0
    fitting.claim("another", 0, "a")
    assert reconcile(stranded, app) == 2


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


def test_the_reconciler_outlives_refusals_and_errors(
    settings: Settings, redis_client: redis.Redis, submission: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is read-only for a while does not end it; lost chunks come back after that."""
    monkeypatch.setattr(reconciler, "INTERVAL_SECONDS", 0.05)
    redis_client.hset(SubmissionKeys(settings.namespace, "sub").enqueued, "2", "no time at all")
    thread = Reconciler(settings)
    thread.start()
    time.sleep(0.5)
    redis_client.hdel(SubmissionKeys(settings.namespace, "sub").enqueued, "2")
    redis_client.replicaof("127.0.0.1", 1)
    time.sleep(0.5)
    redis_client.replicaof("NO", "ONE")
    deadline = time.monotonic() + 10
    while redis_client.llen(lane(settings.namespace, LANE)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert redis_client.llen(lane(settings.namespace, LANE)) == 2
    assert thread.is_alive()
    thread.stop()
    thread.join(10)
    assert thread.failure is None


def test_the_reconciler_ends_where_the_server_does_not_let_it_in(settings: Settings) -> None:
    """Nobody can work with a wrong password; it is said once."""
    host = settings.redis_url.rpartition("@")[2]
    thread = Reconciler(msgspec.structs.replace(settings, redis_url=f"redis://:wrong@{host}"))
    thread.start()
    thread.join(10)
    assert isinstance(thread.failure, AccessDenied)


def test_expired_submissions_are_deleted_by_whoever_reconciles(
    settings: Settings, store: SubmittingStore, redis_client: redis.Redis, submission: str
) -> None:
    """Also where no client ever comes again."""
    redis_client.zadd(expiries(settings.namespace), {submission: 1.0})
    thread = Reconciler(settings)
    thread.start()
    deadline = time.monotonic() + 10
    while store.manifests() and time.monotonic() < deadline:
        time.sleep(0.05)
    thread.stop()
    thread.join(10)
    assert list(redis_client.scan_iter(f"{settings.namespace}:*{submission}*")) == []
