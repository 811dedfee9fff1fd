"""What jobs take of a chunk."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fitq import readers
from fitq.submitting.budgets import JOBS, MAX_CHUNK_JOBS, SAMPLES, SECONDS, TRACES, is_small, measure_loads
from fitq.submitting.sample_sets import share_sets
from fitq_shared.jobs.rows import Rows

NOTEBOOK: dict[str, Any] = {"polynomial": [1, 2, 3]}
EXPLICIT: dict[str, Any] = {"x": [1.0] * 60, "y": [2.0] * 60}


def rows_of(*jobs: dict[str, Any]) -> Rows:
    """Checked jobs as rows."""
    return Rows(pa.concat_batches(readers.from_jobs(jobs)))


def test_a_full_chunk_of_the_notebooks_jobs_is_bound_by_their_number() -> None:
    """They are quick and small."""
    load = measure_loads(rows_of(NOTEBOOK))[:, 0] * MAX_CHUNK_JOBS
    assert load[JOBS] == 1
    assert load.max() == 1


@pytest.mark.parametrize(
    "slower", [{"loss": "huber"}, {"optimizer": "lbfgs"}, {"steps": 5000}, {"restarts": 3}, {"degree": 4}]
)
def test_harder_work_is_predicted_to_take_longer(slower: dict[str, Any]) -> None:
    """And `exact`, which makes no steps, to be the quickest."""
    notebook, exact = (measure_loads(rows_of(job))[SECONDS, 0] for job in (NOTEBOOK, {**NOTEBOOK, "optimizer": "exact"}))
    assert exact < notebook < measure_loads(rows_of({**NOTEBOOK, **slower}))[SECONDS, 0]


def test_an_exact_fit_has_no_trace() -> None:
    """Whatever trace the job asks for."""
    assert measure_loads(rows_of({**NOTEBOOK, "optimizer": "exact", "trace": "full"}))[TRACES, 0] == 0


def test_a_shared_sample_set_is_counted_once_but_takes_every_job_its_time() -> None:
    """The payload is shared, the work is not."""
    own = rows_of({**EXPLICIT, "loss": "huber"}, {**EXPLICIT, "loss": "huber", "lr": 0.1})
    both = measure_loads(own), measure_loads(share_sets(own))
    assert [list(load[SAMPLES] > 0) for load in both] == [[True, True], [True, False]]
    assert both[0][SECONDS].tolist() == both[1][SECONDS].tolist()


@pytest.mark.parametrize(
    ("jobs", "small"),
    [
        ([NOTEBOOK], True),
        ([NOTEBOOK] * 1000, True),
        ([{**NOTEBOOK, "optimizer": "lbfgs"}] * 100, False),
        ([{"x": [1.0] * 100_000, "y": [1.0] * 100_000}], False),
        ([{**NOTEBOOK, "steps": 1_000_000, "trace": "full"}], False),
    ],
)
def test_only_chunks_that_are_small_in_everything_are_fitted_with_others(jobs: list[dict[str, Any]], small: bool) -> None:
    """A full batch of them is no more than a full chunk."""
    assert is_small(rows_of(*jobs)) == small
