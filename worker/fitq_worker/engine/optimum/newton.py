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
from fitq_worker.engine.optimum.cholesky import cholesky, solve
from fitq_worker.engine.optimum.interior_point import Standardised
from fitq_worker.engine.optimum.robust_losses import Shape
from fitq_worker.engine.trees import take

MAX_STEPS = 200
#: A step is accepted when the loss falls by this share of what Newton's model promises.
_SUFFICIENT_DECREASE = 1e-4
#: The share of the reweighted matrix: at first, at least, and what a failure multiplies it by and a success divides it by.
_FIRST_SHARE, _LEAST_SHARE, _FACTOR = 1e-2, 1e-9, 10.0
#: Losses that differ by less than this share of them are equal up to rounding: the gradient decides then.
_ROUNDING = 1e-15
#: A step shorter than this beside the coefficients is the last.
_SHORTEST_STEP = 1e-15


class _State(NamedTuple):
    w: Tensor  # (P, B)
    share: Tensor  # (B,)


class _Evaluation(NamedTuple):
    """What is known of the loss at some coefficients."""

    loss: Tensor  # (B,)
    gradient: Tensor  # (P, B)
    u: Tensor  # (N, B) residuals over the width


def descend(points: Standardised, shape: Shape, start: Tensor, most_steps: int = MAX_STEPS) -> Tensor:
    """The coefficients with the lowest loss, (P, B), found from `start`; every fit must have full rank."""
    found, indices = start.clone(), torch.arange(start.shape[1], device=start.device)
    state = _State(start, torch.full_like(points.width, _FIRST_SHARE))
    for _ in range(most_steps):
        state, running = _step(points, shape, state)
        found[:, indices] = state.w
        remaining = running.nonzero()[:, 0]
        if len(remaining) < len(indices):
            indices, points, state = take((indices, points, state), remaining)
        if not len(remaining):
            break
    return found


def _step(points: Standardised, shape: Shape, state: _State) -> tuple[_State, Tensor]:
    """The state after a step, and which of the fits have not ended with it, (B,)."""
    before = _evaluate(points, shape, state.w)
    size = before.u.abs()
    reweighted = torch.where(size > _SHORTEST_STEP, shape.slope(size) / torch.where(size > 0, size, 1.0), 1.0)
    curvature = (shape.curvature(before.u) + state.share * reweighted) / points.width
    step = solve(cholesky(points.normal_matrix(curvature)), -before.gradient)
    after = _evaluate(points, shape, state.w + step)
    promised = -tree_sum(before.gradient * step)
    fallen = after.loss <= before.loss - _SUFFICIENT_DECREASE * promised
    steeper = tree_sum(after.gradient * after.gradient) < tree_sum(before.gradient * before.gradient)
    better = fallen | (steeper & (after.loss <= before.loss * (1.0 + _ROUNDING)))
    share = torch.where(better, state.share / _FACTOR, state.share * _FACTOR).clamp(_LEAST_SHARE, 1.0)
    last = step.abs().amax(0) <= _SHORTEST_STEP * (1.0 + state.w.abs().amax(0))
    return _State(torch.where(better, state.w + step, state.w), share), ~last & (better | (state.share < 1.0))


def _evaluate(points: Standardised, shape: Shape, w: Tensor) -> _Evaluation:
    u = points.residuals(w) / points.width
    loss = points.width * tree_sum(points.weights * shape.value(u))
    gradient = points.pull(w) - points.projected(shape.slope(u))
    if len(points.penalty):
        loss = loss + 0.5 * tree_sum(w * points.pull(w))
    return _Evaluation(loss, gradient, u)
