"""Jobs at the limits of the job model, and beyond them: every way of checking must agree."""

from __future__ import annotations

from typing import Any, cast

import pytest

from fitq_shared.jobs.fields import MAX_DEGREE, MAX_SAMPLES, MAX_SAMPLES_BUT_MSE, MAX_STEPS
from fitq_shared.jobs.job import Samples

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


@pytest.fixture
def fine() -> list[dict[str, Any]]:
    """Fields of jobs that obey every rule, at the limits of some."""
    return FINE


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Fields of a job that breaks one rule."""
    return cast("dict[str, Any]", request.param)
