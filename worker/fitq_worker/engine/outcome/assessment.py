"""What is to be said of the end of each fit, in numbers: coefficients in every basis, losses, distances, uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.native import elementwise
from fitq_worker.engine.native.kernels import CodePath
from fitq_worker.engine.optimum.exact import Solution, condition, excess, powers
from fitq_worker.engine.optimum.objective import Measured, Objective
from fitq_worker.engine.samples.reduction import Reduced

#: A mean square of residuals below this, in units of the variance of y, is rounding.
_ROUNDING_SQUARES = 1e-26
#: Evaluating a polynomial in powers of x loses as many digits as its terms are larger than itself.
MOST_CANCELLATION = 1e8
#: With more coefficients, their squares and cubes are more operations than a compiler is quick with.
_MOST_FUSED_COEFFICIENTS = 10


class Ended(NamedTuple):
    """How B fits with P coefficients ended; float64 coefficients in the space of the descent."""

    start: Tensor  # (P, B)
    final: Tensor  # (P, B)
    steps_made: Tensor  # (B,) int32
    end: Tensor  # (B,) int8, of `End`
    restart: Tensor  # (B,) int32


class Assessment(NamedTuple):
    """Numbers of B fits with P coefficients; float64, coefficients from the lowest power up."""

    final: Tensor  # (P, B) where they ended, in the orthonormal basis
    in_basis: Tensor  # (P, B) the same in the basis of the job
    raw: Tensor  # (P, B) the same in powers of raw x
    scaled: Tensor  # (P, B) the same in powers of u, x mapped to [-1, 1]
    measured: Measured
    optimum: Solution
    squares: Tensor  # (B,) mean square of the residuals
    r2: Tensor  # (B,)
    stderrs_off: Tensor  # (B,) largest distance of a coefficient from the optimum's in standard errors; NaN without any
    condition: Tensor  # (B,)
    cancels: Tensor  # (B,) bool, terms in powers of x may be MOST_CANCELLATION times as large as the polynomial
    domain: Tensor  # (2, B)


def assess(
    path: CodePath, objective: Objective, ended: Ended, absolute: Tensor, *, covariance: bool, how: str
) -> Assessment:
    """Assess fits that have ended; `absolute`, (B,) bool, have weights of 1 / sigma^2.

    `how` is "exact" for fits that were not descended, "power" for those that were in powers of raw x, "other" for the rest.
    """
    path = path if len(ended.final) <= _MOST_FUSED_COEFFICIENTS else "eager"
    return elementwise.run(assess_ends, path, objective, ended.start, ended.final, absolute, covariance=covariance, how=how)


def assess_ends(
    objective: Objective, start: Tensor, final: Tensor, absolute: Tensor, *, covariance: bool, how: str
) -> Assessment:
    """As `assess`; `start` and `final` are (P, B) in the space of the descent."""
    reduced, space = objective.reduced, objective.space
    orthonormal, in_basis = space.to_orthonormal(final), space.in_units_of_y(final)
    optimum = objective.solution(absolute, covariance=covariance)
    if how == "exact":
        measured, raw, scaled = objective.at_optimum(), optimum.coefficients, optimum.scaled
    else:
        measured = objective.measure(start, final)
        raw, scaled = powers(orthonormal, reduced)
        raw = in_basis if how == "power" else raw
    variance = reduced.scale * reduced.scale
    squares = reduced.floor * variance + excess(orthonormal, reduced)
    return Assessment(
        orthonormal,
        in_basis,
        raw,
        scaled,
        measured,
        optimum,
        squares,
        1.0 - squares / variance,
        _stderrs_off(raw, optimum, reduced),
        torch.ones_like(squares) if space.factor is None else condition(space.factor),
        _may_cancel(raw, orthonormal, reduced),
        torch.stack([reduced.low, reduced.high]),
    )


def _stderrs_off(raw: Tensor, optimum: Solution, reduced: Reduced) -> Tensor:
    """NaN also where what the residuals are made of is rounding."""
    distances = (raw - optimum.coefficients).abs() / optimum.stderr
    return torch.where(reduced.floor > _ROUNDING_SQUARES, distances.amax(0), torch.nan)


def _may_cancel(raw: Tensor, final: Tensor, reduced: Reduced) -> Tensor:
    """The length of `final` is the root mean square of the polynomial on the samples, and terms are largest at the ends of
    the domain, where they are quick to tell.
    """
    largest = torch.maximum(reduced.low.abs(), reduced.high.abs())
    terms = torch.zeros_like(largest)
    for coefficient in raw.flip(0):
        terms = terms * largest + coefficient.abs()
    return ~(terms <= cancelling_size(final))


def cancelling_size(final: Tensor) -> Tensor:
    """The size of terms that cancel too much, (B,)."""
    return MOST_CANCELLATION * square_root(tree_sum(final * final))
