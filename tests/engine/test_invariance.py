"""The same job gives the same bits: alone, in any batch, eager or compiled."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fitq_shared.jobs.fields import Basis, Loss
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.schemas import SETS_SCHEMA
from fitq_worker.engine import Fitted, fit
from fitq_worker.engine.arithmetic import square_root, tree_sum

#: id -> (result, trace)
Rows = dict[str, tuple[dict[str, Any], dict[str, Any]]]

RANDOM = np.random.default_rng(3)


def explicit_job(number: int, basis: Basis, loss: Loss) -> FitJob:
    """A job with its own number of samples, steps and hyperparameters."""
    count = int(RANDOM.integers(3, 60))
    x = RANDOM.normal(size=count) * 5
    y = x**2 + RANDOM.normal(size=count)
    return FitJob(
        id=f"e{number}",
        x=x.tolist(),
        y=y.tolist(),
        seed=number,
        basis=basis,
        loss=loss,
        steps=40 + number % 5,
        lr=0.01 + number / 1000,
    )


def mixed_jobs(basis: Basis, loss: Loss) -> list[FitJob]:
    """Explicit and generated jobs, ragged, with different steps, and sick ones between them."""
    jobs = [explicit_job(number, basis, loss) for number in range(40)]
    jobs += [
        FitJob(
            polynomial=[1, 2, 3], seed=number, basis=basis, loss=loss, steps=45, samples=Samples(count=5 + number, noise=0.3)
        )
        for number in range(30)
    ]
    sick: list[list[float | None]] = [[], [1.0], [2.0, 2.0, 2.0, 2.0], [None, 1.0, 2.0, 3.0], [1e300, 1.0, 2.0, 3.0]]
    jobs += [FitJob(id=f"s{n}", x=x, y=list(x), basis=basis, loss=loss, steps=41) for n, x in enumerate(sick)]
    return [job.checked() for job in jobs]


def rows(fitted: Fitted) -> Rows:
    """Result and trace of each job by id, without the batch around them."""
    traces = {row["id"]: row for row in fitted.traces.drop_columns("index").to_pylist()}
    return {row["id"]: (row, traces[row["id"]]) for row in fitted.results.drop_columns("index").to_pylist()}


@pytest.fixture(
    scope="module",
    params=[("orthogonal", "mse"), ("power", "mse"), ("orthogonal", "huber"), ("legendre", "l1"), ("chebyshev", "log_cosh")],
)
def batch(request: pytest.FixtureRequest) -> tuple[pa.RecordBatch, Rows]:
    """A mixed batch and its fits on the eager path."""
    jobs = jobs_batch(mixed_jobs(*request.param))
    return jobs, rows(fit(jobs, path="eager"))


def test_compiled_and_eager_give_the_same_bits(batch: tuple[pa.RecordBatch, Rows]) -> None:
    """Which path runs is a question of speed alone."""
    jobs, expected = batch

    assert rows(fit(jobs, path="compiled")) == expected


@settings(max_examples=15)
@given(data=st.data(), path=st.sampled_from(["eager", "compiled"]))
def test_any_part_of_a_batch_in_any_order_gives_the_same_bits(
    batch: tuple[pa.RecordBatch, Rows], data: st.DataObject, path: Literal["eager", "compiled"]
) -> None:
    """Alone, split, permuted, repeated neighbours: a job's numbers do not change."""
    jobs, expected = batch
    chosen = data.draw(st.lists(st.integers(0, len(jobs) - 1), min_size=1, max_size=len(jobs), unique=True))

    found = rows(fit(jobs.take(chosen), path=path))

    assert found == {id_: expected[id_] for id_ in found}
    assert len(found) == len(chosen)


@pytest.mark.parametrize("path", ["eager", "compiled"])
def test_jobs_that_share_a_sample_set_give_the_bits_of_jobs_with_their_own(
    batch: tuple[pa.RecordBatch, Rows], path: Literal["eager", "compiled"]
) -> None:
    """A sweep of learning rates over shared sets, sick ones among them, beside jobs that keep or draw their own.

    Some drop the missing points of a set, others of the same set do not.
    """
    jobs = batch[0].take(np.repeat(np.arange(len(batch[0])), 3))
    missing = np.where(np.arange(len(jobs)) % 2, "drop", "invalid")
    lr = 0.01 + 0.001 * np.arange(len(jobs))
    jobs = replaced(jobs, {"id": np.arange(len(jobs)).astype(str), "lr": lr, "missing": missing})
    shares = np.asarray(jobs["x"].is_valid()) & (np.arange(len(jobs)) % 5 > 0)
    sets = batch[0].select(SETS_SCHEMA.names)
    set_of = np.repeat(np.arange(len(sets)), 3)
    nothing = pa.nulls(len(jobs), pa.list_(pa.float64()))
    own = {name: pc.if_else(pa.array(shares), nothing, jobs[name]) for name in SETS_SCHEMA.names}
    sharing = replaced(jobs, own | {"sample_set": pa.array(set_of, pa.int32(), mask=~shares)})

    assert rows(fit(sharing, sets=sets, path=path)) == rows(fit(jobs, path=path))


def replaced(jobs: pa.RecordBatch, columns: dict[str, Any]) -> pa.RecordBatch:
    """The frame with other values in these columns."""
    arrays = [pa.array(columns.get(field.name, jobs[field.name]), field.type) for field in jobs.schema]
    return pa.RecordBatch.from_arrays(arrays, schema=jobs.schema)


def test_sick_neighbours_change_nothing(batch: tuple[pa.RecordBatch, Rows]) -> None:
    """The healthy jobs give the same bits with the sick ones removed."""
    jobs, expected = batch
    healthy = [place for place, id_ in enumerate(jobs["id"].to_pylist()) if not id_.startswith("s")]

    found = rows(fit(jobs.take(healthy), path="eager"))

    assert found == {id_: row for id_, row in expected.items() if not id_.startswith("s")}


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=70),
    zeros=st.integers(0, 70),
    batch_size=st.integers(1, 5),
)
def test_tree_sum_ignores_padding_and_batch(values: list[float], zeros: int, batch_size: int) -> None:
    """Appended zeros and neighbours do not change a bit of a sum."""
    column = torch.tensor(values, dtype=torch.float64)
    padded = torch.zeros(len(values) + zeros, batch_size, dtype=torch.float64)
    padded[: len(values)] = column[:, None]

    assert (tree_sum(padded) == tree_sum(column)).all()
    assert tree_sum(column).item() == pytest.approx(sum(values), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_root_is_correctly_rounded(dtype: torch.dtype) -> None:
    """The engine's root equals numpy's, which IEEE 754 fixes, for a million numbers."""
    values = torch.rand(1_000_000, dtype=dtype) * 1000

    assert np.array_equal(square_root(values).numpy(), np.sqrt(values.numpy()))
