"""Jobs become frames and come back; frames of another kind or version are refused."""

from __future__ import annotations

import runpy
from pathlib import Path

import pyarrow as pa
import pytest

from fitq_shared.errors import FrameError
from fitq_shared.jobs.frames import decode, encode, jobs_batch
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.schemas import FRAME_VERSION, JOB_SCHEMA, READABLE_VERSIONS, RESULT_SCHEMA, SETS_SCHEMA, TRACE_SCHEMA

FRAMES = Path(__file__).parents[2] / "data" / "frames"

JOBS = [
    FitJob(id="explicit", x=[0.0, 1.0, None], y=[1.0, 2.0, 3.0], weights=[1.0, 0.0, 1.0], degree=1, init=[0.5, 0.25]),
    FitJob(polynomial=[1.0, 2.0, 3.0], seed=9),
    FitJob(polynomial=[1.0], samples=Samples(count=7, spread=2.0, noise=0.1, seed=5), seed=9, trace="every:10"),
]


def test_jobs_come_back_from_a_frame_as_they_went_in() -> None:
    """Every column keeps its type and its missing values."""
    batch = jobs_batch(JOBS, first_index=40)
    assert decode(encode(batch), JOB_SCHEMA).equals(batch, check_metadata=True)
    first = batch.to_pylist()[0]
    assert {name: first[name] for name in ("x", "y", "weights", "init", "degree", "polynomial")} == {
        "x": [0.0, 1.0, None],
        "y": [1.0, 2.0, 3.0],
        "weights": [1.0, 0.0, 1.0],
        "init": [0.5, 0.25],
        "degree": 1,
        "polynomial": None,
    }


def test_jobs_are_numbered_and_those_without_an_id_are_named_by_their_number() -> None:
    """Numbers go on from chunk to chunk."""
    batch = jobs_batch(JOBS, first_index=40)
    assert batch["index"].to_pylist() == [40, 41, 42]
    assert batch["id"].to_pylist() == ["explicit", "41", "42"]


def test_a_drawn_sample_set_is_spelt_out() -> None:
    """The worker finds defaults and the seed filled in, and nothing for explicit samples."""
    batch = jobs_batch(JOBS)
    columns = [batch[name].to_pylist() for name in ("count", "spread", "noise", "samples_seed")]
    assert list(zip(*columns, strict=True)) == [(None, None, None, None), (20, 5.0, 0.0, 9), (7, 2.0, 0.1, 5)]


def test_a_frame_of_another_kind_is_refused() -> None:
    """Jobs are no results."""
    with pytest.raises(FrameError, match="frame is jobs version 4, expected results version 4"):
        decode(encode(jobs_batch(JOBS)), RESULT_SCHEMA)


def test_a_frame_of_another_version_is_refused() -> None:
    """The message says what to do."""
    newer = jobs_batch(JOBS).replace_schema_metadata({"fitq.kind": "jobs", "fitq.version": "99"})
    with pytest.raises(FrameError, match=r"jobs version 99, expected jobs version 4; upgrade workers"):
        decode(encode(newer), JOB_SCHEMA)


def test_another_program_s_arrow_is_refused() -> None:
    """No guessing at columns that happen to fit."""
    with pytest.raises(FrameError, match="of no kind version"):
        decode(encode(jobs_batch(JOBS).replace_schema_metadata(None)), JOB_SCHEMA)


@pytest.mark.parametrize("garbage", [b"", b"garbage", encode(jobs_batch(JOBS))[:100]])
def test_bytes_that_are_no_frame_are_refused(garbage: bytes) -> None:
    """Empty, foreign and truncated bytes alike."""
    with pytest.raises(FrameError, match="not an Arrow IPC frame"):
        decode(garbage, JOB_SCHEMA)


def test_frames_are_compressed() -> None:
    """A thousand jobs that differ in the seed alone take less than a fifth of their size in memory."""
    batch = jobs_batch([FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed) for seed in range(1000)])
    assert len(encode(batch)) < batch.get_total_buffer_size() / 5


@pytest.mark.parametrize("version", READABLE_VERSIONS)
@pytest.mark.parametrize(
    ("kind", "schema"),
    [("jobs", JOB_SCHEMA), ("sets", SETS_SCHEMA), ("results", RESULT_SCHEMA), ("traces", TRACE_SCHEMA)],
)
def test_frames_of_every_readable_version_are_read(kind: str, schema: pa.Schema, version: int) -> None:
    """As they were stored by that version; tests/data/frames/write.py made them."""
    stored = (FRAMES / f"{kind}-{version}.arrow").read_bytes()
    written = runpy.run_path(str(FRAMES / "write.py"))["batches"]()[kind]
    assert decode(stored, schema) == written


def test_the_present_version_and_the_one_before_it_are_readable() -> None:
    """From version 4 on, the first that has to be."""
    assert set(READABLE_VERSIONS) == {FRAME_VERSION, max(FRAME_VERSION - 1, 4)}
