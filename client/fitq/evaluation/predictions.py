"""Evaluation of results: predictions with bands, residuals, and how sure each coefficient is.

Arrow in, Arrow out: one row a fit in the order of the results, so that what comes out can be put beside them, with a list
of the fit's own length. Rows of different degrees mix. A fit without coefficients has null lists, and a number that does
not exist is null in its list.

Bands and p-values are those of the optimum of the loss. Where `stderrs_off`, the distance to it in
standard errors, is not small, the descent has not come close enough for them: fit with optimizer `exact`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fitq.evaluation.lists import Counts, Floats, Lists, lists_of, numbers_of, whole
from fitq.evaluation.points import Points, points_of
from fitq.evaluation.student import reach, two_sided
from fitq_shared.errors import InputError
from fitq_shared.jobs.schemas import RESULT_SCHEMA

#: A standard error is given when rounding can change it by at most this share.
_MOST_ROUNDING = 1e-3


class _Curves(NamedTuple):
    """Points of R fits, V in all, and the fitted polynomials there; only rows with coefficients have points."""

    x: Lists
    rows: Counts  # (V,)
    t: Floats  # (V,) x mapped so that the domain of its fit is [-1, 1]
    prediction: Floats  # (V,)
    size: Counts  # (R,) number of coefficients

    def column(self, numbers: Floats) -> pa.ListArray:
        """Numbers of the points, (V,), as lists."""
        return self.x._replace(values=numbers).column()


def predict(results: pa.Table | pa.RecordBatch, x: Points, *, level: float | None = None) -> pa.Table:
    """The fitted polynomials at `x` and, with a `level` like 0.95, the bands around them.

    `x` is an array for all fits, or a list for each row of `results`; for samples in the order of submission and results in
    another one that is `jobs["x"].take(results["index"])`.

    Columns: `index`, `id`, and lists as long as the fit's x: `x`, `prediction` and, with a level, `stderr` of the
    prediction, `confidence_low` and `confidence_high`, which enclose the mean of y with that probability, and
    `prediction_low` and `prediction_high`, which enclose a new observation; all in units of y.

    Bands are for fits with more points than coefficients whose job asked for `covariance`; others have null lists. A number
    is null where powers of a high degree cancel and rounding could change its `stderr` by more than a thousandth. Errors
    follow Student's t with samples_used - P degrees of freedom, P = degree + 1. The variance of a new observation is
    rmse^2 samples_used / (samples_used - P): with weights, that of a point of their average weight.

    Raises:
        InputError: results lack a column, `x` is not numbers or has not one list for each row, `level` is not in (0, 1).
    """
    points = points_of(x, "x", len(_column(results, "id")))
    curves = _curves(results, points)
    found = {"x": points.column(), "prediction": curves.column(curves.prediction)}
    return _table(results, found | ({} if level is None else _bands(results, curves, level)))


def residuals(results: pa.Table | pa.RecordBatch, x: Points, y: Points) -> pa.Table:
    """y minus the fitted polynomials at x; both are given like the x of `predict`.

    Columns: `index`, `id` and the list `residual`, in units of y. It is null where the row has no x or no y.

    Raises:
        InputError: results lack a column; x or y are not numbers, have not one list for each row or not the same lengths.
    """
    ids = _column(results, "id")
    points, observed = points_of(x, "x", len(ids)), points_of(y, "y", len(ids))
    both = points.present & observed.present
    points, observed = points.only(both), observed.only(both)
    for row in np.flatnonzero(points.lengths != observed.lengths)[:1]:
        lengths = f"x has {points.lengths[row]} numbers and y {observed.lengths[row]}"
        raise InputError(f"row {row}, job {ids[row].as_py()!r}: {lengths}; give both for the same points")
    curves = _curves(results, points)
    return _table(results, {"residual": curves.column(observed.only(curves.x.present).values - curves.prediction)})


def p_values(results: pa.Table | pa.RecordBatch, *, level: float = 0.95) -> pa.Table:
    """How sure each of `exact_coefficients` is, the optimum in powers of raw x.

    Columns: `index`, `id`, and lists with a number for each power of x, highest first: `exact_coefficients`, `stderr`, `t`
    (their ratio, null where `stderr` is 0), `p` (probability of a t at least as far from 0 if the coefficient is truly 0),
    `low` and `high` (they enclose the true coefficient with probability `level`). Fits with no more points than
    coefficients have only the first of these lists.

    Raises:
        InputError: results lack a column, or `level` is not in (0, 1).
    """
    coefficients, errors = (lists_of(_column(results, name)) for name in ("exact_coefficients", "stderr"))
    freedom = _freedom(results, coefficients.lengths)
    errors = errors.only(coefficients.present & (freedom > 0))
    values, rows = coefficients.only(errors.present).values, errors.rows
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        t = values / errors.values
    margin = _reach(level, freedom)[rows] * errors.values
    found = {
        "stderr": errors.values,
        "t": t,
        "p": two_sided(t, freedom[rows]),
        "low": values - margin,
        "high": values + margin,
    }
    columns = {name: errors._replace(values=numbers).column() for name, numbers in found.items()}
    return _table(results, {"exact_coefficients": coefficients.column()} | columns)


def _curves(results: Any, points: Lists) -> _Curves:
    coefficients, domain = (lists_of(_column(results, name)) for name in ("scaled_coefficients", "domain"))
    x = points.only(coefficients.present & domain.present)
    rows = x.rows
    t = _mapped(x.values, domain.by_place()[:, rows])
    return _Curves(x, rows, t, _evaluated(coefficients.by_place(), t, rows), coefficients.lengths)


def _mapped(x: Floats, domain: Floats) -> Floats:
    """t = (x - middle) / half_width with an error of few 1e-16 however far x is from 0; domain is (2, V).

    The middle is not rounded, because it is not worked out: both differences are exact where x is far from 0.
    """
    if not len(x):
        return x
    low, high = domain
    width = np.where(high > low, high - low, 2.0)  # an interval of one point may be too far from 0 to have another width
    with np.errstate(over="ignore"):
        t: Floats = ((x - low) + (x - high)) / width
    return t


def _evaluated(by_power: Floats, t: Floats, rows: Counts) -> Floats:
    """Polynomials with coefficients (powers, R), lowest first, at the points t of these rows, both (V,); NaN if infinite."""
    total = np.zeros_like(t)
    with np.errstate(over="ignore", invalid="ignore"):
        for coefficients in by_power[::-1]:
            total = total * t + coefficients[rows]
    return np.where(np.isfinite(total), total, np.nan)


def _bands(results: Any, curves: _Curves, level: float) -> dict[str, pa.Array]:
    covariance, freedom = lists_of(_column(results, "scaled_covariance")), _freedom(results, curves.size)
    known = covariance.present & (freedom > 0)
    variance = _variance(covariance, curves)
    scatter = numbers_of(_column(results, "rmse")) ** 2 * (freedom + curves.size) / freedom
    reaches = _reach(level, freedom)[curves.rows]
    confidence, prediction = reaches * np.sqrt(variance), reaches * np.sqrt(variance + scatter[curves.rows])
    found = {
        "stderr": np.sqrt(variance),
        "confidence_low": curves.prediction - confidence,
        "confidence_high": curves.prediction + confidence,
        "prediction_low": curves.prediction - prediction,
        "prediction_high": curves.prediction + prediction,
    }
    return {name: curves.x._replace(values=numbers).only(known).column() for name, numbers in found.items()}


def _variance(covariance: Lists, curves: _Curves) -> Floats:
    """Of the predictions, (V,): itself a polynomial in t, whose coefficients are sums over the antidiagonals.

    NaN where rounding could change its root by more than _MOST_ROUNDING.
    """
    sums, sizes = (
        _antidiagonals(covariance._replace(values=values)) for values in (covariance.values, np.abs(covariance.values))
    )
    variance = _evaluated(sums, curves.t, curves.rows)
    rounding = curves.size[curves.rows] * np.finfo(float).eps * _evaluated(sizes, np.abs(curves.t), curves.rows)
    return np.where(rounding <= 2 * _MOST_ROUNDING * variance, variance, np.nan)


def _antidiagonals(matrices: Lists) -> Floats:
    """Sums over the places with the same row + column of P x P matrices, (2 P - 1 for the largest P, R)."""
    rows, count = matrices.rows, len(matrices.lengths)
    size = np.rint(np.sqrt(matrices.lengths)).astype(np.int64)[rows]
    power = np.add(*np.divmod(matrices.places, size))
    powers = power.max(initial=-1) + 1
    sums = np.bincount(power * count + rows, matrices.values, powers * count)
    return np.asarray(sums, dtype=np.float64).reshape(powers, count)


def _freedom(results: Any, size: Counts) -> Floats:
    """Degrees of freedom of fits with `size` coefficients, (R,), NaN where there is none."""
    freedom = numbers_of(_column(results, "samples_used")) - size
    return np.where(freedom > 0, freedom, np.nan)


def _reach(level: float, freedom: Floats) -> Floats:
    """How many standard errors enclose a share `level`, (R,); worked out once for each number of degrees of freedom."""
    if not 0 < level < 1:
        raise InputError(f"level = {level!r}: a share between 0 and 1 is expected, such as 0.95")
    few, of = np.unique(freedom, return_inverse=True)
    return reach(level, few)[of]


def _table(results: Any, columns: dict[str, pa.Array]) -> pa.Table:
    return pa.table({name: _column(results, name) for name in ("index", "id")} | columns)


def _column(results: Any, name: str) -> pa.Array:
    """A column of results in the type of RESULT_SCHEMA: what was read from a file may have another one."""
    if not isinstance(results, pa.Table | pa.RecordBatch):
        raise InputError(f"results are a {type(results).__name__}; an Arrow table or record batch of results is expected")
    if name not in results.schema.names:
        raise InputError(f"results have no column {name!r}; give them with all columns, as Submission.results() does")
    column, expected = whole(results[name]), RESULT_SCHEMA.field(name).type
    try:
        return column.cast(expected)
    except pa.ArrowException as error:
        raise InputError(
            f"column {name!r} of the results is {column.type}, {expected} is expected ({error}); read results from Parquet"
        ) from None
