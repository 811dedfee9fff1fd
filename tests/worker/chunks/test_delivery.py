"""Celery sees no message but those that were written from a submission and a chunk."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.queue import FIT_CHUNK, LANES
from fitq_worker.chunks.delivery import MAX_CHUNK, MAX_MESSAGE_KIB, read_delivery, read_message, write_message

OURS: dict[str, Any] = json.loads(write_message("fitq.interactive", "20261127-1", 7))
NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def text_of(**changes: object) -> bytes:
    """A message of ours with some of its parts changed."""
    return json.dumps(OURS | changes).encode()


def with_arguments(arguments: object) -> bytes:
    return text_of(body=base64.b64encode(json.dumps(arguments).encode()).decode())


def test_what_is_written_can_be_read() -> None:
    assert read_message(text_of()) == ("20261127-1", 7)


def test_nothing_but_submission_and_chunk_comes_through() -> None:
    """Whatever else a message says of itself is written anew."""
    hostile = {
        "headers": {"task": FIT_CHUNK, "timelimit": "x", "eta": "never", "retries": "many"},
        "properties": {"delivery_tag": ["x"]},
        "content-type": "application/x-python-serialize",
    }
    assert read_message(text_of(**hostile)) == ("20261127-1", 7)
    assert json.loads(write_message("lane", "sub", 3)).keys() == OURS.keys()


@pytest.mark.parametrize(
    "arguments",
    [
        None, [], [[]], [["sub"], {}, NOTHING], [["sub", "1"], {}, NOTHING], [["sub", 1.5], {}, NOTHING],
        [["sub", True], {}, NOTHING], [["sub", -1], {}, NOTHING], [["sub", MAX_CHUNK], {}, NOTHING],
        [["../victim", 1], {}, NOTHING], [["a}b", 1], {}, NOTHING], [[["sub"], 1], {}, NOTHING],
        [["sub", 1, 2], {}, NOTHING],
        [["sub", 1]], {"sub": 1}, [["", 1], {}, NOTHING], [["sub", 1], [], NOTHING], [["sub", 1], {}, []],
        *([["sub", 1], {}, {name: [{"task": "celery.backend_cleanup"}]}] for name in NOTHING),
    ],
)  # fmt: skip
def test_arguments_that_are_no_submission_and_chunk_alone_are_refused(arguments: object) -> None:
    assert read_message(with_arguments(arguments)) is None


@pytest.mark.parametrize("body", [None, 1, "", "no base64!", "AAAA", [], {}, OURS["body"][:-3], "é", "WyI="])
def test_bodies_that_cannot_be_read_are_refused(body: object) -> None:
    assert read_message(text_of(body=body)) is None


@pytest.mark.parametrize("task", [None, "", "celery.backend_cleanup", "celery.chord_unlock", ["fitq.fit_chunk"], 5])
def test_other_tasks_are_refused(task: object) -> None:
    assert read_message(text_of(headers={**OURS["headers"], "task": task})) is None


def test_what_is_too_long_is_refused_unread() -> None:
    assert read_message(text_of(more="x" * (MAX_MESSAGE_KIB << 10))) is None


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_without_an_error(text: bytes) -> None:
    assert read_message(text) is None
    assert read_delivery(text) is None


@given(st.sampled_from(sorted(OURS)), JSON)
def test_a_message_with_any_part_replaced_is_read_or_refused(part: str, value: object) -> None:
    assert read_message(text_of(**{part: value})) in (None, ("20261127-1", 7))


@given(st.integers(0, 2000), st.binary(max_size=4))
def test_a_damaged_message_is_read_or_refused(place: int, damage: bytes) -> None:
    text = text_of()
    read_message(text[:place] + damage + text[place + len(damage) :])


@pytest.mark.parametrize(
    ("exchange", "lane", "good"),
    [("", LANES[0], True), ("", LANES[-1], True), ("other", LANES[0], False), ("", "celery", False), (5, LANES[0], False)],
)
def test_what_was_taken_goes_back_to_lanes_only(exchange: object, lane: str, good: bool) -> None:
    found = read_delivery(json.dumps([OURS, exchange, lane]).encode())
    assert found == ((lane, "20261127-1", 7) if good else None)
