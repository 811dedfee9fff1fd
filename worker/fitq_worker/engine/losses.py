"""Loss functions of a batch: pure, elementwise over the batch, differentiated by autograd.

A new one is a function of residuals and a row of LOSSES. The mean of squares alone can do without the samples: after
the reduction it is a function of a few numbers per fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import repeated, tree_sum


class Quadratic(NamedTuple):
    """Mean of squares after the reduction: |R w - d|^2 + c for each of B fits with P coefficients."""

    #: R by rows, upper triangle only, shape (P (P + 1) / 2, B); no rows at all where R is the identity.
    factor: Tensor
    #: d, shape (P, B).
    target: Tensor
    #: c, shape (B,): the loss at the least-squares optimum.
    floor: Tensor


class Sampled(NamedTuple):
    """Residuals on the samples themselves, N of them for each of B fits, padded with points of weight 0."""

    design: Tensor  # (P, N, B)
    target: Tensor  # (N, B), (y - offset) / unit
    weights: Tensor  # (N, B), their sum is 1
    unit: Tensor  # (B,) of y
    delta: Tensor  # (B,) in units of y
    ridge: Tensor  # (B,) in units of the loss


Problem = Quadratic | Sampled
#: (w of shape (P, B), problem) -> (B,); that of mse takes P rows of shape (B,) as well.
Value = Callable[[Tensor, Problem], Tensor]


class Loss(NamedTuple):
    """What the engine needs to know of a loss."""

    value: Value
    #: It is divided by unit^power, so that it does not depend on the scale of y where it can.
    power: int


def mean_of_squares(w: Tensor | Sequence[Tensor], problem: Problem) -> Tensor:
    """Of standardised targets, from the reduction."""
    assert isinstance(problem, Quadratic)
    coefficients = tuple(w)
    factor = iter(problem.factor.unbind(0))
    triangular = len(problem.factor) > 0
    loss = problem.floor
    for i, target in enumerate(problem.target.unbind(0)):
        value = coefficients[i]
        if triangular:
            value = next(factor) * value
            for coefficient in coefficients[i + 1 :]:
                value = value + next(factor) * coefficient
        residual = value - target
        loss = loss + residual * residual
    return loss


def huber(residual: Tensor, problem: Sampled) -> Tensor:
    """Huber, "Robust Estimation of a Location Parameter", 1964; over unit^2."""
    delta, size = problem.delta / problem.unit, residual.abs()
    return torch.where(size <= delta, 0.5 * residual * residual, delta * (size - 0.5 * delta))


def absolute(residual: Tensor, problem: Sampled) -> Tensor:
    """Least absolute deviations; over unit."""
    return residual.abs()


def log_cosh(residual: Tensor, problem: Sampled) -> Tensor:
    """log(cosh(r)) = |r| + log(1 + exp(-2 |r|)) - log(2), which does not overflow; over unit^2."""
    size = (problem.unit * residual).abs()
    return (size + torch.log1p(torch.exp(-2.0 * size)) - math.log(2.0)) / (problem.unit * problem.unit)


def _mean(of: Callable[[Tensor, Sampled], Tensor]) -> Value:
    """The weighted mean over the samples of a function of the residuals."""

    def loss(w: Tensor, problem: Problem) -> Tensor:
        assert isinstance(problem, Sampled)
        coefficients = repeated(w, problem.design.shape[1]).unbind(1)
        value = problem.design[0] * coefficients[0]
        for column, coefficient in zip(problem.design[1:], coefficients[1:], strict=True):
            value = value + column * coefficient
        others = w[1:]
        penalty = tree_sum(others * others) if len(others) else torch.zeros_like(w[0])
        return tree_sum(problem.weights * of(value - problem.target, problem)) + problem.ridge * penalty

    return loss


LOSSES = {
    "mse": Loss(mean_of_squares, 2),
    "huber": Loss(_mean(huber), 2),
    "l1": Loss(_mean(absolute), 1),
    "log_cosh": Loss(_mean(log_cosh), 2),
}
