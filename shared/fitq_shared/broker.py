"""Celery as both sides use it: names, lanes, settings and the reasons for them. Celery and kombu 5.7."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis

from fitq_shared.keys import broker_prefix
from fitq_shared.settings import Settings
from fitq_shared.store import translated_errors

if TYPE_CHECKING:
    from celery import Celery

FIT_CHUNK = "fitq.fit_chunk"

#: A submission of at most this many jobs goes to the interactive lane and does not wait behind bulk work.
INTERACTIVE_JOBS = 1000
INTERACTIVE_LANE = "fitq.interactive"
BULK_LANES = tuple(f"fitq.bulk.{number}" for number in range(8))
#: kombu serves the queues of a worker in turn (round robin), so that lanes share it fairly.
LANES = (INTERACTIVE_LANE, *BULK_LANES)

#: The planner aims at chunks of a few seconds; one that runs this long hangs.
CHUNK_TIME_LIMIT_SECONDS = 600
RESULT_EXPIRES_SECONDS = 24 * 3600


def lane_of(submission: str, jobs: int | None) -> str:
    """The queue of a submission: interactive when it is known to be small, else a bulk lane by hash of its id."""
    if jobs is not None and jobs <= INTERACTIVE_JOBS:
        return INTERACTIVE_LANE
    return BULK_LANES[zlib.crc32(submission.encode()) % len(BULK_LANES)]


def publish(app: Celery, lane: str, submission: str, chunks: Iterable[int]) -> None:
    """Enqueue one message for each chunk, pipelined.

    Raises:
        ServerUnreachable, ServerFull: as from the store.
    """
    with _translated_errors(app), app.producer_pool.acquire(block=True) as producer, producer.batch():
        for chunk in chunks:
            app.send_task(FIT_CHUNK, args=(submission, chunk), queue=lane, producer=producer)


def client_app(settings: Settings) -> Celery:
    """The app that publishes chunks; without a result backend, which would cost a SUBSCRIBE for each message."""
    return _app(settings, task_ignore_result=False)


def worker_app(settings: Settings) -> Celery:
    """The app of a worker process; its result backend keeps a small summary of each chunk for Flower."""
    return _app(
        settings,
        result_backend=settings.redis_url,
        result_backend_transport_options={
            "global_keyprefix": broker_prefix(settings.namespace),
            "visibility_timeout": settings.visibility_timeout_seconds,
        },
        result_expires=RESULT_EXPIRES_SECONDS,
        # Late acknowledgement: a chunk whose worker dies is delivered again; the commit drops the duplicate.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=CHUNK_TIME_LIMIT_SECONDS,
        task_track_started=True,
        # One chunk at a time and none in reserve: a device is busy with one, and a reserved one would only wait.
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        # CUDA does not survive fork; a spawned child starts clean. Importing torch takes longer than the default 4 s.
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_proc_alive_timeout=120,
        # A killed child's chunk goes back to the queue after this long; should its result still arrive, it is a duplicate.
        worker_lost_wait=1.0,
        # A broken connection must not kill a chunk that is nearly done: its commit does not depend on the message.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        include=["fitq_worker.tasks"],
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
    )


@contextmanager
def _translated_errors(app: Celery) -> Iterator[None]:
    """kombu wraps most errors of the Redis client in some of its own; unwrap it, then as the store does."""
    from kombu.exceptions import BatchPublishError, OperationalError

    with translated_errors(app.conf.broker_url):
        try:
            yield
        except (BatchPublishError, OperationalError) as error:
            raise error.__cause__ or redis.exceptions.ConnectionError(str(error)) from None


def _app(settings: Settings, **more: Any) -> Celery:
    from celery import Celery
    from kombu.entity import Queue

    app = Celery("fitq", set_as_current=False)
    app.conf.update(
        broker_url=settings.redis_url,
        broker_transport_options=_transport_options(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[Queue(lane) for lane in LANES],  # type: ignore[no-untyped-call]  # kombu is only partly typed
        task_default_queue=INTERACTIVE_LANE,
        task_create_missing_queues=False,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        **more,
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    """kombu's Redis transport. No `retry_on_timeout`: it would switch off pipelined publishing."""
    return {
        "global_keyprefix": broker_prefix(settings.namespace),
        "visibility_timeout": settings.visibility_timeout_seconds,
        # Look for messages of dead workers every 5 s; kombu's default comes to about 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # Without a timeout a publish hangs for ever on a half-open connection; it must exceed BRPOP's 1 s.
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "queue_order_strategy": "round_robin",
    }
