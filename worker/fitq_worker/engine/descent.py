"""The one loop: loss -> autograd -> optimizer step -> trace, for a whole batch at once.

Every operation is elementwise over the batch and each fit has its own step limit, so a fit's numbers do not depend on
what else is in the batch. Steps run in blocks of K, which is what gets compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.losses import Problem, mean_squared_error
from fitq_worker.engine.optimizers import OPTIMIZERS, Moments

#: Losses of this many steps are buffered before those to be kept are picked; a multiple of every block length.
WINDOW_STEPS = 1024

#: One block of steps: `step_block` with loss and optimizer filled in, or a compiled kernel of the same.
StepBlock = Callable[[Tensor, Moments, Problem, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Moments, Tensor]]


class Descent(NamedTuple):
    """Final coefficients (P, B) and the recorded losses (T, B)."""

    w: Tensor
    losses: Tensor


def block_steps(coefficients: int, triangular: bool) -> int:
    """K, the steps in one block: a power of two, as many as compile in some ten seconds, at most 8."""
    operations = 16 * coefficients + (2 * coefficients * (coefficients + 1) if triangular else 0)
    return max(1, min(8, 1 << (576 // operations).bit_length() - 1)) if operations <= 576 else 1


def step_block(
    w: Tensor, moments: Moments, problem: Problem, lr: Tensor, steps: Tensor, first: Tensor, schedule: Tensor, *, optimizer: str
) -> tuple[Tensor, Moments, Tensor]:
    """Steps first .. first + K - 1 of every fit; a fit that has done its `steps` stays where it is.

    `w` and each of `moments` are (P, B), `lr` and `steps` (B,), `first` a scalar, `schedule` (K, columns). Returns the
    new w and moments and the losses before each step, (K, B).
    """
    update = OPTIMIZERS[optimizer].update
    losses = []
    for k in range(len(schedule)):
        with torch.enable_grad():
            leaf = w.detach().requires_grad_()
            loss = mean_squared_error(leaf, problem)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        losses.append(loss.detach())
        moved, moments = update(w, gradient, moments, lr, schedule[k])
        w = torch.where(first + k < steps, moved, w)
    return w, moments, torch.stack(losses)


def descend(
    problem: Problem,
    start: Tensor,
    lr: Tensor,
    steps: Tensor,
    recorded: Tensor,
    block: StepBlock,
    optimizer: str,
    on_block: Callable[[], None],
) -> Descent:
    """Run every fit of the batch for its `steps`, recording the loss at the steps in `recorded`.

    `start` is (P, B), `lr` and `steps` (B,), `recorded` int64 of shape (T, B), or (T, 1) when all fits share it; -1
    records nothing (NaN). `on_block` is called now and then; what it raises ends the descent.
    """
    size, batch = start.shape
    count = block_steps(size, len(problem.factor) > 0)
    last = int(steps.max())
    schedule = OPTIMIZERS[optimizer].schedule(last + count).to(start)
    w, moments = start, tuple(torch.zeros_like(start) for _ in range(OPTIMIZERS[optimizer].moments))
    window = start.new_empty(min(WINDOW_STEPS, _rounded_up(last + 1, count)), batch)
    trace = start.new_full((len(recorded), batch), torch.nan)
    numbers = torch.arange(last + 1, dtype=torch.int32, device=start.device)
    for opened in range(0, last + 1, WINDOW_STEPS):
        for first in range(opened, min(opened + WINDOW_STEPS, last + 1), count):
            rows = schedule[first : first + count]
            w, moments, losses = block(w, moments, problem, lr, steps, numbers[first], rows)
            window[first - opened : first - opened + count] = losses
        on_block()
        here = (recorded >= opened) & (recorded < opened + WINDOW_STEPS)
        index = (recorded - opened).clamp(0, len(window) - 1).expand(-1, batch)
        trace = torch.where(here, window.gather(0, index), trace)
    return Descent(w, trace)


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
