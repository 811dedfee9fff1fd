"""The one loop: loss -> autograd -> optimizer step -> trace, for a whole batch at once.

Every operation is elementwise over the batch and each fit has its own step limit, so a fit's numbers do not depend on
what else is in the batch. Steps run in blocks of BLOCK_STEPS. `native` does the same in one loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import without_subnormals
from fitq_worker.engine.descent.losses import Problem, differentiate
from fitq_worker.engine.descent.optimizers import OPTIMIZERS, Moments
from fitq_worker.engine.descent.schedule import Schedule
from fitq_worker.engine.descent.stopping import CHECK_STEPS, Criteria, End, Progress, begin_progress, update_progress
from fitq_worker.engine.trees import take

#: Steps between two looks at whether so few fits are left that the batch is made smaller.
COMPACTION_STEPS = 64
#: Steps in a block; fits are looked at between blocks.
BLOCK_STEPS = CHECK_STEPS
#: One block of steps: `step_block` with loss and optimizer filled in, or that of L-BFGS.
StepBlock = Callable[[Tensor, Moments, Problem, "Fits", Tensor, Tensor], tuple[Tensor, Moments, Tensor]]


class Fits(NamedTuple):
    """What tells the fits of a batch apart besides their problem."""

    lr: Tensor  # (B,)
    steps: Tensor  # (B,) int32
    #: The optimizer's numbers of each fit, (C, B).
    constants: Tensor


class Batch(NamedTuple):
    """B fits with P coefficients that are descended together."""

    problem: Problem
    start: Tensor  # (P, B)
    fits: Fits
    schedule: Schedule  # to one block beyond the last step
    criteria: Criteria
    recorded: list[int]  # the steps whose losses are kept, increasing


class Method(NamedTuple):
    """What runs the steps: a block, and the loss and the optimizer that are in it."""

    block: StepBlock
    loss: str
    optimizer: str
    #: Called after each block; what it raises ends the descent.
    on_block: Callable[[], None]


class Descent(NamedTuple):
    """How B fits with P coefficients ended."""

    w: Tensor  # (P, B)
    losses: Tensor  # (T, B), the recorded ones
    steps_made: Tensor  # (B,) int32
    end: Tensor  # (B,) int8, of `End`


def step_block(
    w: Tensor, moments: Moments, problem: Problem, fits: Fits, first: Tensor, schedule: Tensor, *, loss: str, optimizer: str
) -> tuple[Tensor, Moments, Tensor]:
    """Steps first .. first + K - 1 of every fit; a fit that has done its `steps` stays where it is.

    `w` and each of `moments` are (P, B), `first` a scalar, `schedule` (K, C, B), or (K, C, 1) when all fits share it.
    Returns the new w and moments and the losses before each step, (K, B).
    """
    losses = []
    for k in range(len(schedule)):
        values, gradient = differentiate(loss, w, problem)
        losses.append(values)
        w, moments = take_step(w, moments, gradient, fits, first + k, schedule[k], optimizer)
    return w, moments, torch.stack(losses)


def take_step(
    w: Tensor, moments: Moments, gradient: Tensor, fits: Fits, step: Tensor, row: Tensor, optimizer: str
) -> tuple[Tensor, Moments]:
    """w and moments after `step`, a scalar; `row` is that of the schedule, (C, B) or (C, 1)."""
    update = OPTIMIZERS[optimizer].update
    assert update is not None
    moved, moments = update(w, gradient, moments, fits.lr * row[0], fits.constants, row[1:])
    return torch.where(step < fits.steps, moved, w), moments


@without_subnormals()
def descend(method: Method, batch: Batch) -> Descent:
    """Run every fit of the batch until it ends. A fit's loss after its own end is its final one."""
    problem, start, fits, schedule, criteria, recorded = batch
    last = int(fits.steps.max())
    watched, uneven = bool(criteria.watched.any()), int(fits.steps.min()) < last
    slope_of = None if bool(criteria.gtol.isnan().all()) else method.loss
    moments = tuple(torch.zeros_like(start) for _ in range(OPTIMIZERS[method.optimizer].moments))
    remaining = _Remaining(None, problem, fits, schedule.column, criteria, begin_progress(start, fits.steps))
    state = _State(start, moments, start[:1])
    end = remaining.progress.end.clone()
    whole = Descent(start.clone(), start.new_empty(len(recorded), start.shape[1]), fits.steps.clone(), end)
    numbers = torch.arange(0, last + 1, BLOCK_STEPS, dtype=torch.int32, device=start.device).unbind()
    tables = schedule.table.to(start).split(BLOCK_STEPS)
    wanted = _by_block(recorded)
    for first, number, rows in zip(range(0, last + 1, BLOCK_STEPS), numbers, tables, strict=False):
        if (watched or uneven) and first and first % COMPACTION_STEPS == 0:
            remaining, state = _compact(remaining, state, whole, recorded, first)
            if not state.w.shape[1]:
                return whole
        rows = rows if remaining.schedule_column is None else rows[..., remaining.schedule_column]
        begin = state.w
        state = _State(*method.block(state.w, state.moments, remaining.problem, remaining.fits, number, rows))
        for entry, row in wanted.get(first, ()):
            whole.losses[entry if remaining.indices is None else (entry, remaining.indices)] = state.losses[row]
        if watched:
            progress = _look(remaining, begin, state.losses[0], first, slope_of)
            state = state._replace(w=torch.where(progress.end == End.LAST_STEP, state.w, progress.best_w))
            remaining = remaining._replace(progress=progress, fits=remaining.fits._replace(steps=progress.steps_made))
        method.on_block()
    if watched:
        remaining = remaining._replace(progress=_look(remaining, state.w, state.losses[-1], last, slope_of))
    if watched or uneven:
        _settle(remaining, state, whole, recorded)
        return whole
    return whole._replace(w=state.w)


class _Remaining(NamedTuple):
    """The fits that have not been taken out of the batch yet; every tensor has them as its last axis."""

    indices: Tensor | None  # in the whole batch; None is all of it
    problem: Problem
    fits: Fits
    schedule_column: Tensor | None  # as in Schedule
    criteria: Criteria
    progress: Progress


class _State(NamedTuple):
    """Where the remaining fits are after a block."""

    w: Tensor
    moments: Moments
    losses: Tensor  # (K, B) before each step of the block


def _by_block(recorded: list[int]) -> dict[int, list[tuple[int, int]]]:
    """First step of a block -> for each recorded step in it, its index among the recorded and its row in the block."""
    blocks: dict[int, list[tuple[int, int]]] = {}
    for index, step in enumerate(recorded):
        blocks.setdefault(step - step % BLOCK_STEPS, []).append((index, step % BLOCK_STEPS))
    return blocks


def _look(remaining: _Remaining, w: Tensor, loss: Tensor, step: int, slope_of: str | None) -> Progress:
    """What is known after `step` steps, with the gradient of `slope_of` where any fit asks for it."""
    gradient = None if slope_of is None else differentiate(slope_of, w, remaining.problem)[1]
    progress = remaining.progress
    return update_progress(progress, remaining.criteria, w, loss, gradient, progress.steps_made.clamp(max=step))


def _compact(
    remaining: _Remaining, state: _State, whole: Descent, recorded: list[int], first: int
) -> tuple[_Remaining, _State]:
    """Take the fits that have ended out of the batch, once they are half of it."""
    # Those that ended within the last steps are still to be looked at.
    running = remaining.fits.steps > first - CHECK_STEPS
    if 2 * int(running.sum()) > len(running):
        return remaining, state
    _settle(remaining, state, whole, recorded)
    indices = running.nonzero()[:, 0]
    rest: _Remaining = take(remaining, indices)
    return rest if remaining.indices is not None else rest._replace(indices=indices), take(state, indices)


def _settle(remaining: _Remaining, state: _State, whole: Descent, recorded: list[int]) -> None:
    """Store coefficients, ends and the losses after them in `whole`; those of running fits are overwritten later."""
    everything = torch.arange(len(whole.end), device=whole.end.device)
    indices = everything if remaining.indices is None else remaining.indices
    watched, progress = remaining.criteria.watched, remaining.progress
    whole.w[:, indices] = torch.where(watched, progress.best_w, state.w)
    whole.steps_made[indices], whole.end[indices] = progress.steps_made, progress.end
    final = torch.where(watched, progress.best, state.losses[-1])
    after = torch.tensor(recorded, device=indices.device)[:, None] >= progress.steps_made
    whole.losses[:, indices] = torch.where(after, final, whole.losses[:, indices])
