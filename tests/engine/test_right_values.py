"""What people bring, in the shape of public bug reports, against exact rational arithmetic: alone and all in one run."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from fitq_shared.jobs.frames import jobs_batch, shape_name
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit

RANDOM = np.random.default_rng(2)
DAYS, SECONDS = 86_400_000.0, 604_800.0


def noisy(x: Any, *coefficients: float, scale: float = 1.0) -> list[float]:
    """The polynomial with noise, rounded as people write numbers down."""
    centred = np.asarray(x) - x[0]
    values = np.polyval(coefficients, centred / (centred.max() or 1.0)) + 0.1 * RANDOM.normal(size=len(x))
    return [float(f"{value * scale:.5g}") for value in values]


def cases() -> dict[str, dict[str, Any]]:
    """Jobs by what they are about."""
    line = [float(value) for value in range(-5, 6)]
    standards = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0]
    decades = {n: [10.0 ** (k - n // 2) for k in range(n + 1)] for n in (3, 6, 9, 12)}
    milliseconds = [1.571616e12 + k * DAYS for k in range(60)]
    seconds = [1.5563e9 + k * SECONDS for k in range(40)]
    elapsed = [4.2e8 + k * 0.256 for k in range(80)]
    y = noisy(line, 2.0, 1.0)
    gaps = [None if k in (3, 7) else value for k, value in enumerate(y)]
    found: dict[str, dict[str, Any]] = {
        "covariance of a line": {"x": line, "y": y, "degree": 1},
        "inverse variances": {"x": line, "y": y, "weights": [1 / (0.1 + k / 20) ** 2 for k in range(11)], "degree": 1},
        "known sigma of 1": {"x": line, "y": y, "degree": 1, "absolute_sigma": True},
        "known sigmas": {"x": line, "y": y, "weights": [4.0] * 5 + [1.0] * 6, "degree": 1, "absolute_sigma": True},
        "calibration": {"x": standards, "y": noisy(standards, 3.0, 2.0), "weights": [1 / x for x in standards]},
        "milliseconds": {"x": milliseconds, "y": noisy(milliseconds, 3.0, -2.0, 1.0, 1.0, 20.0), "degree": 4},
        "seconds": {"x": seconds, "y": noisy(seconds, 1.0, -1.0, 1.0, 1.0, 1.0, 80.0), "degree": 5},
        "mission elapsed time": {"x": elapsed, "y": noisy(elapsed, 8.0, 1.0, 300.0)},
        "large y": {"x": line, "y": noisy(line, 2.0, 1.0, 3.0, scale=1e20)},
        "small y": {"x": line, "y": noisy(line, 2.0, 1.0, 3.0, scale=1e-23)},
        "missing, dropped": {"x": line, "y": gaps, "degree": 1, "missing": "drop"},
        "missing, without weight": {"x": line, "y": gaps, "weights": [float(v is not None) for v in gaps], "degree": 1},
    }
    for n, x in decades.items():
        noise = [1 + 0.02 * (-1) ** k for k in range(n + 1)]
        values = [float(f"{2.5 * a * b:.5g}") for a, b in zip(x, noise, strict=True)]
        found[f"1/x^2 over {n} decades"] = {"x": x, "y": values, "weights": [a**-2.0 for a in x], "degree": 1}
    return found


CASES = cases()


class Right(NamedTuple):
    """By exact arithmetic; coefficients from the highest power down."""

    coefficients: list[float]
    loss: float
    covariance: list[float]


def exactly(job: dict[str, Any]) -> Right:
    """Least squares of the points that count, by Gauss's elimination of the normal equations in fractions."""
    weights = job.get("weights") or [1.0] * len(job["x"])
    rows = zip(job["x"], job["y"], weights, strict=True)
    points = [(Fraction(a), Fraction(b), Fraction(w)) for a, b, w in rows if w > 0 and b is not None]
    size = job.get("degree", 2) + 1
    moments = [sum(w * a**k for a, _, w in points) for k in range(2 * size - 1)]
    matrix = [[moments[i + j] for j in range(size)] for i in range(size)]
    right = [sum(w * b * a**i for a, b, w in points) for i in range(size)]
    inverse = inverted(matrix)
    solution = [sum(inverse[i][j] * right[j] for j in range(size)) for i in range(size)]
    squares = sum(w * (sum(c * a**k for k, c in enumerate(solution)) - b) ** 2 for a, b, w in points)
    variance = Fraction(1) if job.get("absolute_sigma") else squares / (len(points) - size)
    covariance = [float(variance * inverse[i][j]) for i in reversed(range(size)) for j in reversed(range(size))]
    return Right([float(c) for c in reversed(solution)], float(squares / sum(w for *_, w in points)), covariance)


def inverted(matrix: list[list[Any]]) -> list[list[Fraction]]:
    size = len(matrix)
    rows = [[Fraction(value) for value in row] + [Fraction(i == j) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(size):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[size:] for row in rows]


def results(jobs: Sequence[FitJob]) -> dict[str, dict[str, Any]]:
    """By id; jobs of one shape are one batch, as a worker gets them."""
    shapes: dict[str, list[FitJob]] = {}
    for job in jobs:
        shapes.setdefault(shape_name(jobs_batch([job])), []).append(job)
    rows = [row for batch in shapes.values() for row in fit(jobs_batch(batch), path="eager").results.to_pylist()]
    return {row["id"]: {name: value for name, value in row.items() if name != "index"} for row in rows}


def job_of(name: str, **fields: Any) -> FitJob:
    return FitJob(id=name, covariance=True, **CASES[name], **fields).checked()


@pytest.mark.parametrize("name", CASES)
def test_values_are_right(name: str) -> None:
    """Coefficients, loss, covariance and standard errors to 1e-9, by the closed form and beside the usual descent."""
    right = exactly(CASES[name])

    for job in (job_of(name, optimizer="exact"), job_of(name)):
        (result,) = results([job]).values()

        assert result["status"] in ("converged", "max_steps")
        assert result["exact_coefficients"] == pytest.approx(right.coefficients, rel=1e-9, abs=0)
        assert result["exact_loss"] == pytest.approx(right.loss, rel=1e-9, abs=0)
        assert result["covariance"] == pytest.approx(right.covariance, rel=1e-9, abs=0)
        size = len(right.coefficients)
        assert result["stderr"] == pytest.approx(np.sqrt(right.covariance[:: size + 1]), rel=1e-9, abs=0)
        if job.optimizer == "exact":
            assert (result["coefficients"], result["gap"]) == (result["exact_coefficients"], 0.0)


def test_values_are_the_same_in_one_run_and_in_any_order() -> None:
    """To the bit, beside a fit that is sick and one that fits nothing."""
    sick = FitJob(id="sick", x=[1.0, None], y=[1.0, 2.0], degree=1).checked()
    jobs = [job_of(name) for name in CASES]
    jobs += [msgspec.structs.replace(job, id=f"{job.id}, exact", optimizer="exact") for job in jobs] + [sick]

    together = results(jobs)

    assert results(jobs[::-1]) == together
    shuffled = [jobs[place] for place in np.random.default_rng(0).permutation(len(jobs))]
    assert results(shuffled) == together
    assert {row["status"] for row in together.values()} <= {"converged", "max_steps", "invalid"}
    for job in jobs:
        assert results([job])[job.id] == together[job.id]


def test_a_polynomial_through_all_points() -> None:
    """Of degree 20 through 21 points whose y alternate: 1e-12 of the largest coefficient, and y on the points."""
    x = [float(value) for value in range(21)]
    y = [float(f"{(-1) ** k * (1 + 0.1 * (k % 3)):.2f}") for k in range(21)]
    job = FitJob(x=x, y=y, degree=20, optimizer="exact")

    (result,) = results([job.checked()]).values()

    powers = [[Fraction(a) ** k for k in range(21)] for a in x]
    inverse = inverted(powers)
    right = [float(sum(inverse[i][j] * Fraction(y[j]) for j in range(21))) for i in reversed(range(21))]
    assert np.abs(np.subtract(result["exact_coefficients"], right)).max() <= 1e-12 * np.abs(right).max()
    series = np.polynomial.Polynomial(result["scaled_coefficients"], domain=result["domain"])
    assert np.abs(series(np.array(x)) - y).max() <= 1e-6
    assert result["rmse"] <= 1e-12
