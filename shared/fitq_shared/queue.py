"""Celery as both sides use it: names, lanes, settings and the reasons for them. Celery and kombu 5.7."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fitq_shared.settings import Settings
from fitq_shared.store.connection import translate_errors
from fitq_shared.store.keys import broker_prefix

if TYPE_CHECKING:
    from celery import Celery

FIT_CHUNK = "fitq.fit_chunk"

#: A submission of at most this many jobs goes to the interactive lane and does not wait behind bulk work.
INTERACTIVE_JOBS = 1000
INTERACTIVE_LANE = "fitq.interactive"
BULK_LANES = tuple(f"fitq.bulk.{number}" for number in range(8))
LANES = (INTERACTIVE_LANE, *BULK_LANES)


class InteractiveFirst:
    """The order in which a worker looks for messages: the interactive lane always first, the others in turn.

    This is a queue order strategy of kombu, whose own ones are fair to all queues or to none.
    """

    def __init__(self) -> None:
        self.lanes: list[str] = []

    def update(self, lanes: Iterable[str]) -> None:
        """Take these as the lanes from now on."""
        self.lanes = list(lanes)

    def consume(self, count: int) -> list[str]:
        """The lanes in the order in which to look at them next."""
        return sorted(self.lanes, key=lambda lane: lane != INTERACTIVE_LANE)[:count]

    def rotate(self, last_used: str) -> None:
        """Let all other lanes have their turn before this one, from which a message came."""
        self.lanes.sort(key=lambda lane: lane == last_used)


def lane_of(submission: str, job_count: int | None) -> str:
    """The lane of a submission: interactive when it is known to be small, else a bulk lane by hash of its id."""
    if job_count is not None and job_count <= INTERACTIVE_JOBS:
        return INTERACTIVE_LANE
    return BULK_LANES[zlib.crc32(submission.encode()) % len(BULK_LANES)]


def publish(app: Celery, lane: str, submission: str, chunks: Iterable[int]) -> None:
    """Enqueue one message for each chunk, pipelined.

    Raises:
        ServerUnreachable, ServerFull: as from the store.
    """
    with _translated_errors(app), app.producer_pool.acquire(block=True) as producer, producer.batch():
        for chunk in chunks:
            # Lanes need no declaration, and kombu goes on with a closed channel when the connection is lost amid one.
            app.send_task(FIT_CHUNK, args=(submission, chunk), queue=lane, producer=producer, declare=[])


def client_app(settings: Settings) -> Celery:
    """The app that publishes chunks."""
    return _app(settings)


def worker_app(settings: Settings, transport: str, control: str) -> Celery:
    """The app of a worker process; the paths are those of the classes that deliver messages, and remote control."""
    return _app(
        settings,
        control,
        broker_transport=transport,
        # Acknowledged late: a chunk whose worker dies is delivered again, and the commit drops a duplicate.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # One chunk at a time and none in reserve: a device is busy with one, and a reserved one would only wait.
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        # CUDA does not survive a fork, but only the forked child imports torch: it starts clean, and half a second sooner
        # than one that imports everything anew. Importing torch takes longer than the default 4 s.
        worker_pool="prefork",
        worker_pool_start_method="fork",
        worker_proc_alive_timeout=120,
        # A killed child's chunk goes back to the queue after this long; should its result still arrive, it is a duplicate.
        worker_lost_wait=1.0,
        # A broken connection must not kill a chunk that is nearly done: its commit does not depend on the message.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        include=["fitq_worker.chunks.tasks"],
        # Events cost more than a small chunk does; Flower asks the workers for them while it runs.
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )


@contextmanager
def _translated_errors(app: Celery) -> Iterator[None]:
    """Unwrap the errors of the Redis client, which kombu wraps in its own, and translate them as the store does."""
    from kombu.exceptions import BatchPublishError, OperationalError

    with translate_errors(app.conf.broker_url, app.conf.broker_use_ssl or {}):
        try:
            yield
        except (BatchPublishError, OperationalError) as error:
            raise error.__cause__ or ConnectionError(str(error)) from None


def _app(settings: Settings, control: str | None = None, **more: Any) -> Celery:
    from celery import Celery
    from kombu.entity import Queue

    app = Celery("fitq", set_as_current=False, control=control)
    app.conf.update(
        broker_url=settings.redis_url,
        broker_use_ssl=settings.tls_options() or None,
        broker_transport_options=_transport_options(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[Queue(lane) for lane in LANES],  # type: ignore[no-untyped-call]  # kombu is only partly typed
        task_default_queue=INTERACTIVE_LANE,
        task_create_missing_queues=False,
        # Results are in the store (docs/decisions); Celery keeps none.
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
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
        # A worker that is killed while it looks keeps all others from looking for this long; by default 300 s.
        "unacked_mutex_expire": 10,
        # Without a timeout a publish hangs for ever on a half-open connection; it must exceed BRPOP's 1 s.
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        # All lanes are asked for in one BRPOP, which takes the first that has a message.
        "queue_order_strategy": f"{__name__}:InteractiveFirst",
        "priority_steps": [0],
    }
