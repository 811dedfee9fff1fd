"""Robust losses in units of the spread of y: what they are, their derivatives and their conjugates.

Each is slope * F(w) with slope 1 far out and a width gamma around 0,

    F(w) = sum_i weight_i gamma shape(r_i / gamma),

with gamma = delta for huber and 1 for log_cosh, both in units of the spread; l1 is huber of a width that is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.elementary import log_cosh, tanh

#: Elementwise over any shape.
Function = Callable[[Tensor], Tensor]
#: Beyond it the width does not matter: every residual is small beside it.
MOST_WIDTH = 1e30
#: l1, and every narrower huber, is solved as huber of this width: rounding hides what lies below.
LEAST_WIDTH = 1e-12
#: Beyond this logarithms of both sides are further apart than their sum is large.
_HALF = 0.5


class Shape(NamedTuple):
    """A convex function of u = r / gamma that grows like |u|."""

    value: Function
    #: Its derivative, -1 to 1.
    slope: Function
    #: Its second derivative, 0 to 1.
    curvature: Function
    #: max(theta u - value(u)) over u, for theta from -1 to 1.
    conjugate: Function


def _huber(u: Tensor) -> Tensor:
    size = u.abs()
    return torch.where(size <= 1.0, 0.5 * u * u, size - 0.5)


def _sech_squared(u: Tensor) -> Tensor:
    tangent = tanh(u)
    return (1.0 - tangent) * (1.0 + tangent)


def _log_cosh_conjugate(theta: Tensor) -> Tensor:
    """((1 + theta) log(1 + theta) + (1 - theta) log(1 - theta)) / 2, near 0 as theta atanh(theta) + log(1 - theta^2) / 2."""
    near = theta.clamp(-_HALF, _HALF)
    centre = 0.5 * near * (torch.log1p(near) - torch.log1p(-near)) + 0.5 * torch.log1p(-near * near)
    sides = [torch.where(side > 0, side * torch.log(side.clamp(min=1e-300)), 0.0) for side in (1.0 + theta, 1.0 - theta)]
    return torch.where(theta.abs() <= _HALF, centre, 0.5 * (sides[0] + sides[1]))


def _inside(u: Tensor) -> Tensor:
    return (u.abs() <= 1.0).to(u.dtype)


HUBER = Shape(_huber, lambda u: u.clamp(-1.0, 1.0), _inside, lambda theta: 0.5 * theta * theta)
LOG_COSH = Shape(log_cosh, tanh, _sech_squared, _log_cosh_conjugate)
#: The shapes of the losses that go through the points.
SHAPES = {"huber": HUBER, "l1": HUBER, "log_cosh": LOG_COSH}
