"""The one loop: loss -> autograd -> optimizer step -> trace, for a whole batch at once.

Every operation is elementwise over the batch and each fit has its own step limit, so a fit's numbers do not depend on
what else is in the batch. Steps run in blocks of K, which is what gets compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.losses import LOSSES, Problem, Quadratic
from fitq_worker.engine.optimizers import OPTIMIZERS, Moments
from fitq_worker.engine.schedule import Schedule

#: One block of steps: `step_block` with loss and optimizer filled in, or a compiled kernel of the same.
StepBlock = Callable[[Tensor, Moments, Problem, "Fits", Tensor, Tensor], tuple[Tensor, Moments, Tensor]]


class Fits(NamedTuple):
    """What tells the fits of a batch apart besides their problem."""

    lr: Tensor  # (B,)
    steps: Tensor  # (B,) int32
    #: The optimizer's numbers of each fit, (C, B).
    constants: Tensor


class Descent(NamedTuple):
    """Final coefficients (P, B) and the recorded losses (T, B)."""

    w: Tensor
    losses: Tensor


def block_steps(coefficients: int, triangular: bool) -> int:
    """K, the steps in one compiled block: a power of two, as many as compile in some ten seconds, at most 8."""
    operations = 16 * coefficients + (2 * coefficients * (coefficients + 1) if triangular else 0)
    return max(1, min(8, 1 << (576 // operations).bit_length() - 1)) if operations <= 576 else 1


def is_triangular(problem: Problem) -> bool:
    """The loss is computed with a triangular factor, or with samples, which cost no less."""
    return not isinstance(problem, Quadratic) or len(problem.factor) > 0


def step_block(
    w: Tensor, moments: Moments, problem: Problem, fits: Fits, first: Tensor, schedule: Tensor, *, loss: str, optimizer: str
) -> tuple[Tensor, Moments, Tensor]:
    """Steps first .. first + K - 1 of every fit; a fit that has done its `steps` stays where it is.

    `w` and each of `moments` are (P, B), `first` a scalar, `schedule` (K, C, B), or (K, C, 1) when all fits share it.
    Returns the new w and moments and the losses before each step, (K, B).
    """
    value, update = LOSSES[loss].value, OPTIMIZERS[optimizer].update
    losses = []
    for k in range(len(schedule)):
        with torch.enable_grad():
            leaf = w.detach().requires_grad_()
            values = value(leaf, problem)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        losses.append(values.detach())
        moved, moments = update(w, gradient, moments, fits.lr * schedule[k, 0], fits.constants, schedule[k, 1:])
        w = torch.where(first + k < fits.steps, moved, w)
    return w, moments, torch.stack(losses)


def descend(
    problem: Problem,
    start: Tensor,
    fits: Fits,
    schedule: Schedule,
    recorded: list[int],
    block: StepBlock,
    optimizer: str,
    on_block: Callable[[], None],
) -> Descent:
    """Run every fit of the batch for its steps, keeping all losses of the steps in `recorded` (increasing).

    `start` is (P, B); `schedule` reaches one block beyond the last step. A fit's loss after its own last step is its
    final one. `on_block` is called after each block; what it raises ends the descent.
    """
    size, batch = start.shape
    count, last = block_steps(size, is_triangular(problem)), int(fits.steps.max())
    table = schedule.table.to(start)
    numbers = torch.arange(last + 1, dtype=torch.int32, device=start.device)
    w, moments = start, tuple(torch.zeros_like(start) for _ in range(OPTIMIZERS[optimizer].moments))
    kept, place = start.new_empty(len(recorded), batch), 0
    for first in range(0, last + 1, count):
        rows = table[first : first + count]
        rows = rows if schedule.place is None else rows[..., schedule.place]
        w, moments, losses = block(w, moments, problem, fits, numbers[first], rows)
        while place < len(recorded) and recorded[place] < first + count:
            kept[place] = losses[recorded[place] - first]
            place += 1
        on_block()
    return Descent(w, kept)
