"""Loss functions of a batch: pure, elementwise over the batch, differentiated by autograd.

A new one is a function of residuals, a row of RESIDUAL_LOSSES and a shape in robust_losses.py. The mean of squares alone
can do without the samples: after the reduction it is a function of a few numbers per fit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine import elementary
from fitq_worker.engine.arithmetic import tree_sum


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
    inverse_width: Tensor  # (B,)
    curvature: Tensor  # (B,) of the loss at 0
    ridge: Tensor  # (B,) in units of the loss


Problem = Quadratic | Sampled


def mean_of_squares(w: Tensor, problem: Quadratic) -> Tensor:
    """Of standardised targets, from the reduction: w is (P, B), the value (B,)."""
    coefficients = w.unbind(0)
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
    """Huber, "Robust Estimation of a Location Parameter", 1964: curvature r^2 / 2 up to the width, linear beyond.

    That is the most that curvature (c r - c^2 / 2) can be for c within the width, so c can be held fixed in its slope.
    """
    c = residual.detach().clamp(-problem.width, problem.width)
    return problem.curvature * (c * (residual - 0.5 * c))


def absolute(residual: Tensor, problem: Sampled) -> Tensor:
    """Least absolute deviations."""
    return residual.abs()


def log_cosh(residual: Tensor, problem: Sampled) -> Tensor:
    """curvature width^2 log(cosh(r / width))."""
    scale = problem.curvature * problem.width * problem.width
    return scale * elementary.log_cosh(residual * problem.inverse_width)


#: Losses of a residual, in any shape.
RESIDUAL_LOSSES: dict[str, Callable[[Tensor, Sampled], Tensor]] = {"huber": huber, "l1": absolute, "log_cosh": log_cosh}
LOSSES = ("mse", *RESIDUAL_LOSSES)


def value_at(loss: str, w: Tensor, problem: Problem) -> Tensor:
    """The loss of coefficients w, (P, B): (B,)."""
    if isinstance(problem, Quadratic):
        return mean_of_squares(w, problem)
    return penalise(tree_sum(weigh_losses(loss, w[:, None], problem)), w, problem)


def differentiate(loss: str, w: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """The loss of coefficients w, (P, B), and its gradient by autograd: (B,) and (P, B)."""
    if isinstance(problem, Quadratic):
        return with_gradient(partial(mean_of_squares, problem=problem), w)
    at_samples = w[:, None].expand(problem.design.shape)
    losses, slopes = with_gradient(partial(weigh_losses, loss, problem=problem), at_samples)
    return add_penalty(tree_sum(losses), tree_sum(slopes.transpose(0, 1)), w, problem)


def weigh_losses(loss: str, w: Tensor, problem: Sampled) -> Tensor:
    """The share of each sample in the loss; w, (P, ...), are the coefficients at the samples."""
    coefficients = w.unbind(0)
    value = problem.design[0] * coefficients[0]
    for column, coefficient in zip(problem.design[1:], coefficients[1:], strict=True):
        value = value + column * coefficient
    return problem.weights * RESIDUAL_LOSSES[loss](value - problem.target, problem)


def penalise(loss: Tensor, w: Tensor, problem: Sampled) -> Tensor:
    """The loss, (B,), with the ridge; the constant has none."""
    return loss if len(w) == 1 else loss + _penalty(w, problem)


def add_penalty(loss: Tensor, gradient: Tensor, w: Tensor, problem: Sampled) -> tuple[Tensor, Tensor]:
    """Loss, (B,), and gradient, (P, B), with the ridge; the constant has none."""
    if len(w) == 1:
        return loss, gradient
    penalty, slope = with_gradient(partial(_penalty, problem=problem), w)
    return loss + penalty, gradient + slope


def with_gradient(value: Callable[[Tensor], Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """What `value` makes of w, and by autograd the gradient with respect to w of each of its numbers."""
    with torch.enable_grad():
        leaf = w.detach().requires_grad_()
        values = value(leaf)
        (gradient,) = torch.autograd.grad(values, leaf, torch.ones_like(values))
    return values.detach(), gradient


def _penalty(w: Tensor, problem: Sampled) -> Tensor:
    """The ridge times the sum of squares of all coefficients but the constant's, (B,)."""
    others = w[1:]
    return problem.ridge * tree_sum(others * others)
