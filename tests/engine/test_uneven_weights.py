"""Weights that favour one place of x by orders of magnitude, against exact rational arithmetic."""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fitq_shared.jobs.fields import Basis
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit
from fitq_worker.engine.optimum.exact import least_squares
from fitq_worker.engine.samples.reduction import reduce
from fitq_worker.engine.samples.sets import SampleSets, pad

Floats = NDArray[np.float64]
Row = list[Fraction]

RANDOM = np.random.default_rng(7)


class Case(NamedTuple):
    """Points and how much each weighs."""

    x: Floats
    y: Floats
    weights: Floats


def _case(x: Floats, weights: Floats) -> Case:
    """Targets that go through the origin as a calibration does, with a relative error of two per cent."""
    return Case(x, 2.5 * x * (1 + 0.02 * RANDOM.normal(size=len(x))) + 1e-3 * x.min(), weights)


def _decades(count: float) -> Floats:
    return 10.0 ** np.linspace(-count / 2, count / 2, 25)


CASES = {f"1 / x^{power}, {count} decades": _case(_decades(count), _decades(count) ** -power)
         for count in (3, 6, 9, 12) for power in (1.0, 2.0, 4.0)} | {
    "few of very many decades": _case(_decades(24), _decades(24) ** -2.0),
    "exponential decay": _case(np.linspace(1, 701, 141), np.exp(-np.linspace(0, 700, 141))),
    "high end": _case(np.linspace(1, 701, 141), np.exp(np.linspace(-700, 0, 141))),
    "inside": _case(np.linspace(-100, 100, 201), np.exp(-((np.linspace(-100, 100, 201) - 50) ** 2) / 8)),
    "offset": _case(1000 + _decades(9), _decades(9) ** -2.0),
    "negative": _case(-_decades(9), _decades(9) ** -2.0),
}  # fmt: skip


def solution(case: Case, degree: int, origin: float = 0.0, unit: float = 1.0) -> tuple[Row, Fraction, list[Row]]:
    """Coefficients in powers of (x - origin) / unit, loss and inverse of X' W X of the least-squares problem; exact."""
    size = degree + 1
    x, y, weights = ([Fraction(value) for value in column] for column in case)
    u = [(value - Fraction(origin)) / Fraction(unit) for value in x]
    moments = [sum((w * v**k for w, v in zip(weights, u, strict=True)), Fraction()) for k in range(2 * degree + 1)]
    rows = [[moments[i + j] for j in range(size)] + [Fraction(i == j) for j in range(size)] for i in range(size)]
    inverse = [row[size:] for row in _eliminated(rows)]
    right = [sum((w * v**k * z for w, v, z in zip(weights, u, y, strict=True)), Fraction()) for k in range(size)]
    found = [sum((a * b for a, b in zip(row, right, strict=True)), Fraction()) for row in inverse]
    residuals = [z - sum((c * v**k for k, c in enumerate(found)), Fraction()) for v, z in zip(u, y, strict=True)]
    squares = sum((w * r * r for w, r in zip(weights, residuals, strict=True)), Fraction())
    return found, squares / sum(weights, Fraction()), inverse


def _eliminated(rows: list[Row]) -> list[Row]:
    """Gauss and Jordan; the left part becomes the unit matrix."""
    for i in range(len(rows)):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for other in (*range(i), *range(i + 1, len(rows))):
            factor = rows[other][i]
            rows[other] = [a - factor * b for a, b in zip(rows[other], rows[i], strict=True)]
    return rows


def assert_close(found: Any, expected: Any, allowed: float) -> None:
    """Each number by its own relative error, which is taken before anything is rounded."""
    for one, other in zip(np.ravel(found).tolist(), np.ravel(np.array(expected, dtype=object)), strict=True):
        assert abs(Fraction(one) / other - 1) <= allowed, (one, float(other))


def result(case: Case, degree: int, **fields: Any) -> dict[str, Any]:
    """Of a fit of the case, in closed form unless the fields say otherwise."""
    x, y, weights = (column.tolist() for column in case)
    job = FitJob(x=x, y=y, weights=weights, degree=degree, **{"optimizer": "exact", **fields}).checked()
    row: dict[str, Any] = fit(jobs_batch([job]), path="eager").results.to_pylist()[0]
    return row


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_coefficient_has_twelve_digits(name: str, degree: int) -> None:
    """The low ones as well, which the points that weigh most determine; loss and standard errors as well."""
    case = CASES[name]
    coefficients, loss, inverse = solution(case, degree)

    for basis in ("orthogonal", "power"):
        row = result(case, degree, basis=basis, absolute_sigma=True)

        assert row["status"] == "converged"
        assert_close(row["exact_coefficients"][::-1], coefficients, 1e-12)
        assert_close(row["coefficients"][::-1], coefficients, 1e-12)
        assert_close(row["exact_loss"], [loss], 1e-12)
        assert_close(np.square(row["stderr"][::-1]), [inverse[k][k] for k in range(degree + 1)], 1e-11)


@pytest.mark.parametrize("basis", ["chebyshev", "legendre"])
def test_exact_coefficients_do_not_depend_on_the_basis(basis: Basis) -> None:
    """These bases see x mapped to [-1, 1], where the points that weigh most are one."""
    case = CASES["1 / x^2.0, 9 decades"]
    coefficients, *_ = solution(case, 2)

    assert_close(result(case, 2, basis=basis)["exact_coefficients"][::-1], coefficients, 1e-12)


@pytest.mark.parametrize("name", ["1 / x^1.0, 3 decades", "exponential decay", "inside", "negative"])
def test_scaled_powers_are_those_of_x_mapped_to_the_unit_interval(name: str) -> None:
    """Coefficients and covariance, also where the reduction saw x from another place than the middle."""
    case, degree = CASES[name], 2
    samples = pad(SampleSets(np.array([0, len(case.x)]), *case), torch.device("cpu"))
    reduced = reduce(samples, degree)
    middle, half_width = (reduced.low + reduced.high).item() / 2, reduced.half_width.item()
    coefficients, _, inverse = solution(case, degree, middle, half_width)

    found = least_squares(reduced, torch.tensor([True]), covariance=True)

    assert reduced.centre.item() != middle
    assert found.scaled_covariance is not None
    assert_close(found.scaled, coefficients, 1e-11)
    assert_close(found.scaled_covariance, inverse, 1e-11)


def test_other_losses_see_the_points_from_the_same_place() -> None:
    """Huber's loss with a delta that no residual reaches is half the mean of squares."""
    row = result(CASES["1 / x^2.0, 9 decades"], 2, optimizer="nadam", loss="huber", delta=1e9, init="exact", steps=1)

    squares = result(CASES["1 / x^2.0, 9 decades"], 2, loss="mse")
    assert row["exact_loss"] == pytest.approx(squares["exact_loss"] / 2, rel=1e-9)
    assert row["initial_loss"] == pytest.approx(squares["exact_loss"] / 2, rel=1e-9)
