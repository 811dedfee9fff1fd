"""What a job may say, and what is said of one that breaks a rule."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs import MAX_DEGREE, MAX_SAMPLES, MAX_STEPS, FitJob, Samples, job_from_json, job_from_mapping

XY: dict[str, Any] = {"x": [0.0, 1.0, 2.0], "y": [1.0, 2.0, 3.0]}


def test_defaults_are_those_of_the_notebook_but_for_the_basis() -> None:
    """NAdam, lr 0.01, 1000 steps, mean of squares, degree 2."""
    job = FitJob(**XY).checked()
    assert (job.degree, job.optimizer, job.effective_lr, job.steps, job.loss) == (2, "nadam", 0.01, 1000, "mse")
    assert job.basis == "orthogonal"


def test_a_job_is_read_from_json_as_from_a_mapping() -> None:
    """Integers are numbers too, and null is a missing sample."""
    fields = {"id": "a", "x": [0, 1, None], "y": [1, 2, 3], "degree": 1}
    assert job_from_json(json.dumps(fields)) == job_from_mapping(fields)


def test_fields_that_a_line_does_not_give_come_from_the_defaults() -> None:
    """What the line gives wins."""
    job = job_from_json('{"x": [0, 1], "y": [1, 2], "degree": 1}', defaults={"degree": 3, "steps": 7})
    assert (job.degree, job.steps) == (1, 7)


def test_arrays_are_taken_as_lists() -> None:
    """Scripts hold their samples in numpy, and give them in a FitJob or in a dictionary."""
    arrays: dict[str, Any] = {"x": np.array([0.0, 1.0]), "y": np.array([1.0, 2.0])}
    for job in (FitJob(**arrays, degree=1).checked(), job_from_mapping({**arrays, "degree": 1})):
        assert (job.x, job.y) == ([0.0, 1.0], [1.0, 2.0])


def test_samples_made_in_python_are_checked_too() -> None:
    """Constructing them checks nothing, as with jobs."""
    with pytest.raises(JobError, match=r"samples.count = 0: expected `int` >= 1"):
        FitJob(polynomial=[1.0], samples=Samples(count=0)).checked()


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({**XY, "degree": MAX_DEGREE + 1}, "degree", "<= 30"),
        ({**XY, "degree": -1}, "degree", ">= 0"),
        ({**XY, "degree": 1.5}, "degree", "expected `int`, got `float`"),
        ({**XY, "degree": "two"}, "degree", "expected `int`, got `str`"),
        ({**XY, "steps": MAX_STEPS + 1}, "steps", "<= 1000000"),
        ({**XY, "steps": 0}, "steps", ">= 1"),
        ({**XY, "lr": 0}, "lr", "> 0"),
        ({**XY, "lr": math.inf}, "lr", "finite numbers"),
        ({**XY, "tolerance": math.nan}, "tolerance", ""),
        ({**XY, "basis": "fourier"}, "basis", "expected one of orthogonal, chebyshev, legendre, power"),
        ({**XY, "loss": "hinge"}, "loss", "expected one of mse, huber, l1, log_cosh"),
        ({**XY, "optimizer": "lion"}, "optimizer", "expected one of nadam, adam, adamw"),
        ({**XY, "trace": "points:1"}, "trace", "expected none, full, every:K or points:N with N >= 2"),
        ({**XY, "seed": -1}, "seed", ">= 0"),
        ({**XY, "id": "x" * 201}, "id", "<= 200"),
        ({**XY, "init": [1.0]}, "init", "degree + 1 = 3 numbers"),
        ({**XY, "init": [1.0, math.nan, 0.0]}, "init", "finite numbers"),
        ({**XY, "weights": [1.0]}, "weights", "one weight for each point of x"),
        ({**XY, "polynomial": [1.0]}, "polynomial", "either x and y or a polynomial"),
        ({**XY, "samples": {}}, "samples", "samples describe how a polynomial is drawn"),
        ({**XY, "y": [1.0]}, "y", "lists of the same length"),
        ({"x": [1.0]}, "y", "lists of the same length"),
        ({"y": [1.0]}, "y", "lists of the same length"),
        ({}, "x", "give x and y, or a polynomial"),
        ({"x": ["a"], "y": [1]}, "x[0]", "expected `float | null`, got `str`"),
        ({"polynomial": []}, "polynomial", "length >= 1"),
        ({"polynomial": [math.inf]}, "polynomial", "finite numbers"),
        ({"polynomial": [1.0], "samples": {"count": MAX_SAMPLES + 1}}, "samples.count", "<= 100000"),
        ({"polynomial": [1.0], "samples": {"noise": -1}}, "samples.noise", ">= 0"),
        ({"polynomial": [1.0], "samples": {"size": 3}}, "samples.size", "no such field; known are count, spread"),
        ({**XY, "learning_rate": 0.1}, "learning_rate", "no such field; known are id, x, y"),
    ],
)
def test_a_broken_rule_is_named_with_place_job_field_and_rule(fields: dict[str, object], field: str, rule: str) -> None:
    """Whoever wrote the line can mend it without looking anything up."""
    with pytest.raises(JobError) as caught:
        job_from_mapping({"id": "cal-17", **fields}, place="jobs.jsonl:3")
    assert caught.value.field == field
    assert rule in caught.value.rule
    assert str(caught.value).startswith(f"jobs.jsonl:3: job {caught.value.job!r}: {field} = ")


def test_too_many_points_are_refused_with_a_shortened_value() -> None:
    """The message does not repeat a hundred thousand numbers."""
    numbers = [0.0] * (MAX_SAMPLES + 1)
    with pytest.raises(JobError, match="at most 100000 points a job") as caught:
        FitJob(x=numbers, y=numbers).checked()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("line", ["{", "", "[1]", "3", '{"x": NaN}', b"\xff"])
def test_a_line_that_is_no_job_is_an_input_error(line: str | bytes) -> None:
    """The place is in the message."""
    with pytest.raises(InputError, match=r"^jobs.jsonl:9: not a "):
        job_from_json(line, place="jobs.jsonl:9")


def test_drawn_samples_follow_the_polynomial() -> None:
    """Without noise y is the polynomial's value, the highest power first."""
    x, y = FitJob(polynomial=[1, 2, 3], samples=Samples(count=50, spread=2.0), seed=4).draw()
    assert x.shape == (50,)
    assert x.dtype == np.float64
    np.testing.assert_allclose(y, np.polyval([1, 2, 3], x), rtol=1e-14)


def test_samples_may_have_a_seed_of_their_own() -> None:
    """Jobs with different starting points then share one sample set."""
    own, other = (FitJob(polynomial=[1.0], seed=seed, samples=Samples(seed=5)).draw()[0] for seed in (1, 2))
    assert (own == other).all()
    assert (own != FitJob(polynomial=[1.0], seed=1).draw()[0]).all()


def test_a_job_with_samples_of_its_own_draws_none() -> None:
    """There is nothing to draw from."""
    with pytest.raises(JobError, match="only a job with a polynomial"):
        FitJob(**XY).draw()


def test_exact_goes_with_least_squares_only() -> None:
    """There is no closed form of the other losses."""
    with pytest.raises(JobError, match="exact solves least squares"):
        FitJob(x=[1.0, 2.0], y=[1.0, 2.0], degree=1, optimizer="exact", loss="huber").checked()
