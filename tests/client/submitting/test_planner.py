"""Rowss hold every job once, agree in shape, stay within their bounds and are large whatever the order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq import readers
from fitq.submitting import budgets, planner
from fitq.submitting.planner import plan
from fitq_shared.jobs.fields import MAX_SAMPLES_BUT_MSE
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import JOB_SCHEMA, SETS_SCHEMA, SHAPE_COLUMNS

Fields = dict[str, Any]


def planned(jobs: list[Fields]) -> list[Rows]:
    return list(plan(readers.from_jobs(jobs)))


def shapes(chunk: Rows) -> set[tuple[Any, ...]]:
    columns = [chunk.jobs[name].to_pylist() for name in SHAPE_COLUMNS]
    return set(zip(*columns, chunk.jobs["polynomial"].is_valid().to_pylist(), strict=True))


def unshared(chunk: Rows) -> pa.RecordBatch:
    """The jobs with their sample sets in their own rows again."""
    if chunk.sets is None:
        return chunk.jobs
    sets = chunk.jobs["sample_set"]
    columns = {
        name: pc.if_else(sets.is_valid(), chunk.sets[name].take(sets), chunk.jobs[name]) for name in SETS_SCHEMA.names
    }
    columns["sample_set"] = pa.nulls(len(chunk.jobs), pa.int32())
    return pa.RecordBatch.from_arrays([columns.get(name, chunk.jobs[name]) for name in JOB_SCHEMA.names], schema=JOB_SCHEMA)


def explicit(points: int = 3, **fields: Any) -> Fields:
    return {"x": list(range(points)), "y": [1.0] * points, **fields}


def generated(**fields: Any) -> Fields:
    return {"polynomial": [1.0, 2.0], **fields}


def test_jobs_of_one_shape_make_small_chunks_first_and_last() -> None:
    """Numeric hyperparameters do not split a chunk; the first result comes early and several workers end together."""
    chunks = planned([generated(lr=0.1 / (number + 1), steps=number % 7 + 1, seed=number) for number in range(20_000)])
    assert [len(chunk.jobs) for chunk in chunks] == [1024, 4096, 7440, 4096, 3344]


def test_chunks_in_the_middle_are_full() -> None:
    """What a chunk costs whatever it holds is spread over many jobs."""
    chunks = [len(chunk.jobs) for chunk in plan(readers.from_recipe([1, 2, 3], 200_000))]
    assert chunks[:3] == [1024, 4096, 16384]
    assert chunks[3:7] == [32768] * 4
    assert chunks[7:] == sorted(chunks[7:], reverse=True)


def test_a_small_submission_is_one_chunk() -> None:
    """Cutting it would cost more than several workers save."""
    assert [len(chunk.jobs) for chunk in planned([generated()] * 1000)] == [1000]


def test_chunks_do_not_depend_on_the_batches_they_come_in() -> None:
    """Who submits the same jobs again, to complete what is missing, gets the same chunks."""
    table = pa.Table.from_batches(readers.from_recipe([1, 2, 3], 50_000))
    small, large = (list(plan(table.to_batches(max_chunksize=size))) for size in (1000, 50_000))
    assert [chunk.jobs for chunk in small] == [chunk.jobs for chunk in large]


def test_shapes_in_random_order_make_large_chunks() -> None:
    """Fifty shapes of degrees, losses and optimizers, shuffled over many batches, end in one or two chunks each."""
    random = Random(0)
    optimizers = ["adam", "nadam", "sgd", "rmsprop", "lbfgs"]
    choices = [(1, 2, 3, 4, 5), ("mse", "huber"), optimizers]
    names = ("degree", "loss", "optimizer")
    jobs = [generated(**dict(zip(names, map(random.choice, choices), strict=True)), steps=5) for _ in range(20_000)]
    chunks = planned(jobs)
    assert all(len(shapes(chunk)) == 1 for chunk in chunks)
    assert 50 <= len(chunks) <= 60


def test_explicit_and_generated_samples_are_never_mixed() -> None:
    """They take different paths through the engine."""
    assert [len(chunk.jobs) for chunk in planned([generated(), explicit()] * 5)] == [5, 5]


@pytest.mark.parametrize(
    ("job", "jobs", "largest"),
    [
        (generated(samples={"count": MAX_SAMPLES_BUT_MSE}), 14, 6),
        (generated(steps=1_000_000, trace="full"), 20, 8),
        (generated(degree=30, steps=1_000_000), 80, 23),
        (generated(loss="huber"), 2000, 754),
    ],
)
def test_chunks_are_cut_by_samples_traces_and_time(job: Fields, jobs: int, largest: int) -> None:
    """Each load has its bound: bytes of samples, bytes of traces, predicted seconds."""
    chunks = planned([job] * jobs)
    assert sum(len(chunk.jobs) for chunk in chunks) == jobs
    assert max(len(chunk.jobs) for chunk in chunks) == largest


def test_a_sweep_over_one_large_sample_set_is_one_small_chunk() -> None:
    """Only different sets count as payload."""
    batch = pa.concat_batches(
        readers.from_jobs([explicit(points=MAX_SAMPLES_BUT_MSE, lr=0.01 * (number + 1)) for number in range(5)])
    )
    chunks = list(plan([batch] * 240))
    assert sum(len(chunk.jobs) for chunk in chunks) == 1200
    assert [chunk.sets and len(chunk.sets) for chunk in chunks] == [1, 1]
    assert unshared(chunks[1]).slice(len(chunks[1].jobs) - 5) == batch


def test_different_large_sample_sets_are_cut_by_their_bytes() -> None:
    """A chunk never holds more than its payload."""
    jobs = [explicit(points=MAX_SAMPLES_BUT_MSE - number) for number in range(14)]
    assert [len(chunk.jobs) for chunk in planned(jobs)] == [6, 6, 2]


def test_a_job_over_every_bound_is_a_chunk_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be cut further and must not be lost or block the others."""
    monkeypatch.setattr(budgets, "MAX_CHUNK_SAMPLES_BYTES", 240)
    chunks = planned([explicit(2), explicit(50), explicit(2)])
    assert [chunk.jobs["index"].to_pylist() for chunk in chunks] == [[0], [1], [2]]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many shapes that never fill a chunk are handed on before the input ends."""
    monkeypatch.setattr(budgets, "MAX_CHUNK_JOBS", 4096)
    taken = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield from readers.from_jobs([generated(degree=number % 31, trace=f"every:{number + 1}")] * 4096)

    next(plan(batches()))
    assert taken * 4096 <= (planner.MAX_WAITING_CHUNKS + 1) * budgets.MAX_CHUNK_JOBS


jobs = st.one_of(
    st.builds(explicit, points=st.integers(0, 40), degree=st.integers(0, 2), trace=st.sampled_from(["none", "full"])),
    st.builds(
        generated, degree=st.integers(0, 2), steps=st.integers(1, 1000), basis=st.sampled_from(["power", "orthogonal"])
    ),
)


@given(st.lists(st.lists(jobs, min_size=1, max_size=30), max_size=8))
def test_every_job_is_in_exactly_one_chunk(lists: list[list[Fields]]) -> None:
    """Whatever the shapes, batches and bounds: no job is lost, doubled, changed or in a chunk of another shape."""
    table = pa.Table.from_batches(readers.from_jobs([job for jobs in lists for job in jobs]), JOB_SCHEMA)
    cuts = np.cumsum([0, *(len(jobs) for jobs in lists)])
    batches = [batch for start, end in itertools.pairwise(cuts) for batch in table.slice(start, end - start).to_batches()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budgets, "MAX_CHUNK_JOBS", 16)
        patch.setattr(budgets, "MAX_CHUNK_SAMPLES_BYTES", 24 * 100)
        patch.setattr(planner, "MAX_WAITING_CHUNKS", 2.0)
        chunks = list(plan(batches))
    found = sorted((row for chunk in chunks for row in unshared(chunk).to_pylist()), key=lambda row: int(row["index"]))
    assert found == table.to_pylist()
    assert all(len(shapes(chunk)) == 1 and len(chunk.jobs) <= 16 for chunk in chunks)
    assert all(chunk.jobs["index"].to_pylist() == sorted(chunk.jobs["index"].to_pylist()) for chunk in chunks)
