"""The gradients that the descent follows, from autograd, against formulas and finite differences."""

from typing import Any

import numpy as np
import pytest
import torch

from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine.descent.losses import LOSSES, Problem, differentiate, value_at
from fitq_worker.engine.descent.space import Space, choose_space, quadratic_problem, ridge_system, sampled_problem
from fitq_worker.engine.samples.reduction import reduce, sample_points
from fitq_worker.engine.samples.sets import pad, sample_sets

DEGREE, FITS = 3, 6
WIDTH, CURVATURE, RIDGE = 0.7, 1.4, 0.3
RANDOM = np.random.default_rng(11)
X = RANDOM.uniform(-2, 2, size=(FITS, 15))
Y = X**3 - X + RANDOM.normal(size=X.shape)
WEIGHTS = RANDOM.uniform(0.5, 2, size=X.shape)


def problem_of(basis: str, loss: str, ridge: float) -> tuple[Problem, Space]:
    """The batch as the descent gets it, in float64."""
    rows = zip(X.tolist(), Y.tolist(), WEIGHTS.tolist(), strict=True)
    jobs = jobs_batch([FitJob(x=x, y=y, weights=weights, degree=DEGREE) for x, y, weights in rows])
    samples = pad(sample_sets(jobs), torch.device("cpu"))
    reduced = reduce(samples, DEGREE)
    space = choose_space(basis, reduced, reduced.scale, reduced.mean)
    penalty = torch.full((FITS,), ridge, dtype=torch.float64)
    if loss == "mse":
        return quadratic_problem(space, reduced, ridge_system(space, reduced, penalty) if ridge else None), space
    points = sample_points(samples, reduced)
    return sampled_problem(
        space, points, torch.full_like(penalty, WIDTH), torch.full_like(penalty, CURVATURE), penalty
    ), space


@pytest.mark.parametrize("ridge", [0.0, RIDGE])
def test_gradient_is_the_one_of_the_normal_equations(ridge: float) -> None:
    """For least squares in raw powers it is 2 V' W (V w - y) / sum(W), and 2 ridge w from the ridge."""
    problem, _ = problem_of("power", "mse", ridge)
    w = RANDOM.normal(size=(DEGREE + 1, FITS))

    _, gradient = differentiate("mse", torch.from_numpy(w), problem)

    for fit in range(FITS):
        design = np.vander(X[fit], DEGREE + 1, increasing=True)
        share = WEIGHTS[fit] / WEIGHTS[fit].sum()
        expected = 2 * design.T @ (share * (design @ w[:, fit] - Y[fit]))
        expected[1:] += 2 * ridge * w[1:, fit]
        np.testing.assert_allclose(gradient[:, fit].numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, RIDGE])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("basis", ["orthogonal", "chebyshev", "legendre", "power"])
def test_gradient_is_the_slope_of_the_loss(basis: str, loss: str, ridge: float) -> None:
    """Central differences of the loss, whose error is of the second order in the distance."""
    problem, _ = problem_of(basis, loss, ridge)
    w = torch.from_numpy(RANDOM.normal(size=(DEGREE + 1, FITS)))
    distance = 1e-6

    _, gradient = differentiate(loss, w, problem)

    for k in range(DEGREE + 1):
        aside: Any = torch.zeros_like(w)
        aside[k] = distance
        slope = (value_at(loss, w + aside, problem) - value_at(loss, w - aside, problem)) / (2 * distance)
        torch.testing.assert_close(gradient[k], slope, rtol=1e-6, atol=1e-6)
