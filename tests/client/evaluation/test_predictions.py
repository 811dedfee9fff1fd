"""Predictions, bands, residuals and p-values, beside least squares in exact rational arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.json
import pytest
from numpy.polynomial import Polynomial
from pyarrow import parquet

from fitq import p_values, predict, residuals
from fitq.evaluation.student import reach
from fitq.results.writers import writing
from fitq_shared.errors import InputError
from fitq_shared.jobs.schemas import RESULT_SCHEMA

RANDOM = np.random.default_rng(8)
Rational = list[Fraction]
LARGE = pa.large_list(pa.float64())
BANDS = ["stderr", "confidence_low", "confidence_high", "prediction_low", "prediction_high"]


class Exact(NamedTuple):
    """A least-squares fit without rounding; lowest power first."""

    coefficients: Rational
    inverse: list[Rational]  # (X' W X)^-1
    squares: Fraction  # sum of w residual^2


def exact_fit(x: Rational, y: Sequence[float], weights: Sequence[float], degree: int) -> Exact:
    """Normal equations in powers of `x`."""
    powers = [[point**k for k in range(degree + 1)] for point in x]
    w, observed = [Fraction(value) for value in weights], [Fraction(value) for value in y]
    product = [
        [sum(v * p[i] * p[j] for v, p in zip(w, powers, strict=True)) for j in range(degree + 1)] for i in range(degree + 1)
    ]
    inverse = inverted([[Fraction(value) for value in row] for row in product])
    right = [sum(v * p[i] * o for v, p, o in zip(w, powers, observed, strict=True)) for i in range(degree + 1)]
    coefficients = [sum((a * b for a, b in zip(row, right, strict=True)), Fraction(0)) for row in inverse]
    differences = [
        o - sum(c * v for c, v in zip(coefficients, p, strict=True)) for p, o in zip(powers, observed, strict=True)
    ]
    return Exact(coefficients, inverse, sum((v * d * d for v, d in zip(w, differences, strict=True)), Fraction(0)))


def inverted(matrix: list[Rational]) -> list[Rational]:
    """By Gauss and Jordan."""
    size = len(matrix)
    rows = [row + [Fraction(int(i == j)) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(k for k in range(i, size) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(size):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[size:] for row in rows]


def mapped(x: float, domain: Sequence[float]) -> Fraction:
    """t of a point."""
    low, high = (Fraction(end) for end in domain)
    return (2 * Fraction(x) - low - high) / (high - low)


def value(coefficients: Sequence[Any], t: Fraction) -> Fraction:
    """The polynomial at t; lowest power first."""
    return sum((Fraction(c) * t**k for k, c in enumerate(coefficients)), Fraction(0))


def row_of(
    x: Sequence[float], y: Sequence[float], degree: int, weights: Sequence[float] | None = None, **fields: Any
) -> dict[str, Any]:
    """What a worker answers: the optimum, each number of it rounded once."""
    weights = [1.0] * len(x) if weights is None else weights
    domain = [min(x), max(x)]
    scaled = exact_fit([mapped(point, domain) for point in x], y, weights, degree)
    raw = exact_fit([Fraction(point) for point in x], y, weights, degree)
    freedom = len(x) - degree - 1
    variance = scaled.squares / freedom if freedom else None
    uncertain: dict[str, Any] = {}
    if variance is not None:
        uncertain["scaled_covariance"] = [float(variance * number) for line in scaled.inverse for number in line]
        uncertain["stderr"] = [math.sqrt(variance * raw.inverse[k][k]) for k in range(degree + 1)][::-1]
    return {
        "index": 0,
        "id": "fit",
        "status": "converged",
        "scaled_coefficients": [float(number) for number in scaled.coefficients],
        "domain": domain,
        "exact_coefficients": [float(number) for number in raw.coefficients][::-1],
        "rmse": math.sqrt(scaled.squares / sum(Fraction(weight) for weight in weights)),
        "samples_used": len(x),
        **uncertain,
        **fields,
    }


def table_of(*rows: dict[str, Any]) -> pa.Table:
    """Rows as results, numbered."""
    return pa.Table.from_pylist([row | {"index": index} for index, row in enumerate(rows)], RESULT_SCHEMA)


def failed(name: str = "failed") -> dict[str, Any]:
    """A row without coefficients."""
    return {"index": 0, "id": name, "status": "invalid", "samples_used": 0}


def samples(middle: float, spread: float, count: int = 12) -> tuple[list[float], list[float]]:
    """Scattered points of a parabola."""
    x = middle + spread * RANDOM.uniform(-1, 1, count)
    t = (x - middle) / spread
    return x.tolist(), (3 + t - 2 * t**2 + RANDOM.normal(size=count)).tolist()


LINE = row_of([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 5.0], 1, id="line")
PARABOLA = row_of([-2.0, -1.0, 0.0, 1.0, 2.0], [4.0, 0.5, 1.0, 0.0, 5.0], 2, id="parabola")


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 9])
@pytest.mark.parametrize(("middle", "spread"), [(0.0, 3.0), (1.7e9, 43200.0), (1.7e9, 0.5), (2e12, 6e4), (-1e-7, 1e-12)])
def test_predictions_have_all_digits(degree: int, middle: float, spread: float) -> None:
    """Within and outside of the samples, for seconds and milliseconds of today too."""
    row = row_of(*samples(middle, spread), degree)
    x = middle + spread * np.linspace(-2, 2, 41)

    (found,) = predict(table_of(row), x)["prediction"].to_pylist()

    for point, number in zip(x, found, strict=True):
        t = mapped(point, row["domain"])
        size = value(np.abs(row["scaled_coefficients"]), abs(t))
        assert abs(Fraction(number) - value(row["scaled_coefficients"], t)) <= Fraction(4e-16) * (degree + 1) * size


def test_numpy_agrees() -> None:
    """The columns are what numpy's Polynomial takes."""
    x = np.linspace(-3, 4, 9)

    found = predict(table_of(LINE, PARABOLA), x)["prediction"].to_pylist()

    for row, numbers in zip([LINE, PARABOLA], found, strict=True):
        np.testing.assert_allclose(numbers, Polynomial(row["scaled_coefficients"], domain=row["domain"])(x), rtol=1e-13)


def test_rows_stay_beside_the_results() -> None:
    """Fits of different degrees and fits without coefficients, in a table, in a batch, in parts and in a piece of one."""
    whole = table_of(LINE, failed(), PARABOLA, LINE)

    found = predict(whole, [0, 1], level=0.9)

    assert found["id"].to_pylist() == ["line", "failed", "parabola", "line"]
    assert found["index"].to_pylist() == [0, 1, 2, 3]
    assert found["x"].to_pylist() == [[0, 1]] * 4
    assert [found[name][1].as_py() for name in ["prediction", *BANDS]] == [None] * 6
    for name in ["prediction", *BANDS]:
        assert found[name][0] == found[name][3]
        assert None not in found[name][2].as_py()
    assert predict(whole.combine_chunks().to_batches()[0], [0, 1], level=0.9) == found
    parts = pa.concat_tables([predict(whole.slice(start, 2), [0, 1], level=0.9) for start in (0, 2)])
    assert parts == found
    assert predict(pa.concat_tables([whole.slice(0, 1), whole.slice(1)]), [0, 1], level=0.9) == found


@pytest.mark.parametrize(
    "own",
    [
        [[0, 2], None, [], [1.5]],
        [np.array([0, 2]), None, np.array([]), np.array([1.5])],
        pa.array([[0, 2], None, [], [1.5]], pa.list_(pa.float32())),
        pa.chunked_array([pa.array([[9], [0, 2]], LARGE).slice(1), pa.array([None, [], [1.5]], LARGE)]),
    ],
)
def test_each_fit_may_have_its_own_points(own: Any) -> None:
    """As lists, as arrays, and as a column; a fit that has none has no prediction."""
    found = predict(table_of(LINE, LINE, PARABOLA, PARABOLA), own, level=0.5)

    assert found["x"].to_pylist() == [[0, 2], None, [], [1.5]]
    for name in ["prediction", *BANDS]:
        (line,) = predict(table_of(LINE), [0, 2], level=0.5)[name].to_pylist()
        (parabola,) = predict(table_of(PARABOLA), [1.5], level=0.5)[name].to_pylist()
        assert found[name].to_pylist() == [line, None, [], parabola]


def test_two_dimensional_arrays_have_a_row_for_each_fit() -> None:
    """And whole numbers are numbers."""
    found = predict(table_of(LINE, PARABOLA), np.array([[0, 1, 2], [3, 4, 5]]))

    assert found["x"].to_pylist() == [[0, 1, 2], [3, 4, 5]]


def test_missing_and_infinite_points_have_no_prediction() -> None:
    """The others in the list do."""
    found = predict(table_of(LINE), [0.0, None, math.nan, math.inf, -1e308], level=0.95)

    for name in ["x", "prediction", *BANDS]:
        (numbers,) = found[name].to_pylist()
        assert [number is None for number in numbers[:4]] == [False, True, True, True]


@pytest.mark.parametrize(("middle", "spread"), [(0.0, 3.0), (100.0, 1.0), (1.7e9, 86400.0), (2e12, 5e3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_bands_are_the_textbooks(middle: float, spread: float, weighted: bool) -> None:
    """Worked out in powers of raw x without rounding: the mean, and a new point of average weight, within t times sigma."""
    x, y = samples(middle, spread)
    weights = RANDOM.uniform(0.2, 7, len(x)) if weighted else np.ones(len(x))
    new = middle + spread * np.linspace(-1.5, 1.5, 11)
    fit = exact_fit([Fraction(point) for point in x], y, weights.tolist(), 2)
    variance = fit.squares / (len(x) - 3)
    average = sum(Fraction(weight) for weight in weights) / len(x)

    found = predict(table_of(row_of(x, y, 2, weights.tolist())), new, level=0.9).to_pylist()[0]

    for place, point in enumerate(new):
        powers = [Fraction(point) ** k for k in range(3)]
        mean = float(value(fit.coefficients, powers[1]))
        spread_of_mean = variance * sum(fit.inverse[i][j] * powers[i] * powers[j] for i in range(3) for j in range(3))
        confidence, prediction = (
            float(reach(0.9, len(x) - 3)) * math.sqrt(number)
            for number in (spread_of_mean, spread_of_mean + variance / average)
        )
        assert found["stderr"][place] == pytest.approx(math.sqrt(spread_of_mean), rel=1e-12)
        assert found["confidence_low"][place] == pytest.approx(mean - confidence, abs=1e-12 * confidence)
        assert found["confidence_high"][place] == pytest.approx(mean + confidence, abs=1e-12 * confidence)
        assert found["prediction_low"][place] == pytest.approx(mean - prediction, abs=1e-12 * prediction)
        assert found["prediction_high"][place] == pytest.approx(mean + prediction, abs=1e-12 * prediction)


def test_bands_need_covariance_and_degrees_of_freedom() -> None:
    """A fit that lacks them has a prediction all the same; without a level nobody has bands."""
    through_all = row_of([0.0, 1.0], [1.0, 3.0], 1, scaled_covariance=[0.0] * 4)
    not_asked = LINE | {"scaled_covariance": None}

    found = predict(table_of(through_all, not_asked, LINE), [2.0], level=0.95)

    assert found["prediction"][0].as_py() == [5.0]
    assert found["prediction"][1] == found["prediction"][2]
    for name in BANDS:
        assert [row is None for row in found[name].to_pylist()] == [True, True, False]
    assert predict(table_of(LINE), [2.0]).column_names == ["index", "id", "x", "prediction"]


def test_perfect_fits_have_bands_of_no_width() -> None:
    """Which rounding does not hide."""
    row = row_of([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0], 1)

    found = predict(table_of(row), [10.0], level=0.95).to_pylist()[0]

    assert [found[name] for name in ["prediction", *BANDS]] == [[21.0], [0.0], *[[21.0]] * 4]


@pytest.mark.parametrize("degree", [3, 8, 12, 20, 25])
def test_bands_of_high_degrees_are_right_or_missing(degree: int) -> None:
    """Powers of t cancel; the covariance, even with every number of it right to the last bit, does not say all of them."""
    x = list(range(-16, 17))
    y = RANDOM.integers(-9, 9, len(x)).tolist()
    row = row_of(x, y, degree)
    fit = exact_fit([mapped(point, row["domain"]) for point in x], y, [1] * len(x), degree)
    new = np.arange(-20, 20, 0.5)

    (found,) = predict(table_of(row), new, level=0.9)["stderr"].to_pylist()

    sums = [sum(fit.inverse[i][k - i] for i in range(degree + 1) if 0 <= k - i <= degree) for k in range(2 * degree + 1)]
    given = [(point, number) for point, number in zip(new, found, strict=True) if number is not None]
    for point, number in given:
        variance = value(sums, mapped(point, row["domain"])) * fit.squares / (len(x) - degree - 1)
        assert number == pytest.approx(math.sqrt(variance), rel=1e-3)
    assert len(given) == len(new) if degree <= 12 else 0 < len(given) < len(new)


def test_residuals_are_what_the_polynomial_leaves() -> None:
    """For each fit's own samples; those of a least-squares fit add up to 0."""
    (x, y), (other_x, other_y) = samples(1.7e9, 1e5), samples(0, 2, 30)
    results = table_of(row_of(x, y, 2), failed(), row_of(other_x, other_y, 3))

    found = residuals(results, [x, x, other_x], [y, y, other_y])

    assert found.column_names == ["index", "id", "residual"]
    first, second, third = found["residual"].to_pylist()
    assert second is None
    predicted = predict(results, [x, x, other_x])["prediction"].to_pylist()
    np.testing.assert_array_equal(first, np.subtract(y, predicted[0]))
    np.testing.assert_array_equal(third, np.subtract(other_y, predicted[2]))
    assert [abs(sum(first)), abs(sum(third))] == pytest.approx([0, 0], abs=1e-12)


def test_residuals_of_missing_numbers_are_missing() -> None:
    """A number of x or y, or all of them."""
    found = residuals(table_of(*[LINE] * 4), [[0, None, 2], [0, 1], None, [5]], [[1, 1, math.nan], None, [1, 2, 3], [9.5]])

    first, second, third, fourth = found["residual"].to_pylist()
    assert first[0] == pytest.approx(1 - predict(table_of(LINE), [0])["prediction"].to_pylist()[0][0])
    assert first[1:] == [None, None]
    assert (second, third) == (None, None)
    assert fourth == pytest.approx([9.5 - 6.7])


def test_samples_of_jobs_come_in_the_order_of_results() -> None:
    """By the index of the results."""
    (x, y), (other_x, other_y) = samples(0, 2, 5), samples(9, 2, 8)
    jobs = pa.table({"x": [x, other_x], "y": [y, other_y]})
    results = table_of(row_of(x, y, 1), row_of(other_x, other_y, 1)).take([1, 0])

    found = residuals(results, jobs["x"].take(results["index"]), jobs["y"].take(results["index"]))

    assert found["index"].to_pylist() == [1, 0]
    assert found["residual"][1].as_py() == residuals(table_of(row_of(x, y, 1)), [x], [y])["residual"][0].as_py()


def test_p_values_are_the_textbooks() -> None:
    """With two degrees of freedom p is 1 - t / sqrt(2 + t^2); the interval ends t standard errors away."""
    x = [Fraction(point) for point in range(4)]
    fit = exact_fit(x, [1.0, 2.0, 2.0, 5.0], [1.0] * 4, 1)

    found = p_values(table_of(LINE), level=0.8).to_pylist()[0]

    for power, place in ((1, 0), (0, 1)):
        stderr = math.sqrt(fit.squares / 2 * fit.inverse[power][power])
        t = float(fit.coefficients[power]) / stderr
        margin = float(reach(0.8, 2)) * stderr
        assert found["exact_coefficients"][place] == pytest.approx(float(fit.coefficients[power]), rel=1e-13)
        assert found["stderr"][place] == pytest.approx(stderr, rel=1e-13)
        assert found["t"][place] == pytest.approx(t, rel=1e-12)
        assert found["p"][place] == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)
        assert found["low"][place] == pytest.approx(found["exact_coefficients"][place] - margin, rel=1e-12)
        assert found["high"][place] == pytest.approx(found["exact_coefficients"][place] + margin, rel=1e-12)


def test_p_values_need_degrees_of_freedom() -> None:
    """A coefficient without an error is surely not 0; one that is 0 without an error has no t and no p."""
    through_all = row_of([0.0, 1.0], [1.0, 3.0], 1)
    perfect = row_of([-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], 1)

    found = p_values(table_of(through_all, failed(), perfect, PARABOLA))

    assert found["exact_coefficients"].to_pylist()[:3] == [[2, 1], None, [2, 0]]
    for name in ("stderr", "t", "p", "low", "high"):
        assert found[name].to_pylist()[:2] == [None, None]
    assert found["t"][2].as_py() == [None, None]
    assert found["p"][2].as_py() == [0, None]
    assert [found["low"][2].as_py(), found["high"][2].as_py()] == [[2, 0], [2, 0]]
    assert len(found["p"][3].as_py()) == 3


def test_tiny_p_values_are_not_0() -> None:
    """Two hundred digits behind the point, as the tail of Student's t has it with 4 degrees: 6 / t^4."""
    row = row_of([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 6, 1, exact_coefficients=[1e50, 0.0], stderr=[1.0, 1.0])

    (p,) = p_values(table_of(row))["p"].to_pylist()

    assert p == [pytest.approx(6e-200, rel=1e-12), 1.0]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_results_from_files_are_results(suffix: str, tmp_path: Path) -> None:
    """Also in the types that Arrow guesses from JSON."""
    results, file = table_of(LINE, failed(), PARABOLA), tmp_path / f"results.{suffix}"
    with writing(file, RESULT_SCHEMA) as write:
        write(results.combine_chunks().to_batches()[0])

    read = parquet.read_table(file) if suffix == "parquet" else pyarrow.json.read_json(file)

    assert predict(read, [1.0], level=0.95).to_pylist() == predict(results, [1.0], level=0.95).to_pylist()
    assert p_values(read).to_pylist() == p_values(results).to_pylist()


def test_nothing_gives_nothing() -> None:
    """No rows, no points, and only fits that failed."""
    assert predict(table_of(), [1.0], level=0.95).num_rows == 0
    assert p_values(table_of()).num_rows == 0
    assert predict(table_of(LINE), [], level=0.95)["prediction_low"].to_pylist() == [[]]
    assert predict(table_of(failed()), [1.0], level=0.95)["prediction_low"].to_pylist() == [None]
    assert residuals(table_of(failed()), [1.0], [2.0])["residual"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda rows: predict(rows, [[1.0]]), "x has 1 lists and the results have 2 rows"),
        (lambda rows: residuals(rows, [1.0], [[1.0]] * 3), "y has 3 lists and the results have 2 rows"),
        (lambda rows: residuals(rows, [[1.0], [1.0, 2.0]], [1.0]), "row 1, job 'parabola': x has 2 numbers and y 1"),
        (lambda rows: predict(rows, ["today"]), "x is not numbers"),
        (lambda rows: predict(rows, 1.0), "x is not numbers"),
        (lambda rows: predict(rows, [[[1.0]], [[1.0]]]), "x is not numbers"),
        (lambda rows: predict(rows, [1.0], level=95), "level = 95: a share between 0 and 1"),
        (lambda rows: p_values(rows, level=1), "level = 1: a share between 0 and 1"),
        (lambda rows: predict(rows.drop_columns("domain"), [1.0]), "no column 'domain'"),
        (lambda rows: predict(rows.drop_columns("rmse"), [1.0], level=0.9), "no column 'rmse'"),
        (lambda rows: p_values(rows.drop_columns("stderr")), "no column 'stderr'"),
        (lambda rows: predict(rows.to_pylist(), [1.0]), "results are a list"),
        (
            lambda rows: predict(rows.drop_columns("domain").append_column("domain", [["[0,1]"] * 2]), [1.0]),
            "column 'domain' of the results is string",
        ),
    ],
)
def test_misuse_is_named(call: Any, text: str) -> None:
    """With what was given and what is expected."""
    with pytest.raises(InputError) as caught:
        call(table_of(LINE, PARABOLA))

    assert text in str(caught.value)
