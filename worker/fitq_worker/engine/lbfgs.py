"""L-BFGS, batched: every fit has its own history of curvature and its own line search.

Nocedal, "Updating Quasi-Newton Matrices with Limited Storage", Mathematics of Computation 35, 1980, with Armijo's
backtracking. As long as the first trial of a step is accepted, a fit follows torch.optim.LBFGS without line search.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import tree_sum
from fitq_worker.engine.descent import Fits, differentiated
from fitq_worker.engine.losses import LOSSES, Problem, Value
from fitq_worker.engine.optimizers import Moments

#: A pair whose s'y is less is no curvature; torch.optim.LBFGS has the same number.
LEAST_CURVATURE = 1e-10
#: The loss must fall by this share of what its slope promises (Armijo's condition).
SUFFICIENT_DECREASE = 1e-4
#: Trial steps of a line search; after as many rejected ones a fit stays where it is.
MAX_TRIALS = 20
#: A rejected trial is followed by one that is shorter by a factor within these.
SHORTEST, LONGEST = 0.1, 0.5


def lbfgs_block(
    w: Tensor, moments: Moments, problem: Problem, fits: Fits, first: Tensor, schedule: Tensor, *, loss: str
) -> tuple[Tensor, Moments, Tensor]:
    """As `descent.step_block`, with the last w and gradient and the history of pairs s, y as moments, newest first.

    The loss of a fit never rises. A pair that is missing is zeros, which have no effect.
    """
    value, losses = LOSSES[loss], []
    for k in range(len(schedule)):
        values, gradient = differentiated(value, w, problem)
        s, y = w - moments[0], gradient - moments[1]
        curved = (tree_sum(s * y) > LEAST_CURVATURE) & (first + k > 0)
        pairs = tuple(torch.where(curved, new, old) for new, old in zip((s, y, *moments[2:-2]), moments[2:], strict=True))
        direction = _direction(gradient, pairs)
        size = tree_sum(gradient.abs())
        shortened = torch.where((first + k > 0) | (size <= 1.0), 1.0, 1.0 / size)
        moved = _searched(value, problem, w, values, gradient, direction, fits.lr * schedule[k, 0] * shortened)
        moments = (w, gradient, *pairs)
        losses.append(values)
        w = torch.where(first + k < fits.steps, moved, w)
    return w, moments, torch.stack(losses)


def _direction(gradient: Tensor, pairs: Moments) -> Tensor:
    """-H gradient by the two-loop recursion, H scaled by s'y / y'y of the newest pair; downhill in any case."""
    history = list(zip(pairs[::2], pairs[1::2], strict=True))
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


def _searched(
    value: Value, problem: Problem, w: Tensor, values: Tensor, gradient: Tensor, direction: Tensor, length: Tensor
) -> Tensor:
    """The first of ever shorter steps along `direction` that lowers the loss enough; `length`, (B,), is the first."""
    slope = tree_sum(direction * gradient)
    moved, accepted = w, torch.zeros_like(slope, dtype=torch.bool)
    for _ in range(MAX_TRIALS):
        trial = w + length * direction
        reached = value(trial, problem)
        lower = reached <= values + SUFFICIENT_DECREASE * length * slope
        moved = torch.where(lower & ~accepted, trial, moved)
        accepted = accepted | lower
        if w.device.type == "cpu" and accepted.all():  # on a GPU asking costs more than going on
            break
        # The minimum of the parabola through both losses with this slope.
        shorter = -slope * length * length / (2.0 * (reached - values - slope * length))
        least, most = SHORTEST * length, LONGEST * length
        length = torch.where(shorter >= least, torch.minimum(shorter, most), least)
    return moved
