"""Celery sees no message but those that were written from a submission and a chunk."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.queue import FIT_CHUNK
from fitq_worker.chunks.delivery import MAX_CHUNK, read_message, write_message

OURS = write_message("fitq.interactive", "20261127-1", 7)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def body_of(arguments: object) -> str:
    return base64.b64encode(json.dumps(arguments).encode()).decode()


def with_body(body: object) -> dict[str, Any]:
    return {**OURS, "body": body}


def test_what_is_written_can_be_read() -> None:
    assert read_message(OURS) == ("20261127-1", 7)


def test_nothing_but_submission_and_chunk_comes_through() -> None:
    """Whatever else a message says of itself is written anew."""
    hostile = {
        **OURS,
        "headers": {"task": FIT_CHUNK, "timelimit": "x", "eta": "never", "retries": "many"},
        "properties": {"delivery_tag": ["x"]},
        "content-type": "application/x-python-serialize",
        "body": body_of([["sub", 3], {"task": 1}, {"chain": [{"task": "celery.backend_cleanup"}]}]),
    }
    assert read_message(hostile) == ("sub", 3)
    assert write_message("lane", "sub", 3).keys() == OURS.keys()


@pytest.mark.parametrize(
    "arguments",
    [
        None, [], [[]], [["sub"], {}, {}], [["sub", "1"], {}, {}], [["sub", 1.5], {}, {}], [["sub", True], {}, {}],
        [["sub", -1], {}, {}], [["sub", MAX_CHUNK], {}, {}], [["../victim", 1], {}, {}], [["a}b", 1], {}, {}],
        [[["sub"], 1], {}, {}], [["sub", 1, 2], {}, {}], [["sub", 1]], {"sub": 1}, [["", 1], {}, {}],
    ],
)  # fmt: skip
def test_arguments_that_are_no_submission_and_chunk_are_refused(arguments: object) -> None:
    assert read_message(with_body(body_of(arguments))) is None


@pytest.mark.parametrize("body", [None, 1, "", "no base64!", "AAAA", [], {}, body_of("x")[:-3], "é"])
def test_bodies_that_cannot_be_read_are_refused(body: object) -> None:
    assert read_message(with_body(body)) is None


@pytest.mark.parametrize("task", [None, "", "celery.backend_cleanup", "celery.chord_unlock", ["fitq.fit_chunk"], 5])
def test_other_tasks_are_refused(task: object) -> None:
    assert read_message({**OURS, "headers": {**OURS["headers"], "task": task}}) is None


@given(JSON)
def test_anything_else_is_refused_without_an_error(message: object) -> None:
    assert read_message(message) is None


@given(st.sampled_from(sorted(OURS)), JSON)
def test_a_message_with_any_part_replaced_is_read_or_refused(part: str, value: object) -> None:
    assert read_message({**OURS, part: value}) in (None, ("20261127-1", 7))
