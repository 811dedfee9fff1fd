"""The queue as both sides configure it, on every server."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from celery.app.defaults import DEFAULTS

from fitq_shared.errors import ServerFull, ServerUnreachable
from fitq_shared.queue import BULK_LANES, INTERACTIVE_LANE, LANES, client_app, publish, worker_app
from fitq_shared.settings import Settings
from fitq_shared.store.submitting import SubmittingStore

if TYPE_CHECKING:
    from tests.conftest import RestartableServer


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    """The app that publishes."""
    app = client_app(settings)
    yield app
    app.close()


def test_messages_wait_in_the_lane_they_were_published_to(store: SubmittingStore, app: Celery) -> None:
    """One for each chunk, where the store and a worker look for them."""
    publish(app, BULK_LANES[2], "sub", range(25))
    assert {lane: store.message_count(lane) for lane in LANES if store.message_count(lane)} == {BULK_LANES[2]: 25}


def test_every_key_of_the_queue_lies_in_the_namespace(
    store: SubmittingStore, app: Celery, redis_client: redis.Redis
) -> None:
    """Several fitq, and other applications, can share a server."""
    before = set(redis_client.scan_iter("*"))
    publish(app, LANES[0], "sub", [0])
    new = set(redis_client.scan_iter("*")) - before
    assert new
    assert all(key.startswith(f"{store.settings.namespace}:celery:".encode()) for key in new)


def test_the_interactive_lane_is_served_first_and_the_others_in_turn(app: Celery) -> None:
    """Whatever waits in bulk lanes, and however long."""
    publish(app, BULK_LANES[5], "a", range(3))
    publish(app, BULK_LANES[2], "b", range(3))
    served: list[str] = []

    def serve(body: Any, message: Any) -> None:
        served.append(body[0][0])
        message.ack()

    with app.connection_for_read() as connection:
        consumer = app.amqp.TaskConsumer(connection.channel(), callbacks=[serve])
        consumer.qos(prefetch_count=1)
        with consumer:
            for number in range(4):
                connection.drain_events(timeout=10)
                if number == 1:
                    publish(app, INTERACTIVE_LANE, "c", range(2))
            for _ in range(4):
                connection.drain_events(timeout=10)
    assert served[2:4] == ["c", "c"]
    assert [first != second for first, second in itertools.pairwise(served[:2] + served[4:])] == [True] * 5


def test_publishing_is_pipelined(app: Celery) -> None:
    """Some transport options switch it off without a word."""
    with app.producer_pool.acquire(block=True) as producer:
        assert producer.supports_batch_publish


def test_a_full_server_refuses_messages_with_an_error_of_ours(
    app: Celery, store: SubmittingStore, redis_client: redis.Redis
) -> None:
    """Whoever submits learns what to do."""
    publish(app, LANES[0], "sub", [0])
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServerFull, match="delete finished submissions"):
            publish(app, LANES[0], "sub", [1, 2])
    finally:
        with redis.Redis.from_url(store.settings.redis_url) as client:
            client.config_set("maxmemory", 0)
    assert store.message_count(LANES[0]) == 1


def test_whatever_breaks_amid_publishing_is_an_error_of_ours(restartable: RestartableServer) -> None:
    """Connections are killed again and again while another thread publishes."""
    ended = threading.Event()
    cutter = threading.Thread(target=cut_connections, args=[restartable.settings, ended])
    cutter.start()
    try:
        for _ in range(300):
            with suppress(ServerUnreachable):
                publish_once(restartable.settings)
    finally:
        ended.set()
        cutter.join()
    publish_once(restartable.settings)


def cut_connections(settings: Settings, ended: threading.Event) -> None:
    """Kill all connections but one's own, again and again."""
    with redis.Redis.from_url(settings.redis_url) as client:
        while not ended.wait(0.001):
            client.client_kill_filter(_type="normal", skipme=True)


def publish_once(settings: Settings) -> None:
    """One message, by an app of its own."""
    app = client_app(settings)
    try:
        publish(app, LANES[0], "sub", [0])
    finally:
        app.close()


def test_an_unreachable_server_is_an_error_of_ours() -> None:
    """With the URL in it."""
    app = client_app(Settings(redis_url="redis://:geheim@127.0.0.1:1/0"))
    with pytest.raises(ServerUnreachable, match=r"no Redis answers at redis://:\*\*\*@127.0.0.1:1/0"):
        publish(app, LANES[0], "sub", [0])
    app.close()


def test_every_setting_is_one_that_celery_knows() -> None:
    """A misspelt name would be ignored."""
    conf = worker_app(Settings(), "redis", "celery.app.control:Control").conf
    changes = set(conf.changes) - {"deprecated_settings"}  # which Celery adds by itself
    assert changes <= set(DEFAULTS)
