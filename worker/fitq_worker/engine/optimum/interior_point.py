"""Huber's loss, and l1 as its narrowest case, minimised by a primal-dual interior-point method.

With r = z - Q w and theta the slope of the loss at each residual, the optimum is where

    r = gamma theta + u - v,    Q' W theta = 2 ridge S w,    u (1 - theta) = 0,    v (1 + theta) = 0,    u, v >= 0:

u and v are what residuals exceed the width by. Newton's method on these equations with mu in place of the zeros, mu
falling to nothing, is Portnoy and Koenker's for l1 ("The Gaussian hare and the Laplacian tortoise", Statistical Science
12, 1997); predictor, corrector and step lengths are Mehrotra's ("On the implementation of a primal-dual interior point
method", SIAM Journal on Optimization 2, 1992). It takes 5 to 30 steps, whatever the scale of the outliers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import tree_sum
from fitq_worker.engine.optimum.cholesky import cholesky, solve
from fitq_worker.engine.trees import take

MAX_STEPS = 100
#: The steps end when mu, in units of the spread, the error of the residuals beside the targets, and the slope that is left
#: of the loss are below these.
SMALLEST_MU, SMALLEST_ERROR, SMALLEST_SLOPE = 1e-15, 1e-14, 1e-12
#: A step goes at most this share of the way to where u, v or theta would leave their limits.
_SHARE_OF_WAY = 0.9995
#: A step shorter than this leads nowhere any more.
_SHORTEST_STEP = 1e-8
#: Steps between two looks at whether half of the fits have ended.
_COMPACTION_STEPS = 4


class Standardised(NamedTuple):
    """The points of B fits for P coefficients, targets in units of their spread; float64."""

    q: Tensor  # (N, P, B) orthonormal polynomials
    z: Tensor  # (N, B) targets
    weights: Tensor  # (N, B) with sum 1; 0 is no point
    width: Tensor  # (B,) gamma
    penalty: Tensor  # (P, P, B) ridge times S, in units of F; of shape (0, 0, B) where no fit has one

    def residuals(self, w: Tensor) -> Tensor:
        """z - Q w, (N, B); 0 at what is no point."""
        rest = self.z
        for column, coefficient in zip(self.q.unbind(1), w, strict=True):
            rest = rest - column * coefficient
        return torch.where(self.weights > 0, rest, 0.0)

    def projected(self, values: Tensor) -> Tensor:
        """Q' W values, (P, B), of values at the points, (N, B)."""
        return tree_sum(self.q * (self.weights * values)[:, None])

    def normal_matrix(self, curvature: Tensor) -> Tensor:
        """Q' W diag(curvature) Q and twice the penalty, (P, P, B)."""
        weighted = self.q * (self.weights * curvature)[:, None]
        rows = [tree_sum(self.q[:, i : i + 1] * weighted) for i in range(self.q.shape[1])]
        matrix = torch.stack(rows)
        return matrix + 2.0 * self.penalty if len(self.penalty) else matrix

    def pull(self, w: Tensor) -> Tensor:
        """The gradient of the penalty, (P, B)."""
        return 2.0 * tree_sum((self.penalty * w).transpose(0, 1)) if len(self.penalty) else torch.zeros_like(w)


class _State(NamedTuple):
    w: Tensor  # (P, B)
    theta: Tensor  # (N, B), as the others
    below: Tensor  # 1 - theta, kept apart because it may be as small as rounding
    above: Tensor  # 1 + theta
    u: Tensor
    v: Tensor


def minimise(points: Standardised) -> tuple[Tensor, Tensor]:
    """The coefficients with the lowest loss, (P, B), and theta, (N, B); every fit must have full rank."""
    found, slopes = torch.empty_like(points.q[0]), torch.empty_like(points.z)
    indices = torch.arange(found.shape[1], device=found.device)
    state = _start(points)
    running = torch.ones_like(indices, dtype=torch.bool)
    for step in range(MAX_STEPS):
        state, moving = _step(points, state, running)
        running = running & moving
        if step % _COMPACTION_STEPS == _COMPACTION_STEPS - 1 and 2 * int(running.sum()) <= len(running):
            found[:, indices], slopes[:, indices] = state.w, state.theta
            remaining = running.nonzero()[:, 0]
            indices, points, state = take((indices, points, state), remaining)
            running = running[remaining]
            if not len(remaining):
                break
    found[:, indices], slopes[:, indices] = state.w, state.theta
    return found, slopes


def _start(points: Standardised) -> _State:
    """The zero polynomial, theta in the middle of its limits, and u and v far from theirs."""
    w, theta, ones = torch.zeros_like(points.q[0]), torch.zeros_like(points.z), torch.ones_like(points.z)
    residuals = points.residuals(w)
    return _State(w, theta, ones, ones, residuals.clamp(min=0) + 1.0, (-residuals).clamp(min=0) + 1.0)


def _step(points: Standardised, state: _State, running: Tensor) -> tuple[_State, Tensor]:
    """The state after a step of the fits that are running, and which of them have not ended with it, (B,)."""
    mu = _mean_product(points, state)
    newton = _Newton(points, state)
    predicted = newton.direction(-state.u * state.below, -state.v * state.above)
    reached = _move(state, predicted, _longest(points, state, predicted).clamp(max=1.0))
    target = (_mean_product(points, reached) / mu) ** 3 * mu
    direction = newton.direction(
        target - state.u * state.below + predicted.u * predicted.theta,
        target - state.v * state.above - predicted.v * predicted.theta,
    )
    length = (_SHARE_OF_WAY * _longest(points, state, direction)).clamp(max=1.0)
    sound = running & torch.isfinite(length) & torch.isfinite(direction.w).all(0)
    moved = _move(state, direction, length)
    state = _State(*(torch.where(sound, new, old) for new, old in zip(moved, state, strict=True)))
    return state, sound & ~_is_solved(points, state) & (length > _SHORTEST_STEP)


def _is_solved(points: Standardised, state: _State) -> Tensor:
    error = tree_sum(points.weights * _error(points, state).abs())
    slope = (points.projected(state.theta) - points.pull(state.w)).abs().amax(0)
    exact = (error <= SMALLEST_ERROR * tree_sum(points.weights * points.z.abs())) & (slope <= SMALLEST_SLOPE)
    return exact & (_mean_product(points, state) <= SMALLEST_MU)


def _error(points: Standardised, state: _State) -> Tensor:
    return points.residuals(state.w) - points.width * state.theta - state.u + state.v


def _mean_product(points: Standardised, state: _State) -> Tensor:
    """mu, the mean of what becomes 0 at the optimum, (B,)."""
    return 0.5 * tree_sum(points.weights * (state.u * state.below + state.v * state.above))


class _Newton:
    """Newton's equations at a state; two right-hand sides share their matrix."""

    def __init__(self, points: Standardised, state: _State) -> None:
        self._points, self._state = points, state
        self._stiffness = points.width + state.u / state.below + state.v / state.above
        self._factor = cholesky(points.normal_matrix(1.0 / self._stiffness))
        self._error = _error(points, state)
        self._slope = points.projected(state.theta) - points.pull(state.w)

    def direction(self, to_u: Tensor, to_v: Tensor) -> _State:
        """Where u (1 - theta) changes by `to_u` and v (1 + theta) by `to_v`, (N, B), and the equations hold."""
        points, state = self._points, self._state
        push = to_u / state.below - to_v / state.above - self._error
        w = solve(self._factor, self._slope - points.projected(push / self._stiffness))
        along = push
        for column, coefficient in zip(points.q.unbind(1), w, strict=True):
            along = along + column * coefficient
        theta = torch.where(points.weights > 0, -along / self._stiffness, 0.0)
        u, v = (to_u + state.u * theta) / state.below, (to_v - state.v * theta) / state.above
        return _State(w, theta, -theta, theta, u, v)


def _move(state: _State, direction: _State, length: Tensor) -> _State:
    return _State(*(value + length * change for value, change in zip(state, direction, strict=True)))


def _longest(points: Standardised, state: _State, direction: _State) -> Tensor:
    """How far along `direction` all of 1 - theta, 1 + theta, u and v stay positive, (B,)."""
    longest = torch.full_like(points.width, torch.inf)
    for value, change in zip(state[2:], direction[2:], strict=True):
        falls = (change < 0) & (points.weights > 0)
        longest = torch.minimum(longest, torch.where(falls, -value / torch.where(falls, change, -1.0), torch.inf).amin(0))
    return longest
