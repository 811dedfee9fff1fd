"""What the engine says of a fit is what evaluation needs, beside numpy's least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.polynomial import Polynomial

from fitq import p_values, predict, residuals
from fitq.evaluation.student import reach, two_sided
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit

RANDOM = np.random.default_rng(12)


def fitted(*samples: tuple[Any, Any], **fields: Any) -> pa.RecordBatch:
    """The results of jobs on these samples."""
    jobs = [FitJob(x=x.tolist(), y=y.tolist(), covariance=True, **fields).checked() for x, y in samples]
    return fit(jobs_batch(jobs), path="eager").results


def scattered(middle: float, spread: float, count: int) -> tuple[Any, Any]:
    """Points around a cubic."""
    x = middle + spread * RANDOM.uniform(-1, 1, count)
    t = (x - middle) / spread
    return x, 2 - t + 3 * t**3 + RANDOM.normal(size=count)


@pytest.mark.parametrize("basis", ["orthogonal", "chebyshev", "legendre"])
@pytest.mark.parametrize(("middle", "spread"), [(0.0, 4.0), (1.7e9, 1e5), (1.7e9, 0.5), (2e12, 1e6), (2e12, 30.0)])
def test_predictions_and_bands_are_numpys(basis: str, middle: float, spread: float) -> None:
    """Of the exact optimum, for seconds and milliseconds of today too."""
    x, y = scattered(middle, spread, 40)
    new = middle + spread * np.linspace(-1.3, 1.3, 14)
    expected = Polynomial.fit(x - middle, y, 3)
    design = np.vander((x - middle) / spread, 4)
    inverse = np.linalg.inv(design.T @ design)
    variance = np.sum((y - expected(x - middle)) ** 2) / (len(x) - 4)
    at = np.vander((new - middle) / spread, 4)
    stderr = np.sqrt(variance * np.einsum("ni,ij,nj->n", at, inverse, at))
    margin = reach(0.95, len(x) - 4) * np.sqrt(stderr**2 + variance)

    found = predict(fitted((x, y), degree=3, optimizer="exact", basis=basis), new, level=0.95).to_pylist()[0]

    np.testing.assert_allclose(found["prediction"], expected(new - middle), rtol=1e-10)
    np.testing.assert_allclose(found["stderr"], stderr, rtol=1e-9)
    np.testing.assert_allclose(found["prediction_low"], expected(new - middle) - margin, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["prediction_high"], expected(new - middle) + margin, rtol=1e-9, atol=1e-9)


def test_descended_fits_predict_what_they_came_to() -> None:
    """The returned coefficients, not the optimum: residuals have the fit's own rmse."""
    samples = [scattered(0, 4, count) for count in (9, 25, 60)]
    results = fitted(*samples, degree=3, steps=60)

    found = residuals(results, [x for x, _ in samples], [y for _, y in samples])["residual"].to_pylist()

    rmse = [np.sqrt(np.mean(np.square(row))) for row in found]
    np.testing.assert_allclose(rmse, results["rmse"].to_pylist(), rtol=1e-9)


def test_bands_hold_new_observations_as_often_as_they_say() -> None:
    """Of 4000 fits of a line to 6 points, which has wide bands; the share strays by 0.5 % in one of three runs."""
    x = np.arange(6.0)
    samples = [(x, 1 + 2 * x + RANDOM.normal(size=6)) for _ in range(4000)]
    results = fitted(*samples, degree=1, optimizer="exact")
    new = 1 + 2 * 7.5 + RANDOM.normal(size=4000)

    found = predict(results, [7.5], level=0.9)

    low, high, mean_low, mean_high = (
        np.concatenate(found[name].to_pylist())
        for name in ("prediction_low", "prediction_high", "confidence_low", "confidence_high")
    )
    assert np.mean((low < new) & (new < high)) == pytest.approx(0.9, abs=0.02)
    assert np.mean((mean_low < 16) & (mean_high > 16)) == pytest.approx(0.9, abs=0.02)


def test_p_values_are_those_of_the_standard_errors() -> None:
    """As numpy's covariance has them; they are evenly spread where the true coefficient is 0."""
    x = np.linspace(-1, 1, 9)
    samples = [(x, RANDOM.normal(size=9)) for _ in range(2000)]
    results = fitted(*samples, degree=1, optimizer="exact")

    found = np.array(p_values(results)["p"].to_pylist())

    coefficients, covariance = np.polyfit(x, samples[0][1], 1, cov=True)
    np.testing.assert_allclose(found[0], two_sided(coefficients / np.sqrt(np.diag(covariance)), 7), rtol=1e-9)
    assert np.mean(found < 0.1, axis=0) == pytest.approx([0.1, 0.1], abs=0.03)


def test_failed_fits_have_nothing_to_evaluate() -> None:
    """Their row stays in its place."""
    good = scattered(0, 4, 12)
    results = fitted(good, (np.array([1.0]), np.array([2.0])), good, degree=3)

    found = predict(results, [0.0, 1.0], level=0.95)

    assert found["prediction"][1].as_py() is None
    assert found["prediction"][0] == found["prediction"][2]
