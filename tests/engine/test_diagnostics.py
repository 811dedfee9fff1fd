"""What a result says besides the coefficients, and where a descent begins."""

from typing import Any

import numpy as np
import pytest

from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=25) * 3
Y = X**2 - X + RANDOM.normal(size=25)
WEIGHTS = RANDOM.uniform(0.5, 4, size=25)


def fit_one(**fields: Any) -> dict[str, Any]:
    """The result of one job on these samples."""
    job = FitJob(**{"x": X.tolist(), "y": Y.tolist(), "weights": WEIGHTS.tolist(), **fields})
    result: dict[str, Any] = fit(jobs_batch([job.checked()]), path="eager").results.to_pylist()[0]
    return result


@pytest.mark.parametrize("absolute", [False, True])
def test_covariance_is_numpys(absolute: bool) -> None:
    """Scaled by the residual variance, or with weights of 1 / sigma^2 as they are; numpy takes 1 / sigma."""
    _, expected = np.polyfit(X, Y, 2, w=np.sqrt(WEIGHTS), cov="unscaled" if absolute else True)

    result = fit_one(covariance=True, absolute_sigma=absolute)

    np.testing.assert_allclose(np.reshape(result["covariance"], (3, 3)), expected, rtol=1e-9)
    assert result["stderr"] == pytest.approx(np.sqrt(np.diag(expected)), rel=1e-9)


def test_covariance_is_given_to_those_who_ask() -> None:
    """In one batch."""
    jobs = [FitJob(x=X.tolist(), y=Y.tolist(), covariance=asked).checked() for asked in (True, False)]

    asked, other = fit(jobs_batch(jobs), path="eager").results.to_pylist()

    assert len(asked["covariance"]) == 9
    assert other["covariance"] is None


def test_dropped_points_are_counted() -> None:
    """A point of weight 0 is dropped."""
    weights = np.where(np.arange(25) < 7, 0.0, WEIGHTS)

    result = fit_one(weights=weights.tolist())

    assert (result["samples_used"], result["samples_dropped"]) == (18, 7)


def test_lost_digits_are_said() -> None:
    """Powers of x far from 0 cancel: numpy's own evaluation of the returned coefficients is off by as much."""
    x = np.linspace(1000, 1001, 30)
    y = np.sin(6 * (x - 1000))
    (far,) = fit(jobs_batch([FitJob(x=x.tolist(), y=y.tolist(), degree=5).checked()])).results.to_pylist()

    near = fit_one()

    assert "digits are lost" in far["message"]
    assert (near["status"], near["message"]) == ("converged", None)
    rounding = np.abs(np.polyval(far["exact_coefficients"], x) - y)
    assert rounding.max() > 1e-8


def test_best_of_all_restarts_is_kept() -> None:
    """Few steps end far away, so that the start decides; the lowest of what each start gives alone is what comes back."""
    best = fit_one(restarts=6, steps=30, seed=3)
    first = fit_one(steps=30, seed=3)
    fewer = [fit_one(restarts=count, steps=30, seed=3)["loss"] for count in range(1, 7)]

    assert fewer[0] == first["loss"]
    assert fewer == sorted(fewer, reverse=True)
    assert best["loss"] == fewer[-1] < first["loss"]
    assert fewer.index(best["loss"]) == best["restart"]


def test_exact_start_begins_at_the_optimum() -> None:
    """The first loss is the least-squares one, and going on from there is not called diverging."""
    result = fit_one(init="exact")

    assert result["initial_loss"] == pytest.approx(result["exact_loss"], rel=1e-12)
    assert result["status"] == "converged"


@pytest.mark.parametrize("degree", [0, 15, 30])
@pytest.mark.parametrize("basis", ["orthogonal", "chebyshev", "legendre"])
def test_degrees_from_0_to_30(degree: int, basis: str) -> None:
    """The exact solution in the basis reproduces numpy's least squares on Chebyshev's basis."""
    x = np.linspace(-2, 3, 200)
    y = np.cos(4 * x) + 0.3 * x
    expected = np.polynomial.Chebyshev.fit(x, y, degree)(x)

    result = fit_one(x=x.tolist(), y=y.tolist(), weights=None, degree=degree, basis=basis, optimizer="exact")

    assert result["status"] == "converged"
    assert result["rmse"] == pytest.approx(np.sqrt(np.mean((expected - y) ** 2)), rel=1e-6, abs=1e-12)
    assert result["rank"] == degree + 1
