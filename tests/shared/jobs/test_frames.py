"""Jobs become frames and come back; frames of another kind or version are refused."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fitq_shared.errors import FrameError
from fitq_shared.jobs.columns import replace_columns
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


def changed(**columns: pa.Array) -> bytes:
    """A frame of JOBS with some of its columns exchanged, without a look at what they hold."""
    return encode(replace_columns(jobs_batch(JOBS), columns))


def test_lists_that_reach_beyond_their_values_are_refused() -> None:
    """Native code would follow them."""
    offsets = pa.py_buffer(np.array([0, 10**6, 10**6, 3], np.int32))
    far = pa.Array.from_buffers(pa.list_(pa.float64()), 3, [None, offsets], children=[pa.array([1.0, 2.0, 3.0])])
    with pytest.raises(FrameError, match="not an Arrow IPC frame"):
        decode(changed(x=far), JOB_SCHEMA)


def test_a_word_that_its_dictionary_does_not_have_is_refused() -> None:
    """Native code would follow it."""
    results = decode((FRAMES / f"results-{FRAME_VERSION}.arrow").read_bytes(), RESULT_SCHEMA)
    words = pa.DictionaryArray.from_arrays(pa.array([99] * len(results), pa.int8()), pa.array(["cpu"]), safe=False)
    with pytest.raises(FrameError, match="not an Arrow IPC frame"):
        decode(encode(replace_columns(results, {"device": words})), RESULT_SCHEMA)


@pytest.mark.parametrize("text", [b"\xff\xff\xff", b"\xff" * 9])
def test_text_that_is_no_utf_8_is_refused(text: bytes) -> None:
    """Where rows differ, and where they say the same."""
    offsets = pa.py_buffer(np.arange(4, dtype=np.int32) * (len(text) // 3))
    column = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(text)])
    with pytest.raises(FrameError, match="not an Arrow IPC frame"):
        decode(changed(basis=column), JOB_SCHEMA)


def test_a_missing_position_or_id_is_refused() -> None:
    """Neither can be told from the rest."""
    for name, kind in (("index", pa.int64()), ("id", pa.string())):
        fields = [field.with_nullable(field.name != "id" and field.name != "index") for field in JOB_SCHEMA]
        batch = jobs_batch(JOBS)
        arrays = [pa.nulls(3, kind) if field.name == name else batch[field.name] for field in fields]
        lacking = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, JOB_SCHEMA.metadata))
        with pytest.raises(FrameError, match=f"{name} is missing in a row"):
            decode(encode(lacking), JOB_SCHEMA)


def test_columns_of_other_types_are_refused() -> None:
    """Their names alone do not make a frame."""
    place = JOB_SCHEMA.get_field_index("degree")
    batch = jobs_batch(JOBS)
    other = batch.set_column(place, pa.field("degree", pa.float64()), pa.array([1.0] * 3))
    with pytest.raises(FrameError, match="columns of the frame are not those of jobs version 4"):
        decode(encode(other.replace_schema_metadata(JOB_SCHEMA.metadata)), JOB_SCHEMA)


def test_the_version_of_another_program_may_be_any_bytes() -> None:
    """The message shows what can be shown."""
    metadata = {b"fitq.kind": b"\xff\xfe", b"fitq.version": b"\x80"}
    with pytest.raises(FrameError, match="frame is \ufffd\ufffd version \ufffd, expected jobs"):
        decode(encode(jobs_batch(JOBS).replace_schema_metadata(metadata)), JOB_SCHEMA)


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
