"""When a fit stops before its last step: relative change of the loss, norm of the gradient, divergence.

Only fits with an `ftol` or `gtol` are watched. They are looked at every CHECK_STEPS steps, whatever batch they are in,
and end at the best coefficients seen there; all others end where their last step leaves them, as torch.optim does.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum

#: Steps between two looks at a fit: every block ends at a multiple of its own length, which divides this.
CHECK_STEPS = 8
#: A loss this many times the larger of the loss at the start and the loss of the zero polynomial has diverged.
DIVERGENCE_FACTOR = 1e6


#: The fields of a job that say when it stops.
CRITERIA = ("ftol", "patience", "gtol")


class End(IntEnum):
    """Why a descent ended."""

    LAST_STEP = 0
    FTOL = 1
    GTOL = 2
    DIVERGED = 3


class Criteria(NamedTuple):
    """When each of B fits stops; NaN where it never does."""

    ftol: Tensor  # (B,)
    patience: Tensor  # (B,) int32
    gtol: Tensor  # (B,)
    ceiling: Tensor  # (B,) loss from which on it has diverged

    @property
    def watched(self) -> Tensor:
        """(B,) bool"""
        return ~(self.ftol.isnan() & self.gtol.isnan())


class Progress(NamedTuple):
    """What has been seen of B fits with P coefficients."""

    best_w: Tensor  # (P, B)
    best: Tensor  # (B,) the lowest loss
    reference: Tensor  # (B,) the loss that must be undercut by the share `ftol`
    since: Tensor  # (B,) int32, the step that it was reached at
    steps_made: Tensor  # (B,) int32, until the end
    end: Tensor  # (B,) int8, of `End`


def begin_progress(w: Tensor, steps: Tensor) -> Progress:
    """The progress before anything has been seen."""
    infinite = torch.full_like(w[0], torch.inf)
    return Progress(w, infinite, infinite, torch.zeros_like(steps), steps, torch.zeros_like(steps, dtype=torch.int8))


def update_progress(
    progress: Progress, criteria: Criteria, w: Tensor, loss: Tensor, gradient: Tensor | None, step: Tensor
) -> Progress:
    """The progress after a look at w, (P, B), with its loss, (B,), and gradient, (P, B); `step` is (B,) int32.

    A look at a fit that has ended, or a second one at the same w, changes nothing.
    """
    running = criteria.watched & (progress.end == End.LAST_STEP)
    better = running & (loss < progress.best)
    fallen = running & (loss < progress.reference * (1.0 - criteria.ftol.nan_to_num(0.0)))
    since = torch.where(fallen, step, progress.since)
    end = torch.where(running & (step - since >= criteria.patience) & ~criteria.ftol.isnan(), int(End.FTOL), progress.end)
    if gradient is not None:
        norm = square_root(tree_sum(gradient * gradient))
        end = torch.where(running & (norm <= criteria.gtol), int(End.GTOL), end)
    end = torch.where(running & ~(loss <= criteria.ceiling), int(End.DIVERGED), end).to(progress.end.dtype)
    return Progress(
        torch.where(better, w, progress.best_w),
        torch.where(better, loss, progress.best),
        torch.where(fallen, loss, progress.reference),
        since,
        torch.where(running & (end != End.LAST_STEP), step, progress.steps_made),
        end,
    )
