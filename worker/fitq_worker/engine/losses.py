"""Loss functions of a batch: pure, elementwise over the batch, differentiated by autograd."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Problem(NamedTuple):
    """Mean squared error after the reduction: |R w - d|^2 + c for each of B fits with P coefficients."""

    #: R by rows, upper triangle only, shape (P (P + 1) / 2, B); no rows at all where R is the identity.
    factor: Tensor
    #: d, shape (P, B).
    target: Tensor
    #: c, shape (B,): the loss at the least-squares optimum.
    floor: Tensor


def mean_squared_error(w: Tensor, problem: Problem) -> Tensor:
    """Loss of each fit, shape (B,), for coefficients `w` of shape (P, B)."""
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
