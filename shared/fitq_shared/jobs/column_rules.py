"""The rules of FitJob for whole columns: which jobs of a batch certainly obey every one of them.

The limits of single fields come from the annotations of FitJob itself; the rules about several fields mirror those of
`fitq_shared.jobs.rules`. The check may doubt a job that is fine (a number beyond what Arrow compares, an id of many bytes in
few characters), never the other way round: what it doubts, `job_from_mapping` decides.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import inspect
from numpy.typing import NDArray

from fitq_shared.jobs.columns import list_lengths
from fitq_shared.jobs.fields import (
    MAX_DEGREE,
    MAX_ID_LENGTH,
    MAX_NUMBERS_HELD,
    MAX_POINTS_VISITED,
    MAX_RECORDED_LOSSES,
    MAX_SAMPLES,
    MAX_SAMPLES_BUT_MSE,
)
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.plain_values import main_type

Mask: TypeAlias = NDArray[np.bool_]

#: Limits of a number, as msgspec calls them, and what each means.
BOUNDS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
#: Fields that may be null in a batch of JOB_SCHEMA (optimizer's defaults are filled in).
MAY_BE_NULL = ("delta_sigma", "ftol", "gtol")


def obey_rules(jobs: pa.RecordBatch) -> Mask:
    """Which jobs of a batch of JOB_SCHEMA certainly obey every rule of FitJob; (jobs,)."""
    all_of_them: Mask = np.logical_and.reduce(
        [*_single_fields(jobs), _samples(jobs), *_several_fields(jobs), *_limits(jobs)]
    )
    return all_of_them


def _kinds(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Field -> msgspec's description of what it holds besides None."""
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return {field.name: main_type(field.type) for field in described.fields}


_FIELDS = _kinds(FitJob)
#: The same of what describes how samples are drawn, and the columns of JOB_SCHEMA that hold it.
SAMPLES = _kinds(Samples)
DRAWING_COLUMNS = {"count": "count", "spread": "spread", "noise": "noise", "seed": "samples_seed"}
#: Fields that hold numbers, choices (and the words of each), true or false; the pattern of `trace`.
NUMBERS = {name: kind for name, kind in _FIELDS.items() if isinstance(kind, inspect.IntType | inspect.FloatType)}
CHOICES = {name: pa.array(kind.values) for name, kind in _FIELDS.items() if type(kind) is inspect.LiteralType}
BOOLEANS = [name for name, kind in _FIELDS.items() if isinstance(kind, inspect.BoolType)]
TRACE_PATTERN: str = _FIELDS["trace"].pattern


def _single_fields(jobs: pa.RecordBatch) -> Iterator[Mask]:
    for name, kind in NUMBERS.items():
        limited = _within(jobs[name], kind)
        yield limited | _null(jobs[name]) if name in MAY_BE_NULL else limited
    for name, choices in CHOICES.items():
        yield _mask(pc.is_in(jobs[name], choices))
    for name in BOOLEANS:
        yield ~_null(jobs[name])
    yield _matching(jobs["trace"], TRACE_PATTERN)
    # In bytes, of which there are at least as many as characters.
    yield _numbers(pc.binary_length(jobs["id"])) <= MAX_ID_LENGTH
    for name in ("polynomial", "init"):
        yield _finite_lists(jobs[name])


def _samples(jobs: pa.RecordBatch) -> Mask:
    """Each job has x and y of one length, or a polynomial and how to draw from it, and nothing of the other."""
    x, y, weights, coefficients = (list_lengths(jobs[name], missing=-1) for name in ("x", "y", "weights", "polynomial"))
    explicit = (x >= 0) & (x == y) & (x <= MAX_SAMPLES) & ((weights < 0) | (weights == x))
    drawn = (coefficients >= 1) & (coefficients <= MAX_DEGREE + 1)
    for name, column in DRAWING_COLUMNS.items():
        drawn &= _within(jobs[column], SAMPLES[name])
    nothing_drawn = (coefficients < 0) & _null(jobs["count"])
    nothing_explicit = (x < 0) & (y < 0) & (weights < 0)
    either: Mask = (explicit & nothing_drawn) | (drawn & nothing_explicit)
    return either


def _several_fields(jobs: pa.RecordBatch) -> Iterator[Mask]:
    init = list_lengths(jobs["init"], missing=-1)
    yield (init < 0) | (init == _numbers(jobs["degree"]) + 1)
    yield ~_mask(jobs["nesterov"]) | (_numbers(jobs["momentum"]) > 0)
    yield _null(jobs["delta_sigma"]) | (_numbers(jobs["delta"]) == 1.0)


def _limits(jobs: pa.RecordBatch) -> Iterator[Mask]:
    """What a worker can hold and do, as if all steps were recorded."""
    restarts, steps, degree = (_numbers(jobs[name].cast(pa.float64())) for name in ("restarts", "steps", "degree"))
    points = np.maximum(list_lengths(jobs["x"], missing=-1), _numbers(jobs["count"].fill_null(0)))
    is_mse = _mask(pc.equal(jobs["loss"], "mse"))
    yield restarts * (steps + 1) <= MAX_RECORDED_LOSSES
    yield is_mse | (points <= MAX_SAMPLES_BUT_MSE)
    yield is_mse | (restarts * points * (degree + 1) <= MAX_NUMBERS_HELD)
    yield is_mse | (restarts * steps * points <= MAX_POINTS_VISITED)


def _within(column: pa.Array, kind: Any) -> Mask:
    """Finite and within the limits of `kind`; a null is not."""
    values = _numbers(column)
    inside: Mask = np.isfinite(values)
    for name, compare in BOUNDS.items():
        if (bound := getattr(kind, name)) is not None:
            inside &= compare(values, bound)
    return inside


def _matching(column: pa.Array, pattern: str) -> Mask:
    coded = column.dictionary_encode()
    matches = pc.match_substring_regex(coded.dictionary, pattern)
    return _mask(matches.take(coded.indices))


def _finite_lists(column: pa.Array) -> Mask:
    """Lists of finite numbers, and nulls in place of a list."""
    wrong = ~np.isfinite(_numbers(column.flatten()))
    finite = np.ones(len(column), dtype=np.bool_)
    if wrong.any():
        # A null may stand over values, which flattening leaves out.
        finite[np.repeat(np.arange(len(column)), list_lengths(column))[wrong]] = False
    return finite


def _numbers(column: pa.Array) -> NDArray[Any]:
    """The values, NaN for null."""
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _mask(booleans: pa.Array) -> Mask:
    """True where the value is true, not where it is false or null."""
    return np.asarray(booleans.fill_null(False), dtype=np.bool_)


def _null(column: pa.Array) -> Mask:
    return np.asarray(column.is_null(), dtype=np.bool_)
