"""A worker that is told to stop finishes its chunk or gives it back; another one fits it, and nobody has died."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from fitq_shared.queue import LANES
from fitq_shared.settings import Settings
from fitq_shared.store.keys import SubmissionKeys, broker_prefix, lane
from fitq_worker.chunks.delivery import read_message
from fitq_worker.engine import fit

if TYPE_CHECKING:
    from tests.integration.conftest import Fleet

#: Takes minutes, and no test waits for that.
ENDLESS = 1_000_000
#: Takes seconds, longer than a drain of half a second.
LONG = 6_000
#: Less than a lease, a new message by the reconciler, or the visibility timeout takes under the default settings.
WITHIN_SECONDS = 8.0


def ready(fleet: Fleet) -> Fleet:
    """The fleet once it has fitted something; messages that wait for one to start would be sent again."""
    numbers = itertools.count()

    def has_fitted() -> bool:
        name = f"short-{fleet.worker.process.pid}-{next(numbers)}"
        fleet.submit(name, degree=2, steps=20)
        fleet.wait_until_finished(name)
        return "fits in" in fleet.worker.log.read_text()

    fleet.wait_until(has_fitted)
    return fleet


def starts(fleet: Fleet, name: str) -> bytes | None:
    """How often the first chunk was started and not given back."""
    return cast("bytes | None", fleet.redis_client.hget(SubmissionKeys(fleet.store.settings.namespace, name).starts, "0"))


def holds(fleet: Fleet, name: str) -> bool:
    """Whether it is this worker that fits the first chunk."""
    holder = fleet.redis_client.get(SubmissionKeys(fleet.store.settings.namespace, name).lease(0))
    return f"-{fleet.worker.process.pid}@" in cast(bytes, holder).decode()


def assert_nobody_has_died(fleet: Fleet, name: str) -> None:
    """The chunk waits in its lane as if no worker had ever taken it: before those that came after it."""
    assert starts(fleet, name) == b"0"
    assert not fleet.redis_client.exists(SubmissionKeys(fleet.store.settings.namespace, name).lease(0))
    messages = cast("list[bytes]", fleet.redis_client.lrange(lane(fleet.store.settings.namespace, LANES[0]), 0, -1))
    assert [read_message(message) for message in reversed(messages)] == [(name, 0), ("behind", 0)]
    assert not fleet.redis_client.exists(broker_prefix(fleet.store.settings.namespace) + "unacked")


def test_a_chunk_that_outlasts_the_drain_is_another_workers_within_seconds(
    start_fleet: Callable[..., Fleet], settings: Settings, jobs_of: Callable[..., pa.RecordBatch]
) -> None:
    """Its message waits no visibility timeout, its claim no lease, and no death is counted."""
    one, another = [ready(start_fleet(settings, "--drain", "0.5")) for _ in range(2)]
    one.submit("long", steps=LONG)
    one.wait_until_claimed("long")
    leaving, staying = (one, another) if holds(one, "long") else (another, one)
    assert leaving.worker.stop(signal.SIGTERM) == 0
    given_back = time.monotonic()
    staying.wait_until_claimed("long", attempt=2)
    assert time.monotonic() - given_back < WITHIN_SECONDS
    assert starts(staying, "long") == b"1"
    assert "given back" in leaving.worker.log.read_text()
    staying.wait_until_finished("long")
    (results,) = staying.results("long")
    assert results.drop_columns(["chunk"]).equals(fit(jobs_of(0, steps=LONG)).results.drop_columns(["chunk"]))


def test_a_worker_gives_its_chunk_back_when_the_drain_has_ended(
    start_fleet: Callable[..., Fleet], settings: Settings
) -> None:
    fleet = ready(start_fleet(settings, "--drain", "1"))
    fleet.submit("long", steps=ENDLESS)
    fleet.wait_until_claimed("long")
    fleet.submit("behind")
    assert fleet.worker.stop(signal.SIGTERM) == 0
    assert_nobody_has_died(fleet, "long")


def test_a_second_signal_ends_the_drain(start_fleet: Callable[..., Fleet], settings: Settings) -> None:
    fleet = ready(start_fleet(settings, "--drain", "3600"))
    fleet.submit("long", steps=ENDLESS)
    fleet.wait_until_claimed("long")
    fleet.submit("behind")
    fleet.worker.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert fleet.worker.process.poll() is None
    assert fleet.worker.stop(signal.SIGTERM) == 0
    assert_nobody_has_died(fleet, "long")


def test_a_third_signal_kills(start_fleet: Callable[..., Fleet], settings: Settings) -> None:
    """The chunk of a worker that cannot even give it back comes back with the end of its lease."""
    fleet = ready(start_fleet(settings, "--drain", "3600"))
    fleet.submit("long", steps=ENDLESS)
    fleet.wait_until_claimed("long")
    fleet.freeze_fitting_process()
    for _ in range(2):
        fleet.worker.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert fleet.worker.process.poll() is None
    assert fleet.worker.stop(signal.SIGTERM) == 1
    assert "workers were killed" in fleet.worker.log.read_text()
    assert starts(fleet, "long") == b"1"


def test_a_worker_that_stops_takes_no_more_chunks(start_fleet: Callable[..., Fleet], settings: Settings) -> None:
    """It finishes the one it has, acknowledges it, and leaves the next one to others."""
    fleet = ready(start_fleet(settings))
    fleet.submit("first", steps=3000)
    fleet.wait_until_claimed("first")
    fleet.submit("second")
    assert fleet.worker.stop(signal.SIGTERM) == 0
    assert fleet.store.manifest("first").finished
    assert starts(fleet, "second") is None
    assert fleet.store.message_count(LANES[0]) == 1
    assert not fleet.redis_client.exists(broker_prefix(settings.namespace) + "unacked")
