"""What a job may say, and what is said of one that breaks a rule."""

from __future__ import annotations

import json
import math
import re
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs.fields import MAX_DEGREE, MAX_SAMPLES, MAX_SAMPLES_BUT_MSE, MAX_STEPS
from fitq_shared.jobs.job import FitJob, Samples, defaults_from_mapping, job_from_json, job_from_mapping

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


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"id": 17}, {"id": "17"}),
        ({"id": np.int32(17)}, {"id": "17"}),
        ({"id": 17.0}, {"id": "17"}),
        ({"id": "é".encode()}, {"id": "é"}),
        ({"id": math.nan}, {}),
        ({"degree": 1.0, "steps": np.float32(7), "seed": np.uint8(3)}, {"degree": 1, "steps": 7, "seed": 3}),
        ({"degree": np.array(1), "restarts": Decimal(2)}, {"degree": 1, "restarts": 2}),
        ({"degree": math.nan, "lr": np.float32("nan"), "basis": None, "weights": math.nan, "init": None}, {}),
        ({"degree": np.ma.masked, "lr": Decimal("NaN")}, {}),
        ({"lr": Decimal("0.5"), "ridge": np.float16(0.5)}, {"lr": 0.5, "ridge": 0.5}),
        ({"covariance": 1, "absolute_sigma": 0.0, "nesterov": np.int8(0)}, {"covariance": True}),
        ({"covariance": np.True_, "basis": b"power"}, {"covariance": True, "basis": "power"}),
        ({"x": (0, 1, 2), "y": [np.float32(1), np.int64(2), 3]}, {}),
        ({"x": range(3), "y": np.ma.array([1, 2, 3], mask=[False, True, False])}, {"y": [1.0, None, 3.0]}),
        ({"weights": np.ma.array([1.0, 2.0, 3.0], mask=[True, False, False])}, {"weights": [None, 2.0, 3.0]}),
        ({"x": [0, np.ma.masked, Decimal(2)]}, {"x": [0.0, None, 2.0]}),
        ({"x": [0, math.inf, 2], "init": np.array([1, 2, 3])}, {"x": [0.0, math.inf, 2.0], "init": [1.0, 2.0, 3.0]}),
        ({"samples": {"count": math.nan}}, {}),
    ],
)
def test_values_are_taken_as_people_have_them(given: dict[str, Any], meant: dict[str, Any]) -> None:
    """Numbers and bytes for text, whole floats, 0 and 1 for switches, and every kind of array and of missing value."""
    expected = FitJob(**{**XY, **meant})
    assert FitJob(**{**XY, **given}).checked() == expected
    assert job_from_mapping({**XY, **given}) == expected


def test_whole_floats_in_samples_are_integers() -> None:
    """As in the job itself; what is missing has its default."""
    job = job_from_mapping({"polynomial": (1.0, np.float32(2)), "samples": {"count": 7.0, "spread": math.nan, "seed": None}})
    assert (job.polynomial, job.samples) == ([1.0, 2.0], Samples(count=7))


def test_defaults_fill_what_is_missing() -> None:
    """None and NaN are not given, whether in a line or in a mapping."""
    defaults = {"degree": 1, "lr": 0.5, "gtol": 0.25}
    jobs = (
        job_from_json('{"x": [0, 1], "y": [1, 2], "degree": null, "lr": NaN, "gtol": 0.5}', defaults=defaults),
        job_from_mapping({"x": [0, 1], "y": [1, 2], "degree": math.nan, "lr": None, "gtol": 0.5}, None, defaults),
    )
    assert [(job.degree, job.lr, job.gtol) for job in jobs] == [(1, 0.5, 0.5)] * 2


@pytest.mark.parametrize(
    ("given", "x", "y"),
    [
        ({"x": [1, 2], "y": None}, [1.0, 2.0], [math.nan] * 2),
        ({"x": None, "y": [1, 2]}, [math.nan] * 2, [1.0, 2.0]),
        ({"x": None, "y": None, "polynomial": None}, [], []),
        ({"x": None, "y": None, "weights": [1, 1]}, [math.nan] * 2, [math.nan] * 2),
        ({"x": math.nan, "y": np.ones(1)}, [math.nan], [1.0]),
    ],
)
def test_a_list_that_is_null_is_missing_at_every_point(given: dict[str, Any], x: list[float], y: list[float]) -> None:
    """So that its fit gets a status, and the others are not refused with it."""
    job = job_from_mapping(given)
    np.testing.assert_array_equal(np.array([job.x, job.y]), np.array([x, y]))


@pytest.mark.parametrize("given", [{"x": [1.0]}, {"y": [1.0]}, {"x": None}, {"x": None, "y": [1.0], "weights": [1.0, 1.0]}])
def test_a_list_that_nobody_names_is_an_error(given: dict[str, Any]) -> None:
    """As are lists of different lengths, null or not."""
    with pytest.raises(JobError):
        job_from_mapping(given)
    with pytest.raises(JobError):
        FitJob(**given).checked()


def test_a_polynomial_needs_no_lists() -> None:
    """A table of both kinds of jobs has null lists beside the polynomials."""
    assert job_from_mapping({"x": None, "y": None, "polynomial": [1.0]}) == FitJob(polynomial=[1.0])


def test_json_is_read_as_python_writes_it() -> None:
    """NaN is a missing number, Infinity an infinite one; in a text they are text."""
    job = job_from_json('{"id": "NaN", "x": [NaN, 1, -Infinity], "y": [Infinity, 2, 1e999]}')
    assert job.id == "NaN"
    np.testing.assert_array_equal(np.array([job.x, job.y]), [[math.nan, 1, -math.inf], [math.inf, 2, math.inf]])


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"id": "a", "x": [1], "y": [9], "y": [1]}', "y = [1]"),
        ('{"x": [1], "y": [9], "\\u0079" : [1], "id": "a"}', "y = [1]"),
        ('{"polynomial": [1], "samples": {"count": 5, "seed": 1, "count": 6}, "id": "a"}', "count = 6"),
        ('{"x": [1], "y": [9], "tags": {"b": 1, "b": 1}, "id": "a"}', "b = 1"),
    ],
)
def test_a_key_given_twice_is_refused(line: str, key: str) -> None:
    """Nobody can know which one is meant."""
    with pytest.raises(JobError, match=re.escape(f"jobs.jsonl:9: job 'a': {key}: given before in the same object")):
        job_from_json(line, "jobs.jsonl:9")


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
        ({**XY, "degree": np.float64(1.5)}, "degree", "expected `int`, got `float`"),
        ({**XY, "degree": True}, "degree", "expected `int`, got `bool`"),
        ({**XY, "nesterov": 2}, "nesterov", "expected `bool`, got `int`"),
        ({**XY, "degree": "two"}, "degree", "expected `int`, got `str`"),
        ({**XY, "steps": MAX_STEPS + 1}, "steps", "<= 1000000"),
        ({**XY, "steps": 0}, "steps", ">= 1"),
        ({**XY, "lr": 0}, "lr", "> 0"),
        ({**XY, "lr": math.inf}, "lr", "finite numbers"),
        ({**XY, "tolerance": math.inf}, "tolerance", "finite numbers"),
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
        ({**XY, "samples": {"count": 5}}, "samples", "samples describe how a polynomial is drawn"),
        ({**XY, "y": [1.0]}, "y", "lists of the same length"),
        ({"x": [1.0]}, "y", "lists of the same length"),
        ({"y": [1.0]}, "y", "lists of the same length"),
        ({}, "x", "give x and y, or a polynomial"),
        ({"x": ["a"], "y": [1]}, "x[0]", "expected `float | null`, got `str`"),
        ({"polynomial": []}, "polynomial", "length >= 1"),
        ({"polynomial": [math.inf]}, "polynomial", "finite numbers"),
        ({"polynomial": [1.0], "samples": {"count": MAX_SAMPLES + 1}}, "samples.count", "<= 10000000"),
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


@pytest.mark.parametrize("bad", [b"\xff", 1.5, True, [1], "\ud800"])
def test_an_id_that_is_no_text_is_refused(bad: object) -> None:
    """With the value, for there is no name to say."""
    with pytest.raises(JobError, match="expected text") as caught:
        job_from_mapping({**XY, "id": bad}, place="jobs.jsonl:3")
    assert f"id = {bad!r}: " in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "most", "message"),
    [
        ("mse", MAX_SAMPLES, "10,000,001 points; a job has at most 10,000,000"),
        ("l1", MAX_SAMPLES_BUT_MSE, "100,001 points; with loss l1 at most 100,000, with mse 10,000,000"),
    ],
)
def test_too_many_points_are_refused_with_a_shortened_value(loss: str, most: int, message: str) -> None:
    """The message has the numbers, not the points; one point fewer is fine."""
    numbers = [0.0] * most
    assert len(job_from_mapping({"x": numbers, "y": numbers, "loss": loss}).x or ()) == most
    numbers.append(0.0)
    with pytest.raises(JobError, match=f"{message}$") as caught:
        job_from_mapping({"x": numbers, "y": numbers, "loss": loss})
    assert len(str(caught.value)) < 200


DRAWN: dict[str, Any] = {"polynomial": [1.0], "samples": {"count": 100_000}, "loss": "huber"}


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        (
            {**DRAWN, "samples": {"count": 100_001}},
            "samples",
            "100,001 points; with loss huber at most 100,000, with mse 10,000,000",
        ),
        (
            {**XY, "steps": 1_000_000, "restarts": 68, "trace": "full"},
            "trace",
            "68 restarts x 1,000,001 losses are 68,000,068 losses to keep, at most 67,108,864: lower restarts or steps,",
        ),
        (
            {**DRAWN, "restarts": 334},
            "restarts",
            "334 restarts x 100,000 points x 3 coefficients are 100,200,000 numbers to hold, with loss huber at most "
            "100,000,000: lower restarts or degree,",
        ),
        (
            {**DRAWN, "steps": 40_000, "restarts": 251},
            "steps",
            "251 restarts x 40,000 steps x 100,000 points are 1,004,000,000,000 points to look at, with loss huber at most "
            "1,000,000,000,000: lower steps or restarts,",
        ),
    ],
)
def test_more_than_a_worker_can_do_is_refused_with_the_numbers(fields: dict[str, Any], field: str, rule: str) -> None:
    """What was asked, the limit and what to lower."""
    with pytest.raises(JobError) as caught:
        job_from_mapping(fields)
    assert caught.value.field == field
    assert caught.value.rule.startswith(rule)


@pytest.mark.parametrize(
    "fields",
    [
        {**DRAWN, "restarts": 333},
        {**DRAWN, "steps": 1_000_000, "restarts": 10},
        {**XY, "steps": 1_000_000, "restarts": 67, "trace": "full"},
        {**XY, "steps": 1_000_000, "restarts": 1000},
        {**XY, "steps": 1_000_000, "restarts": 1000, "trace": "full", "optimizer": "exact"},
        {**DRAWN, "loss": "mse", "samples": {"count": MAX_SAMPLES}, "steps": 1_000_000, "restarts": 1000},
    ],
)
def test_work_at_a_limit_is_fine(fields: dict[str, Any]) -> None:
    """The mean of squares costs the same for any number of points, and `exact` makes no steps."""
    assert job_from_mapping(fields)


@pytest.mark.parametrize("line", ["{", "", "[1]", "3", '{"x": nan}', b"\xff", "[" * 10**5, '{"id": "\\ud800"}', "1" * 5000])
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


@pytest.mark.parametrize("loss", ["mse", "huber", "l1", "log_cosh"])
def test_exact_goes_with_every_loss(loss: str) -> None:
    """Whatever is minimised can be solved without a descent."""
    assert job_from_mapping({**XY, "optimizer": "exact", "loss": loss}).optimizer == "exact"


def test_delta_is_given_in_one_way() -> None:
    """In units of y or in robust standard deviations; a job with another loss may say either."""
    for fields in ({"delta": 2.0}, {"delta_sigma": 2.0}):
        assert job_from_mapping({**XY, "loss": "huber", **fields})
        assert job_from_mapping({**XY, **fields})
    with pytest.raises(JobError, match=r"delta_sigma = 1.5: give delta or delta_sigma, not both"):
        job_from_mapping({**XY, "loss": "huber", "delta": 2.0, "delta_sigma": 1.5})


def test_defaults_are_checked_field_by_field() -> None:
    """An infinite number is refused at once; whether fields go together is for each job to say."""
    assert defaults_from_mapping({"nesterov": True}).nesterov
    with pytest.raises(JobError, match="command line: lr = inf: finite numbers"):
        defaults_from_mapping({"lr": math.inf}, "command line")


def test_tags_are_plain_values_by_name() -> None:
    """Numbers of numpy and dates are taken as what they stand for; lists are no tags."""
    tags: dict[str, Any] = {
        "lat": np.float64(1.5),
        "n": np.int8(3),
        "sea": np.bool_(True),
        "day": date(2020, 2, 1),
        "no": None,
    }
    job = FitJob(**XY, tags=tags).checked()
    assert job.tags == {"lat": 1.5, "n": 3, "sea": True, "day": "2020-02-01", "no": None}
    assert job_from_json(json.dumps({**XY, "tags": job.tags})).tags == job.tags
    with pytest.raises(JobError, match=r"tags.*expected `bool \| int \| float \| str \| null`, got `array`"):
        job_from_mapping({**XY, "tags": {"lat": [1.5]}})


@pytest.mark.parametrize("tags", [{"site": "\ud800"}, {"\ud800": 1}])
def test_half_a_character_is_no_text_of_tags(tags: dict[str, Any]) -> None:
    """Neither as a value nor as a name: no frame could hold it."""
    with pytest.raises(JobError, match=r"tags = .*ud800.*: expected text that UTF-8 can hold") as caught:
        job_from_mapping({**XY, "tags": tags}, place="jobs[3]")
    assert str(caught.value).isascii()


def test_what_is_missing_in_tags_stays_there() -> None:
    """As null, however it is written; a number of any size is one."""
    tags: dict[str, Any] = {"a": np.ma.masked, "b": None, "big": 2**70}
    assert FitJob(**XY, tags=tags).checked().tags == {"a": None, "b": None, "big": 2**70}


def test_overrides_stand_in_for_what_a_line_gives() -> None:
    """As if it gave nothing there, not even a value of a wrong type."""
    line = '{"x": [0, 1], "y": [1, 2], "degree": "two", "lr": 0.5, "steps": 5}'
    job = job_from_json(line, "jobs.jsonl:1", {"lr": 0.1, "steps": 9}, {"degree": 1.0, "lr": None})
    assert (job.degree, job.lr, job.steps) == (1, None, 5)
