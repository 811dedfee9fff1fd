"""Ridge regression: the solution of the normal equations, whatever way leads to it."""

from typing import Any

import numpy as np
import pytest
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray

from fitq_shared.jobs.fields import Basis, Loss
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit

RANDOM = np.random.default_rng(2)
X = RANDOM.uniform(1, 5, size=30)
Y = np.sin(X) + RANDOM.normal(size=30) * 0.1
WEIGHTS = RANDOM.uniform(0.2, 2, size=30)
DEGREE = 4


def fit_one(**fields: Any) -> dict[str, Any]:
    """The result of one job on these samples."""
    job = FitJob(x=X.tolist(), y=Y.tolist(), weights=WEIGHTS.tolist(), **{"degree": DEGREE, **fields})
    result: dict[str, Any] = fit(jobs_batch([job.checked()]), path="eager").results.to_pylist()[0]
    return result


def design_matrix(basis: Basis) -> NDArray[np.float64]:
    """The basis at the samples, from numpy."""
    t = (2 * X - X.max() - X.min()) / (X.max() - X.min())
    share = WEIGHTS / WEIGHTS.sum()
    if basis == "orthogonal":
        q, r = np.linalg.qr(np.sqrt(share)[:, None] * np.vander(t, DEGREE + 1, increasing=True))
        return np.asarray(q * np.sign(np.diag(r)) / np.sqrt(share)[:, None])
    if basis == "power":
        return np.vander(X, DEGREE + 1, increasing=True)
    return np.asarray((chebyshev.chebvander if basis == "chebyshev" else legendre.legvander)(t, DEGREE))


@pytest.mark.parametrize("ridge", [1e-3, 0.5, 100.0])
@pytest.mark.parametrize("basis", ["orthogonal", "chebyshev", "legendre", "power"])
def test_exact_solves_the_penalised_normal_equations(basis: Basis, ridge: float) -> None:
    """Coefficients, loss and standard errors; the constant is not penalised."""
    design, share = design_matrix(basis), WEIGHTS / WEIGHTS.sum()
    gram = design.T @ (share[:, None] * design)
    penalised = gram + ridge * np.diag([0.0] + [1.0] * DEGREE)
    expected = np.linalg.solve(penalised, design.T @ (share * Y))
    squares = (share * (design @ expected - Y) ** 2).sum()

    result = fit_one(basis=basis, ridge=ridge, optimizer="exact", covariance=True)

    assert (result["status"], result["gap"]) == ("converged", pytest.approx(0, abs=1e-14))
    assert result["basis_coefficients"] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert result["loss"] == pytest.approx(squares + ridge * (expected[1:] ** 2).sum(), rel=1e-9)
    assert result["rmse"] == pytest.approx(np.sqrt(squares), rel=1e-9)
    if basis == "power":
        inverse = np.linalg.inv(penalised)
        covariance = squares / (len(X) - DEGREE - 1) * inverse @ gram @ inverse
        found = np.reshape(result["covariance"], covariance.shape)[::-1, ::-1]
        np.testing.assert_allclose(found, covariance, rtol=1e-5)
        assert result["stderr"][::-1] == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-5)


@pytest.mark.parametrize("basis", ["orthogonal", "chebyshev", "legendre"])
def test_descent_ends_at_the_ridge_regression(basis: Basis) -> None:
    """Its gap is measured from the penalised optimum."""
    result = fit_one(basis=basis, ridge=0.3, dtype="float64", optimizer="lbfgs", steps=60)

    assert (result["status"], result["gap"] <= 1e-12) == ("converged", True)
    assert result["coefficients"] == pytest.approx(result["exact_coefficients"], rel=1e-5)
    assert result["loss"] == pytest.approx(result["exact_loss"], rel=1e-9)


@pytest.mark.parametrize("loss", ["huber", "log_cosh"])
def test_other_losses_take_the_same_penalty(loss: Loss) -> None:
    """With a delta that no residual reaches, twice the ridge, and small residuals they are half the mean of squares."""
    squares = fit_one(ridge=0.3, dtype="float64", optimizer="lbfgs", steps=60)
    result = fit_one(ridge=0.15, loss=loss, delta=1e3, dtype="float64", optimizer="lbfgs", steps=60)

    allowed = 1e-6 if loss == "huber" else 0.1  # log_cosh is a parabola for small residuals only
    assert result["coefficients"] == pytest.approx(squares["coefficients"], rel=allowed)


def test_fits_with_and_without_ridge_share_a_batch() -> None:
    """Each as it is alone, to the last bit."""
    jobs = [FitJob(id=str(n), x=X.tolist(), y=Y.tolist(), seed=n, ridge=0.1 * (n % 3), steps=50).checked() for n in range(9)]

    together = fit(jobs_batch(jobs), path="eager")

    for number, job in enumerate(jobs):
        alone = fit(jobs_batch([job], first_index=number), path="eager")
        assert together.results.slice(number, 1).to_pylist() == alone.results.to_pylist()
        assert together.traces.slice(number, 1).to_pylist() == alone.traces.to_pylist()
