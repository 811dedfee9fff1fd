"""The rules of one job that the types of its fields do not say: fields agree, numbers are finite, a worker can do it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from fitq_shared.errors import JobError
from fitq_shared.jobs.fields import (
    MAX_NUMBERS_HELD,
    MAX_POINTS_VISITED,
    MAX_RECORDED_LOSSES,
    MAX_SAMPLES,
    MAX_SAMPLES_BUT_MSE,
    Tag,
)

if TYPE_CHECKING:
    from fitq_shared.jobs.job import FitJob

#: Fields whose limits an infinite number would pass.
_MUST_BE_FINITE = (
    "polynomial", "init", "lr", "delta", "delta_sigma", "tolerance", "gamma", "eps", "weight_decay", "momentum_decay",
    "ridge", "ftol", "gtol",
)  # fmt: skip

#: (field, is it broken, what is expected)
Rule: TypeAlias = tuple[str, bool, str]


def check(job: FitJob, place: str | None = None) -> None:
    """Return when the job obeys every rule.

    Raises:
        JobError: the first rule that it breaks, at `place`.
    """
    for rules in (_agreeing_fields, _single_fields, _limits):
        _check(rules(job), job, place)


def check_fields(job: FitJob, place: str | None = None) -> None:
    """Return when each field obeys the rules about it alone.

    Raises:
        JobError: the first rule that one breaks, at `place`.
    """
    _check(_single_fields(job), job, place)


def _check(rules: Iterable[Rule], job: FitJob, place: str | None) -> None:
    for field, broken, rule in rules:
        if broken:
            raise JobError(rule, field=field, value=getattr(job, field), job=job.id, place=place)


def _agreeing_fields(job: FitJob) -> list[Rule]:
    explicit, generated = job.x is not None or job.y is not None, job.polynomial is not None
    points = len(job.x or ())
    return [
        ("polynomial", explicit and generated, "give either x and y or a polynomial, not both"),
        ("x", not explicit and not generated, "give x and y, or a polynomial to draw samples of"),
        ("y", explicit and (job.x is None or len(job.y or ()) != points), "x and y must be lists of the same length"),
        ("weights", job.weights is not None and len(job.weights) != points, "one weight for each point of x"),
        ("samples", job.samples is not None and not generated, "samples describe how a polynomial is drawn; give one"),
        ("init", _has_other_length(job.init, job.degree + 1), f"degree + 1 = {job.degree + 1} numbers, or exact"),
        ("nesterov", job.nesterov and not job.momentum, "momentum must be above 0 for it"),
        ("delta_sigma", job.delta_sigma is not None and job.delta != 1.0, "give delta or delta_sigma, not both"),
    ]


def _single_fields(job: FitJob) -> list[Rule]:
    drawn = [job.samples.spread, job.samples.noise] if job.samples else None
    values = [*((name, getattr(job, name)) for name in _MUST_BE_FINITE), ("samples", drawn)]
    return [
        *((name, not _is_unicode(getattr(job, name)), "expected text that UTF-8 can hold") for name in ("id", "tags")),
        *((name, not _finite(value), "finite numbers") for name, value in values),
    ]


def _limits(job: FitJob) -> Iterator[Rule]:
    """What a worker can hold and do."""
    if job.optimizer != "exact" and job.restarts * (job.steps + 1) > MAX_RECORDED_LOSSES:
        yield _limit_of_traces(job)
    field, points = "x" if job.polynomial is None else "samples", job.points
    if job.loss == "mse":
        yield field, points > MAX_SAMPLES, f"{points:,} points; a job has at most {MAX_SAMPLES:,}"
        return
    yield (
        field,
        points > MAX_SAMPLES_BUT_MSE,
        f"{points:,} points; with loss {job.loss} at most {MAX_SAMPLES_BUT_MSE:,}, with mse {MAX_SAMPLES:,}",
    )
    held = job.restarts * points * (job.degree + 1)
    yield (
        "restarts",
        held > MAX_NUMBERS_HELD,
        f"{job.restarts:,} restarts x {points:,} points x {job.degree + 1} coefficients are {held:,} numbers to hold, with "
        f"loss {job.loss} at most {MAX_NUMBERS_HELD:,}: lower restarts or degree, give fewer points, or use mse",
    )
    visited = 0 if job.optimizer == "exact" else job.restarts * job.steps * points
    yield (
        "steps",
        visited > MAX_POINTS_VISITED,
        f"{job.restarts:,} restarts x {job.steps:,} steps x {points:,} points are {visited:,} points to look at, with loss "
        f"{job.loss} at most {MAX_POINTS_VISITED:,}: lower steps or restarts, give fewer points, or use mse",
    )


def _limit_of_traces(job: FitJob) -> Rule:
    from fitq_shared.jobs.trace import recorded_steps  # which needs numpy; few jobs come here

    losses = len(recorded_steps(job.trace, job.steps))
    kept = job.restarts * losses
    rule = (
        f"{job.restarts:,} restarts x {losses:,} losses are {kept:,} losses to keep, at most {MAX_RECORDED_LOSSES:,}: "
        "lower restarts or steps, or keep fewer losses, as with points:100"
    )
    return "trace", kept > MAX_RECORDED_LOSSES, rule


def _has_other_length(init: list[float] | str | None, size: int) -> bool:
    return isinstance(init, list) and len(init) != size


def _finite(value: list[float] | float | str | None) -> bool:
    if value is None or isinstance(value, str):
        return True
    return all(math.isfinite(number) for number in value) if isinstance(value, list) else math.isfinite(value)


def _is_unicode(text: str | dict[str, Tag] | None) -> bool:
    """Whether a text, or all of those in tags, can be stored: Python's may have halves of characters."""
    try:
        msgspec.json.encode(text)
    except UnicodeEncodeError:
        return False
    return True
