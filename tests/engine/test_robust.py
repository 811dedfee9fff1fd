"""The optimum of huber, l1 and log_cosh, its certificate and its uncertainty, against enumeration, RLM and 40 digits."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, get_args

import mpmath
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.api import RLM, robust

from fitq_shared.jobs.fields import Loss, Optimizer
from fitq_shared.jobs.frames import jobs_batch, shape_name
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit

Floats = NDArray[np.float64]
ROBUST: list[Loss] = ["huber", "l1", "log_cosh"]
DESCENTS: list[Optimizer] = [name for name in get_args(Optimizer) if name != "exact"]


def rows(jobs: Sequence[FitJob]) -> list[dict[str, Any]]:
    """Their results; jobs that agree in shape are one batch."""
    checked = [msgspec.structs.replace(job.checked(), id=str(number)) for number, job in enumerate(jobs)]
    shapes: dict[str, list[FitJob]] = {}
    for job in checked:
        shapes.setdefault(shape_name(jobs_batch([job])), []).append(job)
    results = [row for batch in shapes.values() for row in fit(jobs_batch(batch), path="eager").results.to_pylist()]
    return sorted(results, key=lambda row: int(row["id"]))


def data_sets(seed: int, count: int, points: int) -> Any:
    """x, y and weights: noise of all kinds, ties, outliers of 1e6, points on a line."""
    random = np.random.default_rng(seed)
    sets: list[Any] = []
    for number in range(count):
        x = np.round(random.uniform(-3, 3, size=points), 2)
        noise = [
            random.normal(size=points),
            random.standard_t(1, size=points),
            np.round(random.normal(size=points) * 2),
            1e6 * (random.random(points) < 0.2),
            np.zeros(points),
        ][number % 5]
        weights = random.uniform(0.2, 3, size=points) if number % 2 else np.ones(points)
        sets.append((x, 1.5 - 2 * x + noise, weights))
    return sets


def enumerated(x: Floats, y: Floats, weights: Floats, degree: int) -> float:
    """The lowest mean absolute deviation: some optimum goes through as many points as it has coefficients."""
    exact = [(Fraction(a), Fraction(b), Fraction(c)) for a, b, c in zip(x, y, weights, strict=True)]
    total, losses = sum(c for *_, c in exact), []
    for chosen in itertools.combinations(range(len(x)), degree + 1):
        points = [exact[i] for i in chosen]
        if len({a for a, *_ in points}) <= degree:
            continue
        losses.append(sum(c * abs(b - lagrange(points, a)) for a, b, c in exact) / total)
    return float(min(losses))


def lagrange(points: list[tuple[Fraction, Fraction, Fraction]], at: Fraction) -> Fraction:
    """The polynomial through the points, at `at`."""
    value = Fraction(0)
    for i, (a, b, _) in enumerate(points):
        term = b
        for j, (other, *_) in enumerate(points):
            if j != i:
                term *= (at - other) / (a - other)
        value += term
    return value


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_l1_finds_the_lowest_of_all_interpolations(degree: int) -> None:
    """Weighted, with ties and outliers; by exact rational arithmetic over every choice of points."""
    sets = data_sets(degree, 10, 11)
    jobs = [FitJob(x=x, y=y, weights=w, degree=degree, loss="l1", optimizer="exact") for x, y, w in sets]

    for (x, y, weights), result in zip(sets, rows(jobs), strict=True):
        lowest = enumerated(x, y, weights, degree)
        assert result["status"] == "converged"
        assert result["exact_loss"] == pytest.approx(lowest, rel=1e-13, abs=1e-13)
        assert result["loss"] == result["exact_loss"]


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("tuning", [0.5, 1.345])
def test_huber_is_rlm_with_a_fixed_scale(degree: int, tuning: float) -> None:
    """Coefficients and the sandwich estimate of statsmodels (H1)."""
    for x, y, _ in data_sets(7, 10, 40)[:2]:
        design = np.vander(x, degree + 1)
        model = RLM(y, design, M=robust.norms.HuberT(t=tuning))
        reference = model.fit(update_scale=False, tol=1e-14, maxiter=500)
        job = FitJob(
            x=x, y=y, degree=degree, loss="huber", delta=tuning * reference.scale, optimizer="exact", covariance=True
        )

        (result,) = rows([job])

        assert result["exact_coefficients"] == pytest.approx(reference.params, rel=1e-8, abs=1e-9)
        assert result["stderr"] == pytest.approx(reference.bse, rel=1e-6)
        assert result["covariance"] == pytest.approx(reference.bcov_scaled.ravel(), rel=1e-6)


@pytest.mark.parametrize("loss", ["huber", "log_cosh"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_newton_in_forty_digits_does_not_move_the_optimum(loss: Loss, scale: float) -> None:
    """The gradient over the curvature, at the coefficients that came out."""
    sets = data_sets(3, 10, 30)
    jobs = [FitJob(x=x, y=y * scale, weights=w, degree=2, loss=loss, optimizer="exact") for x, y, w in sets]

    for (x, y, weights), result in zip(sets, rows(jobs), strict=True):
        step = newton_step(x, y * scale, weights, result["exact_coefficients"], loss)
        assert step <= 1e-9 * scale


def newton_step(x: Floats, y: Floats, weights: Floats, coefficients: list[float], loss: Loss) -> float:
    """Method far one more step of Newton's method goes, in 40 digits and in units of y on the points."""
    with mpmath.workdps(40):
        size = len(coefficients)
        gradient, curvature = mpmath.zeros(size, 1), mpmath.zeros(size)
        for a, b, weight in zip(x.tolist(), y.tolist(), weights.tolist(), strict=True):
            powers = [mpmath.mpf(a) ** k for k in reversed(range(size))]
            r = sum(c * p for c, p in zip(coefficients, powers, strict=True)) - mpmath.mpf(b)
            inside = abs(r) <= 1
            slope = mpmath.tanh(r) if loss == "log_cosh" else (r if inside else mpmath.sign(r))
            second = 1 - mpmath.tanh(r) ** 2 if loss == "log_cosh" else mpmath.mpf(1 if inside else 0)
            for i, p in enumerate(powers):
                gradient[i] += weight * slope * p
                for j, q in enumerate(powers):
                    curvature[i, j] += weight * second * p * q
        step = mpmath.lu_solve(curvature, gradient)
        return float(max(abs(sum(step[i] * mpmath.mpf(a) ** (size - 1 - i) for i in range(size))) for a in x.tolist()))


@pytest.mark.parametrize("loss", ROBUST)
@pytest.mark.parametrize("ridge", [0.0, 0.05, 20.0])
def test_gap_bounds_the_distance_to_the_lowest_loss_from_above(loss: Loss, ridge: float) -> None:
    """Nowhere is the loss lower than a fit's loss less its gap: neither at the optimum nor at 300 places around it."""
    random = np.random.default_rng(1)
    for x, y, weights in data_sets(5, 10, 25):
        given: dict[str, Any] = {"x": x, "y": y, "weights": weights, "degree": 2, "basis": "chebyshev", "dtype": "float64"}
        job = FitJob(**given, loss=loss, ridge=ridge, init="exact", steps=3, optimizer="sgd", lr=1e-3)
        exact = FitJob(**given, loss=loss, ridge=ridge, optimizer="exact")

        descended, optimum = rows([job, exact])

        spread = spread_loss(y, weights, loss)
        lowest = min(result["loss"] - result["gap"] * spread for result in (descended, optimum))
        assert optimum["gap"] <= 1e-6
        assert optimum["loss"] == pytest.approx(loss_at(job, optimum["basis_coefficients"]), rel=1e-9, abs=1e-12)
        for distance in 10.0 ** random.uniform(-8, 1, size=300):
            around = np.array(optimum["basis_coefficients"]) + distance * random.normal(size=3)
            assert loss_at(job, around) >= lowest - 1e-9 * abs(lowest) - 1e-12


def loss_at(job: FitJob, basis_coefficients: Sequence[float] | Floats) -> float:
    """The loss with its ridge, by numpy, in units of y."""
    x, y, weights = (np.asarray(values, dtype=np.float64) for values in (job.x, job.y, job.weights))
    t = (x - (x.max() + x.min()) / 2) / ((x.max() - x.min()) / 2)
    r = np.polynomial.chebyshev.chebval(t, np.asarray(basis_coefficients)) - y
    values = shape_of(job.loss, r)
    return float(np.average(values, weights=weights) + job.ridge * np.sum(np.asarray(basis_coefficients)[1:] ** 2))


def shape_of(loss: Loss, r: Floats) -> Floats:
    size = np.abs(r)
    if loss == "log_cosh":
        return np.asarray(np.logaddexp(r, -r) - np.log(2))
    return size if loss == "l1" else np.where(size <= 1, size**2 / 2, size - 0.5)


def spread_loss(y: Floats, weights: Floats, loss: Loss) -> float:
    """The loss of a residual as large as the robust spread of y, which the gap is in units of."""
    spread = 1.4826 * median(np.abs(y - median(y, weights)), weights)
    return float(shape_of(loss, np.array([spread]))[0])


def median(values: Floats, weights: Floats) -> float:
    """Where half of the weight lies below; no sum of these weights is half of all."""
    order = np.argsort(values)
    half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(values[order][half])


def test_one_outlier_does_not_make_a_fit_converged() -> None:
    """Whatever stops it, a fit called converged is near the optimum beside the range of the other points."""
    x: Any = np.linspace(0, 10, 20)
    y: Any = 3 + 0.5 * x + 0.1 * np.sin(7 * x)
    y[4] = 1e6
    stops: list[dict[str, Any]] = [{"ftol": 1e-5, "steps": 600}, {"gtol": 1e-3}, {}]
    kinds = itertools.product(ROBUST, DESCENTS, stops)
    found = rows([FitJob(x=x, y=y, degree=1, loss=loss, optimizer=name, **stop) for loss, name, stop in kinds])

    converged = [result for result in found if result["status"] == "converged"]
    assert len(converged) > 10
    for result in converged:
        away = np.polyval(result["coefficients"], x) - np.polyval(result["exact_coefficients"], x)
        assert np.abs(away).max() <= 0.5


@pytest.mark.parametrize("power", [-40, 40])
@pytest.mark.parametrize("loss", ["mse", "huber", "l1"])
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_the_scale_of_y_does_not_matter(optimizer: Optimizer, loss: Loss, power: int) -> None:
    """Times 2^40 (1e12) or 2^-40, with delta scaled as well: the same status, and coefficients that are so many times as
    large to the last bit.
    """
    factor = 2.0**power
    job: dict[str, Any] = {"loss": loss, "optimizer": optimizer, "steps": 150, "ftol": 1e-3, "gtol": 1e-4}
    plain = [FitJob(**job, x=x, y=y, weights=weights) for x, y, weights in data_sets(11, 5, 20)]
    scaled = [msgspec.structs.replace(own, y=np.asarray(own.y) * factor, delta=factor) for own in plain]

    for one, other in zip(rows(plain), rows(scaled), strict=True):
        assert (other["status"], other["steps"], other["gap"]) == (one["status"], one["steps"], one["gap"])
        for name in ("coefficients", "exact_coefficients"):
            assert other[name] == (None if one[name] is None else [value * factor for value in one[name]])


@pytest.mark.parametrize("optimizer", ["exact", "lbfgs", "nadam"])
@pytest.mark.parametrize("exponent", [-12, -8, 0, 8, 12])
def test_log_cosh_is_squares_where_y_is_small_and_l1_where_it_is_large(optimizer: Optimizer, exponent: int) -> None:
    """Its optimum for y of 1e-12 to 1e12, and what is called converged is near it."""
    for x, y, weights in data_sets(13, 2, 20):
        scaled = y * 10.0**exponent
        job: dict[str, Any] = {
            "x": x,
            "y": scaled,
            "weights": weights,
            "degree": 1,
            "dtype": "float64",
            "schedule": "cosine",
        }

        found, squares, l1 = rows(
            [
                FitJob(**job, loss="log_cosh", optimizer=optimizer, steps=500),
                FitJob(**job, loss="mse", optimizer="exact"),
                FitJob(**job, loss="l1", optimizer="exact"),
            ]
        )

        spread = np.ptp(scaled)
        for limit, expected in ((-8, squares), (8, l1)):
            if exponent * np.sign(limit) >= abs(limit):
                away = np.polyval(found["exact_coefficients"], x) - np.polyval(expected["exact_coefficients"], x)
                assert np.abs(away).max() <= 1e-6 * spread
        away = np.polyval(found["coefficients"], x) - np.polyval(found["exact_coefficients"], x)
        assert found["status"] != "converged" or np.abs(away).max() <= 0.05 * spread
        assert found["status"] == "converged" or optimizer != "exact"


def test_delta_in_robust_standard_deviations() -> None:
    """Times 1.4826 medians of the absolute deviations from the l1 fit; the result says what that is in units of y."""
    x, y, _ = data_sets(17, 1, 41)[0]
    (l1,) = rows([FitJob(x=x, y=y, loss="l1", optimizer="exact")])
    sigma = 1.4826 * np.median(np.abs(np.polyval(l1["coefficients"], x) - y))

    by_sigma, by_delta = rows(
        [
            FitJob(x=x, y=y, loss="huber", delta_sigma=1.345, optimizer="exact"),
            FitJob(x=x, y=y, loss="huber", delta=1.345 * sigma, optimizer="exact"),
        ]
    )

    assert by_sigma["delta"] == pytest.approx(1.345 * sigma, rel=1e-9)
    assert by_sigma["coefficients"] == pytest.approx(by_delta["coefficients"], rel=1e-8)


@pytest.mark.parametrize(
    "fields", [{"loss": "l1"}, {"loss": "huber", "ridge": 0.1}, {"loss": "huber", "absolute_sigma": True}]
)
def test_standard_errors_that_nobody_knows_are_null(fields: dict[str, Any]) -> None:
    """Rather than those of another fit."""
    x, y, weights = data_sets(19, 1, 30)[0]

    (result,) = rows([FitJob(x=x, y=y, weights=weights, covariance=True, **fields)])

    assert (result["stderr"], result["covariance"], result["stderrs_off"]) == (None, None, None)


def test_distance_from_the_optimum_in_standard_errors() -> None:
    """Of the coefficient that is furthest off."""
    x, y, weights = data_sets(23, 1, 30)[0]

    for loss in ("mse", "huber"):
        (result,) = rows([FitJob(x=x, y=y, weights=weights, loss=loss, steps=300)])
        away = np.abs(np.subtract(result["coefficients"], result["exact_coefficients"])) / result["stderr"]
        assert result["stderrs_off"] == pytest.approx(away.max(), rel=1e-12)


@pytest.mark.parametrize("loss", ROBUST)
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_optimum_does_not_depend_on_the_batch(loss: Loss, ridge: float) -> None:
    """Alone, reversed, beside longer sample sets and beside sick ones: the same bits."""
    jobs = [
        FitJob(id=f"{points}-{number}", x=x, y=y, weights=w, loss=loss, ridge=ridge, optimizer="exact").checked()
        for points in (5, 12, 33, 70)
        for number, (x, y, w) in enumerate(data_sets(points, 5, points))
    ]
    sick = [FitJob(id="sick", x=[1.0, None, 2.0], y=[1.0, 2.0, 3.0], loss=loss, ridge=ridge, optimizer="exact").checked()]
    few = [FitJob(id="few", x=[1.0, 1.0, 1.0], y=[1.0, 2.0, 3.0], loss=loss, ridge=ridge, optimizer="exact").checked()]

    def by_id(some: list[FitJob]) -> dict[str, dict[str, Any]]:
        results = fit(jobs_batch(some), path="eager").results.drop_columns(["index"]).to_pylist()
        return {result["id"]: result for result in results}

    together = by_id(jobs + sick + few)
    assert by_id(sick + few + jobs[::-1]) == together
    for job in jobs[::3]:
        assert by_id([job])[job.id] == together[job.id]
