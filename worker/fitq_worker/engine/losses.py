"""Loss functions of a batch: pure, elementwise over the batch, differentiated by autograd.

A new one is a function of residuals, a row of LOSSES and a
shape in robust_losses.py. The mean of squares alone can do without the samples: after
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
    width: Tensor  # (B,) gamma: how far the loss is nearly quadratic, in units of the targets
    curvature: Tensor  # (B,) of the loss at 0
    ridge: Tensor  # (B,) in units of the loss


Problem = Quadratic | Sampled
#: (w of shape (P, B), problem) -> (B,); that of mse takes P rows of shape (B,) as well.
Value = Callable[[Tensor, Problem], Tensor]


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
    """Huber, "Robust Estimation of a Location Parameter", 1964: curvature r^2 / 2 up to the width, linear beyond."""
    size, width, curvature = residual.abs(), problem.width, problem.curvature
    near, far = 0.5 * curvature * residual * residual, curvature * width * (size - 0.5 * width)
    return torch.where(size <= width, near, far)


def absolute(residual: Tensor, problem: Sampled) -> Tensor:
    """Least absolute deviations."""
    return residual.abs()


def log_cosh(residual: Tensor, problem: Sampled) -> Tensor:
    """curvature width^2 log(cosh(r / width)), in a form that keeps its digits near 0 and one for far out."""
    size = residual.abs() / problem.width
    tangent = torch.tanh(size.clamp(max=1.0))
    near, far = -0.5 * torch.log1p(-tangent * tangent), size + torch.log1p(torch.exp(-2.0 * size)) - math.log(2.0)
    return problem.curvature * problem.width * problem.width * torch.where(size <= 1.0, near, far)


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


#: The value of each loss as the descent has it.
LOSSES: dict[str, Value] = {
    "mse": mean_of_squares,
    "huber": _mean(huber),
    "l1": _mean(absolute),
    "log_cosh": _mean(log_cosh),
}
