"""A worker accepts every frame of jobs that a client may submit, and none that would harm it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.errors import FrameError, JobError
from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.fields import MAX_FRAME_JOBS, MAX_SAMPLES, MAX_STEPS
from fitq_shared.jobs.frame_rules import check_jobs, check_positions
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import JOB_SCHEMA, SETS_SCHEMA

XY: dict[str, Any] = {"x": [0.0, 1.0, 2.0], "y": [1.0, 2.0, 3.0]}
DRAWN: dict[str, Any] = {"polynomial": [1.0, 2.0]}
NAN = float("nan")


def jobs_of(*jobs: dict[str, Any]) -> pa.RecordBatch:
    """Jobs as a batch, unchecked."""
    return jobs_batch([FitJob(**job) for job in jobs])


def with_values(jobs: pa.RecordBatch, **columns: list[Any]) -> pa.RecordBatch:
    """The batch with other values in some columns."""
    return replace_columns(jobs, {name: pa.array(values, JOB_SCHEMA.field(name).type) for name, values in columns.items()})


def test_jobs_at_their_limits_are_accepted(fine: list[dict[str, Any]]) -> None:
    """Each is a chunk of its own."""
    for fields in fine:
        check_jobs(Rows(jobs_batch([FitJob(**fields).checked()])))


def test_a_job_that_breaks_a_rule_is_refused(broken: dict[str, Any]) -> None:
    """As by whoever reads it; a worker does not know who wrote a frame."""
    jobs = jobs_of(broken)

    def check() -> None:
        check_jobs(Rows(jobs))
        check_positions(jobs, 1, 0, 0)

    with pytest.raises(FrameError):
        check()


anything = st.fixed_dictionaries(
    {},
    optional={
        "degree": st.integers(-1, 31),
        "steps": st.sampled_from([0, 1, 20, MAX_STEPS, MAX_STEPS + 1]),
        "restarts": st.sampled_from([0, 1, 60, 1000, 1001]),
        "loss": st.sampled_from(["mse", "huber", "l2"]),
        "optimizer": st.sampled_from(["adam", "exact", ""]),
        "trace": st.sampled_from(["none", "full", "points:100", "every:0"]),
        "lr": st.none() | st.floats(),
        "ftol": st.none() | st.floats(),
        "delta": st.floats(),
        "beta1": st.floats(),
        "init": st.none() | st.lists(st.floats(), max_size=4),
        "seed": st.integers(-1, 2**63 - 1),
        "samples": st.builds(Samples, count=st.sampled_from([-1, 0, 1, 100_000, MAX_SAMPLES + 1]), spread=st.floats()),
    },
)


@given(st.sampled_from([XY, DRAWN]), anything)
def test_a_worker_accepts_a_job_exactly_if_a_client_does(samples: dict[str, Any], fields: dict[str, Any]) -> None:
    """Neither lets a job through that the other refuses."""
    job = FitJob(**samples, **fields)
    try:
        job.checked()
    except JobError:
        with pytest.raises(FrameError):
            check_jobs(Rows(jobs_batch([job])))
    else:
        check_jobs(Rows(jobs_batch([job.checked()])))


@pytest.mark.parametrize("name", [field.name for field in JOB_SCHEMA])
def test_a_missing_value_is_accepted_only_where_a_job_may_have_none(name: str) -> None:
    """Anywhere else it is a size, a choice or a number to compute with."""
    optional_ones = {"weights", "delta_sigma", "ftol", "gtol", "init", "tags", "place"}
    for job, absent in ((XY, {"polynomial", "count", "spread", "noise", "samples_seed"}), (DRAWN, {"x", "y"})):
        if name in ("index", "id"):
            continue  # `decode` refuses these
        jobs = jobs_of(job, job)
        lacking = Rows(with_values(jobs, **{name: [None, jobs[name][1].as_py()]}))
        if name in optional_ones | absent | {"sample_set"}:
            check_jobs(lacking)
        else:
            with pytest.raises(FrameError):
                check_jobs(lacking)


@pytest.mark.parametrize("name", ["degree", "basis", "loss", "optimizer", "dtype", "trace"])
def test_jobs_that_differ_in_what_a_tensor_program_fixes_are_refused(name: str) -> None:
    """The first would speak for all."""
    other = {"degree": 3, "basis": "power", "loss": "l1", "optimizer": "adam", "dtype": "float64", "trace": "none"}[name]
    with pytest.raises(FrameError, match=f"all jobs of a chunk have the same {name}"):
        check_jobs(Rows(jobs_of(XY, {**XY, name: other})))


SETS = pa.RecordBatch.from_pylist([{"x": [0.0, 1.0], "y": [1.0, 2.0], "weights": None}] * 2, SETS_SCHEMA)


def shared(*numbers: int | None) -> pa.RecordBatch:
    """Jobs that refer to these sets."""
    nothing: list[Any] = [None] * len(numbers)
    return with_values(jobs_of(*[XY] * len(numbers)), x=nothing, y=nothing, sample_set=list(numbers))


def test_jobs_may_refer_to_the_sets_that_are_there() -> None:
    """To each of them, any number of times."""
    check_jobs(Rows(shared(0, 1, 1), SETS))


@pytest.mark.parametrize("number", [-1, 2, 2**31 - 1])
def test_a_reference_to_a_set_that_is_not_there_is_refused(number: int) -> None:
    """Native code would follow it."""
    with pytest.raises(FrameError, match="refers to a set that is there"):
        check_jobs(Rows(shared(0, number), SETS))
    with pytest.raises(FrameError, match="refers to a set that is there"):
        check_jobs(Rows(shared(0)))


@pytest.mark.parametrize(
    "sets", [{"x": [1.0], "y": [1.0, 2.0]}, {"x": None, "y": None}, {"x": [1.0], "y": [1.0], "weights": []}]
)
def test_shared_sets_with_unequal_lists_are_refused(sets: dict[str, Any]) -> None:
    """As in a job."""
    with pytest.raises(FrameError):
        check_jobs(Rows(shared(0), pa.RecordBatch.from_pylist([sets], SETS_SCHEMA)))


def test_all_that_a_chunk_draws_or_records_is_limited() -> None:
    """A client's chunks hold far less, but for one job of that size."""
    draws = {**DRAWN, "samples": Samples(count=MAX_SAMPLES // 2)}
    check_jobs(Rows(jobs_of(draws, draws)))
    with pytest.raises(FrameError, match="draws at most"):
        check_jobs(Rows(jobs_of(draws, draws, DRAWN)))
    records = {**XY, "steps": MAX_STEPS, "trace": "full"}
    check_jobs(Rows(jobs_of(*[records] * 67)))
    with pytest.raises(FrameError, match="keep at most"):
        check_jobs(Rows(jobs_of(*[records] * 68)))


def test_positions_and_ids_are_those_that_were_submitted() -> None:
    """In any order, each once."""
    jobs = jobs_batch([FitJob(**XY)] * 3, first_index=4)
    check_positions(jobs, 3, 4, 6)
    check_positions(jobs.take([2, 0, 1]), 3, 4, 6)
    for count, first, last in ((2, 4, 6), (4, 4, 7), (3, 4, 7), (3, 3, 6)):
        with pytest.raises(FrameError, match="were submitted"):
            check_positions(jobs, count, first, last)
    for doubled in ({"index": [4, 4, 6]}, {"id": ["a", "b", "a"]}):
        with pytest.raises(FrameError, match="no two jobs have one"):
            check_positions(with_values(jobs, **doubled), 3, 4, 6)
    with pytest.raises(FrameError, match="an id has at most 200 characters"):
        check_positions(with_values(jobs, id=["a", "ä" * 201, "c"]), 3, 4, 6)
    check_positions(with_values(jobs, id=["a", "ä" * 200, "c"]), 3, 4, 6)


def test_a_frame_has_no_more_jobs_than_a_chunk() -> None:
    """Nor none."""
    many = jobs_of(XY).take(pa.array(np.zeros(MAX_FRAME_JOBS + 1, np.int64)))
    for jobs in (many, many.slice(0, 0)):
        with pytest.raises(FrameError, match="1 to 32,768 jobs"):
            check_positions(jobs, len(jobs), 0, 0)


def test_the_limits_are_those_of_the_job_model() -> None:
    """A field with a limit that nobody looks at would be found here."""
    jobs = jobs_of(DRAWN)
    for field in msgspec.structs.fields(FitJob):
        if field.name in JOB_SCHEMA.names and pa.types.is_floating(JOB_SCHEMA.field(field.name).type):
            with pytest.raises(FrameError, match=field.name):
                check_jobs(Rows(with_values(jobs, **{field.name: [NAN]})))
