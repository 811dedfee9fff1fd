"""L-BFGS, batched: every fit has its own history of curvature and its own line search.

Nocedal, "Updating Quasi-Newton Matrices with Limited Storage", Mathematics of Computation 35, 1980, with Armijo's
backtracking. As long as the first trial of a step is accepted, a fit follows torch.optim.LBFGS without line search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import tree_sum
from fitq_worker.engine.descent.eager import Fits
from fitq_worker.engine.descent.losses import Problem, differentiate, value_at
from fitq_worker.engine.descent.optimizers import Moments

#: A pair whose s'y is less is no curvature; torch.optim.LBFGS has the same number.
LEAST_CURVATURE = 1e-10
#: The loss must fall by this share of what its slope promises (Armijo's condition).
SUFFICIENT_DECREASE = 1e-4
#: Trial steps of a line search; when all of them are rejected, a fit stays where it is.
MAX_TRIALS = 20
#: A rejected trial is followed by one that is shorter by a factor within these.
SHORTEST, LONGEST = 0.1, 0.5


class State(NamedTuple):
    """What L-BFGS remembers of B fits with P coefficients: the last point, and pairs of steps and changes of the gradient.

    The descent keeps it as moments, one after the other: w, gradient, then s and y of each pair, newest first.
    """

    w: Tensor  # (P, B)
    gradient: Tensor  # (P, B)
    pairs: tuple[tuple[Tensor, Tensor], ...]  # s and y, (P, B) each; zeros where there is no pair yet

    @classmethod
    def of_moments(cls, moments: Moments) -> State:
        """The state that `moments` hold."""
        w, gradient, *history = moments
        return cls(w, gradient, tuple(zip(history[::2], history[1::2], strict=True)))

    def moments(self) -> Moments:
        """The state as moments."""
        return (self.w, self.gradient, *(tensor for pair in self.pairs for tensor in pair))

    def after(self, w: Tensor, gradient: Tensor, started: Tensor) -> State:
        """The state at the next point; a pair without curvature, and one of fits that had not `started`, is left out."""
        newest = w - self.w, gradient - self.gradient
        curved = (tree_sum(newest[0] * newest[1]) > LEAST_CURVATURE) & started
        shifted = zip((newest, *self.pairs[:-1]), self.pairs, strict=True)
        pairs = tuple((torch.where(curved, new_s, s), torch.where(curved, new_y, y)) for (new_s, new_y), (s, y) in shifted)
        return State(w, gradient, pairs)


class Search(NamedTuple):
    """The line search of a step of B fits with P coefficients."""

    direction: Tensor  # (P, B)
    slope: Tensor  # (B,) of the loss along it
    loss: Tensor  # (B,) before the step
    length: Tensor  # (B,) of the next trial
    moved: Tensor  # (P, B) where the step leads, w as long as no trial was accepted
    accepted: Tensor  # (B,) bool

    def trial(self, w: Tensor) -> Tensor:
        """The coefficients to try next, (P, B)."""
        return w + self.length * self.direction


def lbfgs_block(
    w: Tensor, moments: Moments, problem: Problem, fits: Fits, first: Tensor, schedule: Tensor, *, loss: str
) -> tuple[Tensor, Moments, Tensor]:
    """As `eager.step_block`, with a `State` in the moments. The loss of a fit never rises."""
    losses = []
    for k in range(len(schedule)):
        values, gradient = differentiate(loss, w, problem)
        moments, search = begin_search(w, moments, values, gradient, fits, first + k, schedule[k])
        for _ in range(MAX_TRIALS):
            trial = search.trial(w)
            search = judge_trial(search, trial, value_at(loss, trial, problem))
            if w.device.type == "cpu" and search.accepted.all():  # on a GPU asking costs more than going on
                break
        losses.append(values)
        w = torch.where(first + k < fits.steps, search.moved, w)
    return w, moments, torch.stack(losses)


def begin_search(
    w: Tensor, moments: Moments, loss: Tensor, gradient: Tensor, fits: Fits, step: Tensor, row: Tensor
) -> tuple[Moments, Search]:
    """The moments after a step, and the search of where it leads; `row` is that of the schedule, (1, B) or (1, 1)."""
    started = step > 0
    state = State.of_moments(moments).after(w, gradient, started)
    direction = _direction(gradient, state.pairs)
    size = tree_sum(gradient.abs())
    shortened = torch.where(started | (size <= 1.0), 1.0, 1.0 / size)
    length, slope = fits.lr * row[0] * shortened, tree_sum(direction * gradient)
    return state.moments(), Search(direction, slope, loss, length, w, torch.zeros_like(slope, dtype=torch.bool))


def judge_trial(search: Search, trial: Tensor, reached: Tensor) -> Search:
    """The search after a trial with the loss `reached`, (B,): the first that lowers the loss enough, else a shorter one."""
    length, slope = search.length, search.slope
    lower = reached <= search.loss + SUFFICIENT_DECREASE * length * slope
    moved = torch.where(lower & ~search.accepted, trial, search.moved)
    # The minimum of the parabola through both losses with this slope.
    shorter = -slope * length * length / (2.0 * (reached - search.loss - slope * length))
    least, most = SHORTEST * length, LONGEST * length
    length = torch.where(shorter >= least, torch.minimum(shorter, most), least)
    return search._replace(length=length, moved=moved, accepted=search.accepted | lower)


def _direction(gradient: Tensor, history: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """-H gradient by the two-loop recursion, H scaled by s'y / y'y of the newest pair; downhill in any case."""
    curvatures = [tree_sum(s * y) for s, y in history]
    inverse = [torch.where(curvature > 0, 1.0 / curvature, 0.0) for curvature in curvatures]
    direction, weights = gradient, []
    for (s, y), rho in zip(history, inverse, strict=True):
        weights.append(rho * tree_sum(s * direction))
        direction = direction - weights[-1] * y
    newest = tree_sum(history[0][1] * history[0][1])
    direction = direction * torch.where(curvatures[0] > 0, curvatures[0] / newest, 1.0)
    for (s, y), rho, weight in zip(reversed(history), reversed(inverse), reversed(weights), strict=True):
        direction = direction + s * (weight - rho * tree_sum(y * direction))
    return torch.where(tree_sum(direction * gradient) > 0, -direction, -gradient)
