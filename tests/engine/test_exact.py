"""The least-squares side of a result against numpy, and against certified data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.polynomial import Polynomial

from fitq_shared.jobs.fields import Basis
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit
from fitq_worker.verify.certified import read


def solve(**fields: Any) -> dict[str, Any]:
    """The result of one short fit; only its exact side is looked at."""
    result: dict[str, Any] = fit(jobs_batch([FitJob(steps=1, **fields).checked()]), path="eager").results.to_pylist()[0]
    return result


@pytest.mark.parametrize("basis", ["orthogonal", "power"])
@pytest.mark.parametrize("degree", [0, 1, 2, 5, 9])
def test_exact_solution_agrees_with_numpy(degree: int, basis: Basis) -> None:
    """Coefficients in powers of x and the loss equal Polynomial.fit's."""
    random = np.random.default_rng(degree)
    x = random.uniform(1950, 2010, size=40)
    y = 60 + np.sin(x / 7) + random.normal(size=40)

    result = solve(x=x.tolist(), y=y.tolist(), degree=degree, basis=basis)

    expected = Polynomial.fit(x, y, degree)
    assert result["exact_loss"] == pytest.approx(np.mean((expected(x) - y) ** 2), rel=1e-9)
    found = Polynomial(result["exact_coefficients"][::-1])
    if degree <= 2:
        assert found.coef == pytest.approx(expected.convert().coef, rel=1e-8)
    assert result["rank"] == degree + 1
    assert result["samples_used"] == 40
    assert result["domain"] == pytest.approx([x.min(), x.max()])


@pytest.mark.parametrize("basis", ["orthogonal", "power"])
def test_weights_count_points_as_often(basis: Basis) -> None:
    """A weight of two is the point twice, a weight of zero is no point."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=12), random.normal(size=12)
    weights = np.array([2, 1, 0, 3, 1, 1, 0, 2, 1, 1, 1, 1])

    weighted = solve(x=x.tolist(), y=y.tolist(), weights=weights.tolist(), basis=basis)

    repeated = solve(x=np.repeat(x, weights).tolist(), y=np.repeat(y, weights).tolist(), basis=basis)
    for field in ("exact_loss", "initial_loss", "loss", "gap", "exact_coefficients", "condition"):
        assert weighted[field] == pytest.approx(repeated[field], rel=1e-5), field
    assert weighted["samples_used"] == 10


def test_standard_errors_agree_with_the_textbook() -> None:
    """They are the roots of the diagonal of s^2 (X'X)^-1."""
    random = np.random.default_rng(1)
    x = random.normal(size=30)
    y = 1 + 2 * x - x**2 + random.normal(size=30)
    design = np.vander(x, 3)
    solution, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    expected = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * residual[0] / (30 - 3))

    result = solve(x=x.tolist(), y=y.tolist())

    assert result["stderr"] == pytest.approx(expected, rel=1e-9)
    assert result["exact_coefficients"] == pytest.approx(solution, rel=1e-9)


def test_gap_measures_the_distance_to_the_optimum() -> None:
    """Gap is (loss - exact loss) / variance of y, loss the mean squared error of the returned coefficients."""
    random = np.random.default_rng(2)
    x = random.normal(size=25)
    y = x**3 + random.normal(size=25)

    result = fit(jobs_batch([FitJob(x=x.tolist(), y=y.tolist(), steps=30).checked()]), path="eager").results.to_pylist()[0]

    loss = np.mean((np.polyval(result["coefficients"], x) - y) ** 2)
    assert result["loss"] == pytest.approx(loss, rel=1e-9)
    assert result["gap"] == pytest.approx((loss - result["exact_loss"]) / np.var(y), rel=1e-9)
    assert result["r2"] == pytest.approx(1 - loss / np.var(y), rel=1e-9)
    assert result["rmse"] == pytest.approx(np.sqrt(loss), rel=1e-9)
    assert result["status"] == "max_steps"


def test_warm_start_from_the_optimum_stays_there() -> None:
    """`init` is given in powers of x; from the exact coefficients the first loss is the exact loss."""
    random = np.random.default_rng(4)
    x = random.uniform(5, 9, size=20)
    y = 3 * x**2 - x + random.normal(size=20)
    exact = solve(x=x.tolist(), y=y.tolist())["exact_coefficients"]

    for basis in ("orthogonal", "power"):
        result = solve(x=x.tolist(), y=y.tolist(), init=exact, basis=basis)

        assert result["initial_loss"] == pytest.approx(result["exact_loss"], rel=1e-3)
        assert result["status"] == "converged"


@pytest.mark.parametrize(
    ("name", "digits"),
    [("Norris", 12), ("Pontius", 12), ("Wampler1", 9), ("Wampler2", 12), ("Wampler4", 9), ("Wampler5", 8), ("Filip", 13)],
)
def test_exact_solution_has_the_certified_digits(nist: Path, name: str, digits: int) -> None:
    """Correct digits (log relative error) of the certified coefficients of NIST's hardest polynomials."""
    _, x, y, certified, *_ = read(nist / f"{name}.dat")

    result = solve(x=x, y=y, degree=len(certified) - 1)

    error = np.abs(np.array(result["exact_coefficients"][::-1]) / certified - 1).max()
    assert -np.log10(max(error, 1e-16)) >= digits
