"""Chunks hold every job once, agree in shape, stay within their bounds and are large whatever the order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq import planner, readers
from fitq.planner import Chunk, plan
from fitq_shared.frames import JOB_SCHEMA, SHAPE_COLUMNS
from fitq_shared.jobs import MAX_SAMPLES

Fields = dict[str, Any]


def planned(jobs: list[Fields]) -> list[Chunk]:
    return list(plan(readers.from_jobs(jobs)))


def shapes(chunk: Chunk) -> set[tuple[Any, ...]]:
    columns = [chunk.frame[name].to_pylist() for name in SHAPE_COLUMNS]
    return set(zip(*columns, chunk.frame["polynomial"].is_valid().to_pylist(), strict=True))


def explicit(points: int = 3, **fields: Any) -> Fields:
    return {"x": list(range(points)), "y": [1.0] * points, **fields}


def generated(**fields: Any) -> Fields:
    return {"polynomial": [1.0, 2.0], **fields}


def test_jobs_of_one_shape_fill_whole_chunks() -> None:
    """Numeric hyperparameters do not split a chunk."""
    chunks = planned([generated(lr=0.1 / (number + 1), steps=number + 1, seed=number) for number in range(20_000)])
    assert [(chunk.number, chunk.jobs) for chunk in chunks] == [(0, 8192), (1, 8192), (2, 3616)]


def test_shapes_in_random_order_make_large_chunks() -> None:
    """Sixteen shapes shuffled over many batches end in one chunk each."""
    random = np.random.default_rng(0)
    jobs = [generated(degree=int(degree), basis=str(basis)) for degree, basis in zip(
        random.integers(1, 9, 20_000), random.choice(["power", "orthogonal"], 20_000), strict=True)]  # fmt: skip
    chunks = planned(jobs)
    assert len(chunks) == 16
    assert all(len(shapes(chunk)) == 1 for chunk in chunks)


def test_explicit_and_generated_samples_are_never_mixed() -> None:
    """They take different paths through the engine."""
    assert [chunk.jobs for chunk in planned([generated(), explicit()] * 5)] == [5, 5]


@pytest.mark.parametrize(
    ("job", "jobs", "largest"),
    [
        (explicit(points=MAX_SAMPLES), 8, 3),
        (generated(samples={"count": MAX_SAMPLES}), 8, 3),
        (generated(steps=1_000_000, trace="full"), 20, 8),
        (generated(degree=30, steps=1_000_000), 40, 16),
    ],
)
def test_chunks_are_cut_by_samples_traces_and_time(job: Fields, jobs: int, largest: int) -> None:
    """Each load has its bound: bytes of samples, bytes of traces, predicted seconds."""
    chunks = planned([job] * jobs)
    assert sum(chunk.jobs for chunk in chunks) == jobs
    assert max(chunk.jobs for chunk in chunks) == largest


def test_a_job_over_every_bound_is_a_chunk_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be cut further and must not be lost or block the others."""
    monkeypatch.setattr(planner, "MAX_CHUNK_SAMPLES_BYTES", 240)
    chunks = planned([explicit(2), explicit(50), explicit(2)])
    assert [chunk.frame["index"].to_pylist() for chunk in chunks] == [[0], [1], [2]]


def test_what_waits_is_bounded() -> None:
    """Many shapes that never fill a chunk are handed on before the input ends."""
    taken = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield from readers.from_jobs([generated(degree=number % 31, trace=f"every:{number + 1}")] * 4096)

    next(plan(batches()))
    assert taken * 4096 <= (planner.MAX_WAITING_CHUNKS + 1) * planner.MAX_CHUNK_JOBS


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
        patch.setattr(planner, "MAX_CHUNK_JOBS", 16)
        patch.setattr(planner, "MAX_CHUNK_SAMPLES_BYTES", 24 * 100)
        patch.setattr(planner, "MAX_WAITING_CHUNKS", 2.0)
        chunks = list(plan(batches))
    found = sorted((row for chunk in chunks for row in chunk.frame.to_pylist()), key=lambda row: int(row["index"]))
    assert found == table.to_pylist()
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert all(len(shapes(chunk)) == 1 and chunk.jobs == chunk.frame.num_rows <= 16 for chunk in chunks)
    assert all(chunk.frame["index"].to_pylist() == sorted(chunk.frame["index"].to_pylist()) for chunk in chunks)
