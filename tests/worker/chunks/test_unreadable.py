"""What is left of jobs whose frame cannot be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import encode, jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.schemas import JOB_SCHEMA
from fitq_shared.store.reader import IndexedChunk
from fitq_worker.chunks.unreadable import recover_jobs

ENTRY = IndexedChunk(0, 3, 5, 7, "0123456789abcdef")
JOBS = jobs_batch([FitJob(id=name, polynomial=[1.0], seed=9, tags={"site": "A"}) for name in "abc"], first_index=5)
ANOTHER_VERSION = {"fitq.kind": "jobs", "fitq.version": "3"}
NUMBERED = [(5, "5", None), (6, "6", None), (7, "7", None)]


def recovered(batch: pa.RecordBatch | bytes) -> list[tuple[Any, ...]]:
    """Position, id and tags of the jobs that are recovered."""
    jobs = recover_jobs(batch if isinstance(batch, bytes) else encode(batch), ENTRY)
    assert jobs.schema.equals(JOB_SCHEMA)
    jobs.validate(full=True)
    return [(row["index"], row["id"], row["tags"]) for row in jobs.to_pylist()]


def test_a_frame_of_another_version_still_says_which_jobs_it_has() -> None:
    """In columns of whatever order and width."""
    tags = '{"site":"A"}'
    expected = [(5, "a", tags), (6, "b", tags), (7, "c", tags)]
    assert recovered(JOBS.replace_schema_metadata(ANOTHER_VERSION)) == expected
    other = pa.RecordBatch.from_pydict(
        {"new": [1.5] * 3, "tags": [tags] * 3, "id": ["a", "b", "c"], "index": pa.array([5, 6, 7], pa.int32())}
    )
    assert recovered(other) == expected


@pytest.mark.parametrize(
    "columns",
    [
        {"index": [5, 6, 8], "id": ["a", "b", "c"]},
        {"index": [5, 6, 6], "id": ["a", "b", "c"]},
        {"index": [5, 6, 7], "id": ["a", "b", "b"]},
        {"index": [5, 6, None], "id": ["a", "b", "c"]},
        {"index": [5, 6, 7], "id": ["a", None, "c"]},
        {"index": [5, 6, 7]},
        {"id": ["a", "b", "c"]},
        {"index": ["x", "y", "z"], "id": ["a", "b", "c"]},
        {"index": [5, 6, 7], "id": [[1], [2], [3]]},
        {"index": [5, 6], "id": ["a", "b"]},
        {"other": [1, 2, 3]},
    ],
)
def test_jobs_that_are_not_those_submitted_are_numbered(columns: dict[str, list[Any]]) -> None:
    """From the first position of the chunk."""
    assert recovered(pa.RecordBatch.from_pydict(columns)) == NUMBERED


def test_columns_that_would_fill_the_memory_are_not_read() -> None:
    """Of any frame."""
    zeros = pa.ListArray.from_arrays(pa.array([0, 0, 0, 2**27 + 1], pa.int32()), pa.array(np.zeros(2**27 + 1)))
    assert recovered(replace_columns(JOBS, {"x": zeros}).replace_schema_metadata(ANOTHER_VERSION)) == NUMBERED


@given(st.binary(max_size=300) | st.tuples(st.integers(0, 4000), st.integers(1, 255)))
def test_any_bytes_leave_the_jobs_that_were_submitted(damage: bytes | tuple[int, int]) -> None:
    """Random ones, and a frame with a byte changed."""
    if isinstance(damage, tuple):
        frame = bytearray(encode(JOBS))
        frame[damage[0] % len(frame)] ^= damage[1]
        damage = bytes(frame)
    assert [index for index, *_ in recovered(damage)] == [5, 6, 7]
