"""Student's t distribution, beside its closed forms in arithmetic of hundreds of digits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from mpmath import mp, mpf

from fitq.evaluation.student import Floats, cdf, quantile, reach, two_sided

#: Enough to tell a probability of 1e-300 from what 1 minus it rounds to.
DIGITS = 340
FREEDOMS = [1, 2, 3, 4, 5, 6, 7, 10, 17, 31, 100, 999, 10000]
#: From the middle, across the place where one way of computing takes over from the other, to far tails.
VALUES = [0.0, 1e-300, 1e-8, 0.01, 0.3, 0.7, 1.0, 1.6, 1.9, 2.2, 2.4, 2.449, 2.45, 2.5, 3.0, 5.0, 9.0, 20.0, 37.0, 1e3, 1e6]


def inside(t: float, freedom: int) -> mpf:
    """The probability of [-t, t] by the finite sums that there are for whole degrees of freedom."""
    with mp.workdps(DIGITS):
        angle = mp.atan(mpf(t) / mp.sqrt(freedom))
        squared = mpf(freedom) / (freedom + mpf(t) ** 2)
        odd = freedom % 2
        term, total = mp.mpf(1), mp.mpf(0)
        for k in range((freedom - odd) // 2):
            total += term
            term *= squared * (2 * k + 1 + odd) / (2 * k + 2 + odd)
        if odd:
            return 2 / mp.pi * (angle + mp.sin(angle) * mp.cos(angle) * total)
        return mp.sin(angle) * total


def closeness(found: Floats, expected: mpf) -> float:
    """Relative error; smaller numbers than 1e-300 need not be there."""
    with mp.workdps(DIGITS):
        if expected < mpf("1e-300"):
            return float(found)
        return float(abs(mpf(float(found)) / expected - 1))


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_probabilities_have_twelve_digits(freedom: int) -> None:
    """However small they are, on both sides."""
    for t in VALUES:
        with mp.workdps(DIGITS):
            outside = 1 - inside(t, freedom)
            below, above = outside / 2, 1 - outside / 2

        assert closeness(two_sided(t, freedom), outside) < 1e-12, t
        assert closeness(two_sided(-t, freedom), outside) < 1e-12, t
        assert closeness(cdf(-t, freedom), below) < 1e-12, t
        assert closeness(cdf(t, freedom), above) < 1e-12, t


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_quantiles_have_twelve_digits(freedom: int) -> None:
    """The exact probability of a quantile is what was asked for, as far as one bit of the quantile moves it."""
    for probability in [1e-290, 1e-200, 1e-40, 1e-9, 0.001, 0.025, 0.2, 0.25, 0.26, 0.3, 0.4, 0.49, 0.5 - 1e-9]:
        t = -float(quantile(probability, freedom))
        with mp.workdps(DIGITS):
            wanted = mpf(probability)
            lower, upper = ((1 - inside(t * factor, freedom)) / 2 for factor in (1 + 1e-12, 1 - 1e-12))
            assert lower < wanted < upper, probability


@pytest.mark.parametrize(
    ("freedom", "cumulative"),
    [
        (1, lambda t: 0.5 + np.arctan(t) / np.pi),
        (2, lambda t: 0.5 + t / (2 * np.sqrt(2 + t**2))),
        (3, lambda t: 0.5 + (t / np.sqrt(3) / (1 + t**2 / 3) + np.arctan(t / np.sqrt(3))) / np.pi),
        (4, lambda t: 0.5 + 3 / 8 * t / np.sqrt(1 + t**2 / 4) * (1 - t**2 / (1 + t**2 / 4) / 12)),
    ],
)
def test_textbook_formulas_of_few_degrees(freedom: int, cumulative: Callable[[Floats], Floats]) -> None:
    """Of the cumulative distribution of 1 to 4 degrees of freedom."""
    t = np.linspace(-6, 6, 101)

    np.testing.assert_allclose(cdf(t, freedom), cumulative(t), rtol=1e-12)


def test_many_degrees_are_the_normal_distribution() -> None:
    """With 10^12 of them."""
    t = np.linspace(0.01, 37, 80)
    expected = [float(mp.erfc(mpf(value) / mp.sqrt(2))) for value in t]

    # The tail is heavier than the normal one's by t^4 / (4 freedom), relatively.
    np.testing.assert_allclose(two_sided(t, 1e12), expected, rtol=1e-6)
    np.testing.assert_allclose(reach(0.95, 1e12), 1.959963984540054, rtol=1e-11)


@pytest.mark.parametrize("freedom", [1, 2, 2.5, 8, 1000, 10**6])
def test_reach_and_quantile_undo_the_probabilities(freedom: float) -> None:
    """For any level; the quantile of the other side is the same with the sign changed."""
    t = np.geomspace(1e-6, 5, 60)

    np.testing.assert_allclose(reach(1 - two_sided(t, freedom), freedom), t, rtol=1e-9)
    np.testing.assert_allclose(quantile(cdf(-t, freedom), freedom), -t, rtol=1e-9)
    np.testing.assert_array_equal(quantile([0.25, 0.125], freedom), -quantile([0.75, 0.875], freedom))


def test_ends_of_the_distribution() -> None:
    """Nothing lies beyond infinity, and everything on either side of 0."""
    np.testing.assert_array_equal(two_sided([0, np.inf, -np.inf], 3), [1, 0, 0])
    np.testing.assert_array_equal(cdf([-np.inf, 0, np.inf], 3), [0, 0.5, 1])
    np.testing.assert_array_equal(quantile([0, 0.5, 1], 3), [-np.inf, 0, np.inf])
    assert np.isnan(quantile([-0.1, 1.1, np.nan], 3)).all()


def test_shapes_broadcast() -> None:
    """Values by degrees of freedom."""
    t, freedom = np.array([0.5, 2.0, 30.0]), np.array([[1.0], [50.0]])

    assert two_sided(t, freedom).shape == (2, 3)
    assert two_sided(t, freedom)[1, 2] == two_sided(30.0, 50)
    assert quantile(0.3, 5).shape == ()
