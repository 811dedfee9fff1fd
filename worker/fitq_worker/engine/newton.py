"""A smooth robust loss minimised by Newton's method, from a point near its optimum.

A step is Newton's with a share of the matrix of iteratively reweighted least squares, which bounds the loss from above
(Huber, "Robust Statistics", 1981, 7.8): with a share of 1 the loss falls for certain. The share grows when a step fails
and falls when it succeeds, so that the last steps are Newton's own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import tree_sum
from fitq_worker.engine.cholesky import cholesky, solve
from fitq_worker.engine.interior_point import Standardised
from fitq_worker.engine.robust_losses import Shape
from fitq_worker.engine.trees import taken

MAX_STEPS = 200
#: A step is accepted when the loss falls by this share of what Newton's model promises.
_SUFFICIENT_DECREASE = 1e-4
#: The share of the reweighted matrix: at first, at least, and what a failure multiplies it by and a success divides it by.
_FIRST_SHARE, _LEAST_SHARE, _FACTOR = 1e-3, 1e-9, 10.0
#: Losses that differ by less than this share of them are equal up to rounding: the gradient decides then.
_ROUNDING = 1e-15
#: A step shorter than this beside the coefficients is the last.
_SHORTEST_STEP = 1e-15


class _State(NamedTuple):
    w: Tensor  # (P, B)
    share: Tensor  # (B,)


class _Place(NamedTuple):
    """What is known of the loss at some coefficients."""

    loss: Tensor  # (B,)
    gradient: Tensor  # (P, B)
    u: Tensor  # (N, B) residuals over the width


def descended(points: Standardised, shape: Shape, start: Tensor) -> Tensor:
    """The coefficients with the lowest loss, (P, B), found from `start`; every fit must have full rank."""
    found, at = start.clone(), torch.arange(start.shape[1], device=start.device)
    state = _State(start, torch.full_like(points.width, _FIRST_SHARE))
    for _ in range(MAX_STEPS):
        state, running = _stepped(points, shape, state)
        found[:, at] = state.w
        left = running.nonzero()[:, 0]
        if len(left) < len(at):
            at, points, state = taken((at, points, state), left)
        if not len(left):
            break
    return found


def _stepped(points: Standardised, shape: Shape, state: _State) -> tuple[_State, Tensor]:
    """The state after a step, and which of the fits have not ended with it, (B,)."""
    here = _place(points, shape, state.w)
    size = here.u.abs()
    reweighted = torch.where(size > _SHORTEST_STEP, shape.slope(size) / torch.where(size > 0, size, 1.0), 1.0)
    curvature = (shape.curvature(here.u) + state.share * reweighted) / points.width
    step = solve(cholesky(points.normal_matrix(curvature)), -here.gradient)
    there = _place(points, shape, state.w + step)
    promised = -tree_sum(here.gradient * step)
    fallen = there.loss <= here.loss - _SUFFICIENT_DECREASE * promised
    steeper = tree_sum(there.gradient * there.gradient) < tree_sum(here.gradient * here.gradient)
    better = fallen | (steeper & (there.loss <= here.loss * (1.0 + _ROUNDING)))
    share = torch.where(better, state.share / _FACTOR, state.share * _FACTOR).clamp(_LEAST_SHARE, 1.0)
    last = step.abs().amax(0) <= _SHORTEST_STEP * (1.0 + state.w.abs().amax(0))
    return _State(torch.where(better, state.w + step, state.w), share), ~last & (better | (state.share < 1.0))


def _place(points: Standardised, shape: Shape, w: Tensor) -> _Place:
    u = points.residuals(w) / points.width
    loss = points.width * tree_sum(points.weights * shape.value(u))
    gradient = points.pull(w) - points.projected(shape.slope(u))
    if len(points.penalty):
        loss = loss + 0.5 * tree_sum(w * points.pull(w))
    return _Place(loss, gradient, u)
