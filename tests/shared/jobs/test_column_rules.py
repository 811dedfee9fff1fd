"""The rules for whole columns never pass a job that the rules for single jobs refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitq_shared.errors import JobError
from fitq_shared.jobs.column_rules import obey_rules
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob

INF, NAN = float("inf"), float("nan")
XY: dict[str, Any] = {"x": [0.0, 1.0, 2.0], "y": [1.0, 2.0, 3.0]}
DRAWN: dict[str, Any] = {"polynomial": [1.0, 2.0]}


def test_a_job_that_breaks_a_rule_is_doubted(broken: dict[str, Any]) -> None:
    """Alone, between jobs that are fine, and in a slice."""
    job = FitJob(**broken)
    with pytest.raises(JobError):
        job.checked()
    assert obey_rules(jobs_batch([job])).tolist() == [False]
    several = jobs_batch([FitJob(**XY), job, FitJob(**DRAWN)])
    assert obey_rules(several).tolist() == [True, False, True]
    assert obey_rules(several.slice(1)).tolist() == [False, True]


def test_jobs_at_their_limits_are_not_doubted(fine: list[dict[str, Any]]) -> None:
    """Else they would be read one by one, which takes ten times as long."""
    jobs = [FitJob(**fields).checked() for fields in fine]
    assert obey_rules(jobs_batch(jobs)).all()


def test_values_under_a_null_are_no_values() -> None:
    """Arrow lets a null stand over numbers; they belong to no job."""
    jobs = jobs_batch([FitJob(**XY), FitJob(**DRAWN), FitJob(polynomial=[INF])])
    lists = pa.array([0, 1, 3, 4], pa.int32()), pa.array([NAN, 1.0, 2.0, INF])
    polynomials = pa.ListArray.from_arrays(*lists, mask=pa.array([True, False, False]))
    jobs = jobs.set_column(jobs.schema.names.index("polynomial"), jobs.schema.field("polynomial"), polynomials)
    assert obey_rules(jobs).tolist() == [True, True, False]


def test_no_jobs_are_no_doubts() -> None:
    """An empty batch has no row to be about."""
    assert obey_rules(jobs_batch([FitJob(**XY)]).slice(1)).shape == (0,)
    assert obey_rules(jobs_batch([FitJob(**XY)])).dtype == np.bool_
