"""Frames that would take too much memory are refused before they are unpacked."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fitq_shared.errors import FrameError
from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import decode, encode, jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.schemas import JOB_SCHEMA, RESULT_SCHEMA
from fitq_shared.jobs.unpacked_size import MAX_UNPACKED_BYTES, check_unpacked_size

FRAMES = Path(__file__).parents[2] / "data" / "frames"
JOBS = jobs_batch([FitJob(polynomial=[1.0, 2.0], seed=seed) for seed in range(3)])


def zeros(count: int) -> pa.RecordBatch:
    """A job with so many points, all zero: 16 bytes each, and almost nothing when packed."""
    points = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(np.zeros(count)))
    job = jobs_batch([FitJob(x=[0.0], y=[0.0])])
    return replace_columns(job, {"x": points, "y": points})


def test_a_frame_that_would_fill_the_memory_is_refused_before_it_is_unpacked() -> None:
    """A hundred kilobytes of zeros that become more than a GiB."""
    count = MAX_UNPACKED_BYTES // 16 + 1
    bomb = encode(zeros(count))
    assert len(bomb) < 200_000
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(FrameError, match=r"would unpack to 1,07\d,\d{3},\d{3}"):
        decode(bomb, JOB_SCHEMA)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert pa.total_allocated_bytes() == before


def test_the_size_of_a_frame_is_that_of_its_buffers_when_unpacked() -> None:
    """To the byte, however many points there are."""
    batch = zeros(1000)
    frame = encode(batch)
    size = sum(buffer.size for column in decode(frame, JOB_SCHEMA).columns for buffer in column.buffers() if buffer)
    check_unpacked_size(frame, size)
    with pytest.raises(FrameError, match=f"would unpack to {size:,}, and none takes more than {size - 1:,}"):
        check_unpacked_size(frame, size - 1)


def test_the_words_of_a_dictionary_count_too() -> None:
    """They come in messages of their own, before the rows."""
    stored = (FRAMES / "results-4.arrow").read_bytes()
    batch = decode(stored, RESULT_SCHEMA)
    long = pa.DictionaryArray.from_arrays(pa.array([0] * len(batch), pa.int8()), pa.array(["x" * 2**20]))
    with pytest.raises(FrameError, match="would unpack to 1,0"):
        check_unpacked_size(encode(replace_columns(batch, {"device": long})), 2**20)


def stream(batches: list[pa.RecordBatch], compression: str | None) -> bytes:
    """An Arrow stream of these batches."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, JOB_SCHEMA, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(memoryview(sink.getvalue()))


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (stream([], "zstd"), "0 batches of rows"),
        (stream([JOBS, JOBS], "zstd"), "2 batches of rows"),
        (stream([JOBS], None), "not packed"),
        (b"", "0 batches of rows"),
    ],
)
def test_a_stream_that_is_no_frame_is_refused(frame: bytes, problem: str) -> None:
    """A frame is one batch; what is not packed might be, in a way of old that hides its size."""
    with pytest.raises(FrameError, match=problem):
        decode(frame, JOB_SCHEMA)
