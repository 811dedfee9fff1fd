"""Student's t distribution in numpy, to 1e-12 of every probability, however small, and of every quantile.

Near 0 a probability is summed by a series, in the tails by a continued fraction. All terms of both are positive, so
nothing cancels, and both are evaluated from the last term back, which needs no test of convergence.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

#: From this t^2 on, less where there are few degrees of freedom, the fraction takes over from the series.
_FAR = 6.0
#: Terms after which nothing changes any more, for any t on the side where they are used.
_SERIES_TERMS, _FRACTION_TERMS = 50, 80
#: Steps of Newton's method after which nothing changes any more.
_NEWTON_STEPS = 6
#: Coefficients of 1/v^2, 1/v^4, ... in the logarithm of gamma(v + 3/4) / (gamma(v + 1/4) sqrt(v)).
_RATIO_SERIES = (1 / 64, -5 / 2048, 61 / 49152, -1385 / 1048576)
#: From this v on these coefficients are enough.
_RATIO_FROM = 20


class _Areas(NamedTuple):
    """The probabilities of [-t, t] and of all beyond, and the derivative of the former by log t."""

    inner: Floats
    outer: Floats
    slope: Floats


def two_sided(t: ArrayLike, freedom: ArrayLike) -> Floats:
    """The probability of values at least as far from 0 as `t`, for `freedom` >= 1 degrees; float64, shapes broadcast."""
    t, freedom = _broadcast(t, freedom)
    return _areas(np.abs(t), freedom).outer


def cdf(t: ArrayLike, freedom: ArrayLike) -> Floats:
    """The probability of values up to `t`, for `freedom` >= 1 degrees; float64, shapes broadcast."""
    t, freedom = _broadcast(t, freedom)
    inner, outer, _ = _areas(np.abs(t), freedom)
    return np.where(t < 0, outer / 2, 0.5 + inner / 2)


def quantile(probability: ArrayLike, freedom: ArrayLike) -> Floats:
    """The t whose `cdf` is `probability`, for `freedom` >= 1 degrees; NaN outside [0, 1]; float64, shapes broadcast."""
    probability, freedom = _broadcast(probability, freedom)
    from_middle = probability - 0.5
    tail = np.where(from_middle < 0, probability, 1 - probability)
    return np.copysign(_distance(2 * np.abs(from_middle), 2 * tail, freedom), from_middle)


def reach(level: ArrayLike, freedom: ArrayLike) -> Floats:
    """The t for which [-t, t] has the probability `level`, for `freedom` >= 1 degrees; float64, shapes broadcast."""
    level, freedom = _broadcast(level, freedom)
    return _distance(level, 1 - level, freedom)


def _areas(t: Floats, freedom: Floats) -> _Areas:
    """For t >= 0; with z = t^2 / (freedom + t^2), the slope is a multiple of sqrt(z) (1 - z)^(freedom / 2)."""
    with np.errstate(over="ignore", divide="ignore"):
        inverse = np.sqrt(freedom) / t
        root = 1 / np.hypot(1, inverse)
    power = np.exp(-freedom * _log_hypotenuse(t / np.sqrt(freedom)))
    slope = freedom * _gamma_ratio(freedom) / np.sqrt(np.pi) * root * power
    far = root * root > _FAR / (freedom + 2 * _FAR)
    near = ~far
    inner, outer = np.empty_like(t), np.empty_like(t)
    inner[near] = slope[near] * _series(root[near] ** 2, freedom[near])
    outer[far] = slope[far] / (freedom[far] * root[far] ** 2 * _fraction(inverse[far] ** 2, freedom[far]))
    inner[far], outer[near] = 1 - outer[far], 1 - inner[near]
    return _Areas(inner, outer, slope)


def _series(z: Floats, freedom: Floats) -> Floats:
    """The hypergeometric series 2F1(1, (freedom + 1) / 2; 3 / 2; z), the probability of [-t, t] over its slope."""
    total = np.ones_like(z)
    for k in reversed(range(1, _SERIES_TERMS)):
        total = 1 + (freedom + (2 * k - 1)) / (2 * k + 1) * z * total
    return total


def _fraction(w: Floats, freedom: Floats) -> Floats:
    """Gauss's continued fraction of 1 / 2F1(1, 1 / 2; freedom / 2 + 1; -w), w = freedom / t^2."""
    total = np.ones_like(w)
    for k in reversed(range(1, _FRACTION_TERMS)):
        total = 1 + k * (freedom + (k - 1)) / ((freedom + (2 * k - 2)) * (freedom + 2 * k)) * w / total
    return total


def _gamma_ratio(freedom: Floats) -> Floats:
    """gamma((freedom + 1) / 2) / gamma(freedom / 2 + 1), to the last digits also where both overflow."""
    shift = np.ones_like(freedom)
    for k in range(1, _RATIO_FROM + 1):
        shift *= (freedom + 2 * k) / (freedom + (2 * k - 1))
    v = freedom / 2 + (_RATIO_FROM + 0.25)
    logarithm = np.zeros_like(v)
    for coefficient in reversed(_RATIO_SERIES):
        logarithm = (logarithm + coefficient) / (v * v)
    ratio: Floats = shift / (np.exp(logarithm) * np.sqrt(v))
    return ratio


def _log_hypotenuse(side: Floats) -> Floats:
    """log(sqrt(1 + side^2)), to the last digits for small sides, and without overflow for large ones."""
    longer = np.maximum(side, 1)
    return np.log(longer) + np.log1p((np.minimum(side, 1) / longer) ** 2) / 2


def _distance(inner: Floats, outer: Floats, freedom: Floats) -> Floats:
    """The t for which [-t, t] has the probability `inner` and the rest `outer`, each to its last digits.

    Newton's method for the logarithm of the smaller one as a function of log t, which is concave: it approaches from
    one side and never leaps. Both starts lie on that side: the density is highest at 0, and `outer` is at most
    (1 + t^2 / freedom)^(-freedom / 2).
    """
    middle = inner < outer
    with np.errstate(all="ignore"):  # both ends and what is no probability are said below
        narrowness = -2 / freedom * np.log(outer)
        t = np.where(
            middle,
            inner / (np.sqrt(freedom / np.pi) * _gamma_ratio(freedom)),
            np.sqrt(-freedom * np.expm1(-narrowness)) * np.exp(narrowness / 2),
        )
        for _ in range(_NEWTON_STEPS):
            areas = _areas(t, freedom)
            area, wanted = np.where(middle, areas.inner, areas.outer), np.where(middle, inner, outer)
            t = t * np.exp(np.where(middle, -1, 1) * area / areas.slope * np.log(area / wanted))
    return np.select([inner == 0, outer == 0], [0.0, np.inf], t)


def _broadcast(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    one, other = np.broadcast_arrays(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    return one, other
