"""The rules for whole columns never pass a job that the rules for single jobs refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitq_shared.errors import JobError
from fitq_shared.jobs.column_rules import obey_rules
from fitq_shared.jobs.fields import MAX_DEGREE, MAX_SAMPLES, MAX_SAMPLES_BUT_MSE, MAX_STEPS
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob, Samples

INF, NAN = float("inf"), float("nan")
XY: dict[str, Any] = {"x": [0.0, 1.0, 2.0], "y": [1.0, 2.0, 3.0]}
DRAWN: dict[str, Any] = {"polynomial": [1.0, 2.0]}
TOO_MANY = [0.0] * (MAX_SAMPLES + 1)

FINE: list[dict[str, Any]] = [
    XY,
    {**XY, "weights": [1.0, 0.0, NAN], "id": "x" * 200, "degree": MAX_DEGREE, "steps": MAX_STEPS},
    {"x": [None, INF], "y": [NAN, 1.0], "trace": "every:10", "ftol": 0.0, "gtol": 1e-9},
    {"x": [], "y": []},
    {"x": [0.0] * 1_000_000, "y": [0.0] * 1_000_000, "optimizer": "exact"},
    {"x": [0.0] * MAX_SAMPLES_BUT_MSE, "y": [0.0] * MAX_SAMPLES_BUT_MSE, "optimizer": "exact", "loss": "l1"},
    {**DRAWN, "samples": Samples(count=MAX_SAMPLES_BUT_MSE), "loss": "huber", "restarts": 10, "steps": MAX_STEPS},
    {**DRAWN, "samples": Samples(count=MAX_SAMPLES_BUT_MSE), "loss": "huber", "restarts": 333},
    {**XY, "restarts": 67, "steps": MAX_STEPS, "trace": "full"},
    {**XY, "loss": "huber", "delta_sigma": 1.5},
    {**DRAWN, "samples": Samples(count=MAX_SAMPLES, noise=0.0, seed=2**63 - 1), "seed": 2**63 - 1},
    {"polynomial": [1.0] * (MAX_DEGREE + 1), "optimizer": "sgd", "momentum": 0.5, "nesterov": True},
    {**XY, "init": [1.0, 2.0, 3.0], "lr": 1e-300, "eps": 1e300, "loss": "huber"},
    {**XY, "init": "exact", "optimizer": "adamw"},
]
BROKEN: list[dict[str, Any]] = [
    {},
    {"x": [1.0]},
    {"y": [1.0]},
    {"x": [1.0], "y": [1.0, 2.0]},
    {"x": TOO_MANY, "y": TOO_MANY},
    {"x": [0.0] * (MAX_SAMPLES_BUT_MSE + 1), "y": [0.0] * (MAX_SAMPLES_BUT_MSE + 1), "loss": "huber"},
    {**DRAWN, "samples": Samples(count=MAX_SAMPLES_BUT_MSE + 1), "loss": "log_cosh", "optimizer": "exact"},
    {**DRAWN, "samples": Samples(count=MAX_SAMPLES_BUT_MSE), "loss": "huber", "restarts": 11, "steps": MAX_STEPS},
    {**DRAWN, "samples": Samples(count=MAX_SAMPLES_BUT_MSE), "loss": "huber", "restarts": 334},
    {**XY, "restarts": 68, "steps": MAX_STEPS, "trace": "full"},
    {**XY, "loss": "huber", "delta": 2.0, "delta_sigma": 1.5},
    {**XY, **DRAWN},
    {**DRAWN, "x": [1.0]},
    {**DRAWN, "y": [1.0]},
    {**DRAWN, "weights": [1.0]},
    {**XY, "weights": [1.0]},
    {**XY, "samples": Samples()},
    {"polynomial": []},
    {"polynomial": [1.0] * (MAX_DEGREE + 2)},
    *({**DRAWN, "polynomial": [1.0, bad]} for bad in (INF, NAN, None)),
    *({**DRAWN, "samples": Samples(count=bad)} for bad in (0, MAX_SAMPLES + 1)),
    *({**DRAWN, "samples": Samples(spread=bad)} for bad in (0.0, INF)),
    *({**DRAWN, "samples": Samples(noise=bad)} for bad in (-1.0, INF)),
    {**DRAWN, "samples": Samples(seed=-1)},
    {**XY, "init": [1.0]},
    *({**XY, "init": [1.0, 2.0, bad]} for bad in (INF, NAN, None)),
    {**XY, "nesterov": True},
    {**XY, "id": "x" * 201},
    *({**XY, "trace": bad} for bad in ("", "points:1", "every:0", "none ", "fuller")),
    *({**XY, name: "other"} for name in ("basis", "loss", "optimizer", "schedule", "dtype")),
    *({**XY, "degree": bad} for bad in (-1, MAX_DEGREE + 1)),
    *({**XY, name: bad} for name in ("steps", "step_size", "patience") for bad in (0, MAX_STEPS + 1)),
    *({**XY, "restarts": bad} for bad in (0, 1001)),
    {**XY, "seed": -1},
    *({**XY, name: bad} for name in ("delta", "gamma", "lr", "eps") for bad in (0.0, INF)),
    *(
        {**XY, name: bad}
        for name in ("ridge", "weight_decay", "momentum_decay", "ftol", "gtol", "tolerance")
        for bad in (-1e-9, INF)
    ),
    *({**XY, name: bad} for name in ("beta1", "beta2", "momentum", "smoothing") for bad in (-0.1, 1.0)),
]


@pytest.mark.parametrize("fields", BROKEN)
def test_a_job_that_breaks_a_rule_is_doubted(fields: dict[str, Any]) -> None:
    """Alone, between jobs that are fine, and in a slice."""
    job = FitJob(**fields)
    with pytest.raises(JobError):
        job.checked()
    assert obey_rules(jobs_batch([job])).tolist() == [False]
    several = jobs_batch([FitJob(**XY), job, FitJob(**DRAWN)])
    assert obey_rules(several).tolist() == [True, False, True]
    assert obey_rules(several.slice(1)).tolist() == [False, True]


def test_jobs_at_their_limits_are_not_doubted() -> None:
    """Else they would be read one by one, which takes ten times as long."""
    jobs = [FitJob(**fields).checked() for fields in FINE]
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
