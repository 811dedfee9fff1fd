"""Whoever may write to the broker cannot stop a worker, run anything but fits, or lose anybody's jobs."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from fitq_shared.queue import FIT_CHUNK, LANES
from fitq_shared.settings import Settings
from fitq_shared.store.dead_letters import KEPT_BYTES, DeadLetters
from fitq_shared.store.keys import broker_prefix, lane
from fitq_worker.chunks.delivery import write_message

if TYPE_CHECKING:
    from tests.integration.conftest import Fleet

QUICK = {"degree": 2, "steps": 20}


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


def hostile_messages(folder: Path) -> list[bytes]:
    """Everything that somebody once sent, by mistake or on purpose."""
    ours: dict[str, Any] = json.loads(write_message(LANES[0], "nobody", 0))
    body = base64.b64encode(pickle.dumps(Exploit(folder / "exploited"))).decode()
    changed: list[dict[str, Any]] = [
        {"body": "no base64"},
        {"body": None},
        {"body": body, "content-type": "application/x-python-serialize"},
        {"body": "!!binary", "content-type": "application/x-yaml"},
        {"body": "gqNzdWIA", "content-type": "application/x-msgpack"},
        {"headers": None},
        {"headers": {**ours["headers"], "task": "celery.backend_cleanup"}},
        {"headers": {**ours["headers"], "task": "celery.chord_unlock"}},
        {"headers": {**ours["headers"], "task": "os.system"}},
        {"body": base64.b64encode(b'[["nobody", 0], {}, {"errbacks": [{"task": "celery.backend_cleanup"}]}]').decode()},
        {"body": base64.b64encode(b'[["../victim", 0], {}, {}]').decode()},
        {"body": base64.b64encode(b"[" * 100_000).decode()},
    ]
    # kombu makes values of other types of these, if it is let.
    changed += [{"headers": {"__type__": kind, "__value__": 5}} for kind in ("uuid", "bytes", "datetime", ["x"])]
    changed += [{"headers": {"__type__": "decimal", "__value__": "x"}}]
    texts = [json.dumps({**ours, **change}).encode() for change in changed]
    return [*texts, b"", b"\xff\xfe", b"null", b"[]", b"{}", b'"text"', b"1e999", b"[" * 100_000, b"x" * 10 * KEPT_BYTES]


#: Messages that name a chunk, and demand what a worker does not do.
DEMANDING: list[dict[str, Any]] = [
    {"headers": {"task": FIT_CHUNK, "timelimit": "x"}},
    {"headers": {"task": FIT_CHUNK, "eta": "2126-01-01T00:00:00", "expires": "x", "retries": "x"}},
    {"properties": {}},
    {"properties": {"delivery_tag": {"a": 1}, "delivery_info": 5, "body_encoding": "zip", "priority": "x"}},
    {"content-type": 5, "content-encoding": ["x"]},
]


def celery_process(fleet: Fleet) -> psutil.Process:
    """The process that a message of kombu's or Celery's dislike ends."""
    supervisor = psutil.Process(fleet.worker.process.pid)
    fleet.wait_until(lambda: bool(supervisor.children()))
    (found,) = supervisor.children()
    return found


def test_no_message_stops_a_worker(fleet: Fleet, tmp_path: Path) -> None:
    """In any lane; what is none of ours is kept and counted, and the fits go on in the same process."""
    settings, letters = fleet.store.settings, DeadLetters(fleet.store.settings)
    fleet.submit("before", **QUICK)
    fleet.wait_until_finished("before")
    before, buried = celery_process(fleet), letters.count()
    hostile = hostile_messages(tmp_path)
    for name in LANES:
        fleet.redis_client.lpush(lane(settings.namespace, name), *hostile)
    fleet.wait_until(lambda: letters.count() == buried + len(LANES) * len(hostile))
    assert all(len(letter) < KEPT_BYTES + 100 for letter in letters.newest())
    fleet.submit("after", chunks=2, **QUICK)
    fleet.wait_until_finished("after")
    assert celery_process(fleet) == before
    assert list(tmp_path.iterdir()) == []
    letters.disconnect()


@pytest.mark.parametrize("demand", DEMANDING)
def test_what_a_message_demands_beside_its_chunk_is_not_read(fleet: Fleet, demand: dict[str, Any]) -> None:
    """The chunk is fitted as ever."""
    name = f"demanding-{DEMANDING.index(demand)}"
    before = celery_process(fleet)
    fleet.add(name, **QUICK)
    message = json.dumps(json.loads(write_message(LANES[0], name, 0)) | demand)
    fleet.redis_client.lpush(lane(fleet.store.settings.namespace, LANES[0]), message)
    fleet.wait_until_finished(name)
    assert celery_process(fleet) == before


def test_remote_control_can_look_and_nothing_else(fleet: Fleet) -> None:
    """A shutdown or another pool size is not to be had through the broker."""
    from fitq_shared.queue import client_app

    before, app = celery_process(fleet), client_app(fleet.store.settings)
    with app.connection_for_write() as connection:
        fleet.wait_until(lambda: bool(app.control.ping(timeout=1, connection=connection)))
        app.control.shutdown(connection=connection)
        app.control.pool_grow(5, connection=connection)
        answers = app.control.ping(timeout=5, connection=connection)
        fleet.redis_client.publish(f"{broker_prefix(fleet.store.settings.namespace)}/0.celery.pidbox", b"no message")
    app.close()
    assert answers
    fleet.submit("controlled", **QUICK)
    fleet.wait_until_finished("controlled")
    assert celery_process(fleet) == before


def test_remote_control_outlives_what_is_no_message(fleet: Fleet, tmp_path: Path) -> None:
    """Neither does it unpickle, nor unpack what could be of any size, nor wait for what it would not hear."""
    fleet.submit("killed-before")
    fleet.wait_until_claimed("killed-before")
    fleet.kill_fitting_process()  # the next one is forked while the worker listens
    fleet.wait_until_finished("killed-before")
    before = celery_process(fleet)
    topic = f"{broker_prefix(fleet.store.settings.namespace)}/0.celery.pidbox"
    properties = {"delivery_tag": "x", "delivery_info": {"exchange": "", "routing_key": ""}, "body_encoding": "base64"}
    command = {"body": base64.b64encode(b'{"method": "shutdown"}').decode(), "properties": properties, "headers": {}}
    kind = {"content-type": "application/json", "content-encoding": "utf-8"}
    pickled = {"body": base64.b64encode(pickle.dumps(Exploit(tmp_path / "exploited"))).decode()}
    hostile: list[Any] = [
        None, 5, "text", [], {}, {"properties": {}}, {"properties": properties, "headers": None},
        {"__type__": "bytes", "__value__": 5}, {"__type__": "decimal", "__value__": "x"}, {**command, **kind},
        {**command, **pickled, "content-type": "application/x-python-serialize", "content-encoding": "binary"},
        {**command, **kind, "headers": {"compression": "zlib"}}, {**command, **kind, "body": "bm8ganNvbg=="},
    ]  # fmt: skip
    odd_commands: list[Any] = [
        [], 5, {"method": ["ping"]}, {"method": "ping", "arguments": 5}, {"method": "ping", "destination": 5},
        {"method": "ping", "reply_to": 5}, {"method": "ping", "ticket": {}, "reply_to": {"exchange": 5, "routing_key": 5}},
        {"method": "ping", "pattern": "[", "matcher": "regex"}, {"method": "query_task", "arguments": {"ids": 5}},
    ]  # fmt: skip
    bodies = (base64.b64encode(json.dumps(odd).encode()).decode() for odd in odd_commands)
    for message in [*hostile, *({**command, **kind, "body": body} for body in bodies)]:
        assert fleet.redis_client.publish(topic, json.dumps(message)) == 1
    assert fleet.redis_client.publish(topic, b"\xff[") == 1
    fleet.submit("told-nonsense", **QUICK)
    fleet.wait_until_finished("told-nonsense")
    assert celery_process(fleet) == before
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_message_among_those_that_were_taken_holds_back_no_other(fleet: Fleet) -> None:
    """A worker that died had taken them, as it seems; what is a message is given back, and to no other queue."""
    settings, letters = fleet.store.settings, DeadLetters(fleet.store.settings)
    before, prefix, buried = celery_process(fleet), broker_prefix(settings.namespace), letters.count()
    fleet.add("given-back", **QUICK)
    ours = json.loads(write_message(LANES[0], "given-back", 0))
    odd = {**ours, "properties": {"__type__": "uuid", "__value__": 5}}
    taken = [[1, 2], [{"headers": 5}, "", ""], [ours, "", "elsewhere"], [ours, "exchange", LANES[0]], [5, "", LANES[0]]]
    entries: dict[Any, Any] = {f"bad-{number}": json.dumps(entry) for number, entry in enumerate(taken)}
    entries |= {"bad": "no JSON", b"\xff": b"\xff", "good": json.dumps([odd, "", LANES[0]])}
    fleet.redis_client.hset(f"{prefix}unacked", mapping=entries)
    fleet.redis_client.zadd(f"{prefix}unacked_index", dict.fromkeys([*entries, "nothing"], 1.0))
    fleet.wait_until_finished("given-back")
    fleet.wait_until(lambda: not fleet.redis_client.exists(f"{prefix}unacked", f"{prefix}unacked_index"))
    assert letters.count() == buried + len(entries) - 1
    assert not fleet.redis_client.exists(f"{prefix}elsewhere")
    assert celery_process(fleet) == before
    letters.disconnect()


def test_messages_are_json_and_hold_two_numbers(settings: Settings, fleet: Fleet) -> None:
    """No pickle, no path, no job: what lies in a lane while nobody takes it."""
    from fitq_shared.queue import client_app, publish

    app = client_app(settings)
    publish(app, LANES[0], "sub", [3])
    app.close()
    (text,) = fleet.redis_client.lrange(lane(settings.namespace, LANES[0]), 0, -1)
    message = json.loads(text)
    assert (message["content-type"], message["content-encoding"]) == ("application/json", "utf-8")
    assert json.loads(base64.b64decode(message["body"]))[0] == ["sub", 3]
