"""The one loop: loss -> autograd -> optimizer step -> trace, for a whole batch at once.

Every operation is elementwise over the batch and each fit has its own step limit, so a fit's numbers do not depend on
what else is in the batch. Steps run in blocks of K, which is what gets compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.losses import LOSSES, Problem, Quadratic, Value
from fitq_worker.engine.optimizers import OPTIMIZERS, Moments
from fitq_worker.engine.schedule import Schedule
from fitq_worker.engine.stopping import CHECK_STEPS, Criteria, End, Progress, at_start, looked_at
from fitq_worker.engine.trees import taken

#: Steps between two looks at whether so few fits are left that the batch is made smaller.
COMPACTION_STEPS = 64
#: One block of steps: `step_block` with loss and optimizer filled in, or a compiled kernel of the same.
StepBlock = Callable[[Tensor, Moments, Problem, "Fits", Tensor, Tensor], tuple[Tensor, Moments, Tensor]]


class Fits(NamedTuple):
    """What tells the fits of a batch apart besides their problem."""

    lr: Tensor  # (B,)
    steps: Tensor  # (B,) int32
    #: The optimizer's numbers of each fit, (C, B).
    constants: Tensor


class How(NamedTuple):
    """What runs the steps."""

    block: StepBlock
    loss: str
    optimizer: str
    #: Called after each block; what it raises ends the descent.
    on_block: Callable[[], None]


class Descent(NamedTuple):
    """How B fits with P coefficients ended."""

    w: Tensor  # (P, B)
    losses: Tensor  # (T, B), the recorded ones
    made: Tensor  # (B,) int32, steps
    end: Tensor  # (B,) int8, of `End`


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
    value, update = LOSSES[loss], OPTIMIZERS[optimizer].update
    assert update is not None
    losses = []
    for k in range(len(schedule)):
        values, gradient = differentiated(value, w, problem)
        losses.append(values)
        moved, moments = update(w, gradient, moments, fits.lr * schedule[k, 0], fits.constants, schedule[k, 1:])
        w = torch.where(first + k < fits.steps, moved, w)
    return w, moments, torch.stack(losses)


def descend(
    problem: Problem,
    start: Tensor,
    fits: Fits,
    schedule: Schedule,
    criteria: Criteria,
    recorded: list[int],
    how: How,
) -> Descent:
    """Run every fit of the batch until it ends, keeping all losses of the steps in `recorded` (increasing).

    `start` is (P, B); `schedule` reaches one block beyond the last step. A fit's loss after its own end is its final one.
    """
    size, width = start.shape
    count, last = block_steps(size, is_triangular(problem)), int(fits.steps.max())
    watched, uneven = bool(criteria.watched.any()), int(fits.steps.min()) < last
    slope_of = None if bool(criteria.gtol.isnan().all()) else LOSSES[how.loss]
    moments = tuple(torch.zeros_like(start) for _ in range(OPTIMIZERS[how.optimizer].moments))
    left = _Left(None, problem, fits, schedule.place, criteria, at_start(start, fits.steps))
    now = _Now(start, moments, start[:1])
    whole = Descent(start.clone(), start.new_empty(len(recorded), width), fits.steps.clone(), left.progress.end.clone())
    numbers = torch.arange(0, last + 1, count, dtype=torch.int32, device=start.device).unbind()
    tables = schedule.table.to(start).split(count)
    wanted = _by_block(recorded, count)
    for first, number, rows in zip(range(0, last + 1, count), numbers, tables, strict=False):
        if (watched or uneven) and first and first % COMPACTION_STEPS == 0:
            left, now = _compacted(left, now, whole, recorded, first)
            if not now.w.shape[1]:
                return whole
        rows = rows if left.place is None else rows[..., left.place]
        begin, now = now.w, _Now(*how.block(now.w, now.moments, left.problem, left.fits, number, rows))
        for place, row in wanted.get(first, ()):
            whole.losses[place if left.at is None else (place, left.at)] = now.losses[row]
        if watched and first % CHECK_STEPS == 0:
            progress = _look(left, begin, now.losses[0], first, slope_of)
            now = now._replace(w=torch.where(progress.end == End.LAST_STEP, now.w, progress.best_w))
            left = left._replace(progress=progress, fits=left.fits._replace(steps=progress.made))
        how.on_block()
    if watched:
        left = left._replace(progress=_look(left, now.w, now.losses[-1], last, slope_of))
    if watched or uneven:
        _settle(left, now, whole, recorded)
        return whole
    return whole._replace(w=now.w)


class _Left(NamedTuple):
    """The fits that have not been taken out of the batch yet; every tensor has them as its last axis."""

    at: Tensor | None  # places in the whole batch; None is all of it
    problem: Problem
    fits: Fits
    place: Tensor | None
    criteria: Criteria
    progress: Progress


class _Now(NamedTuple):
    """Where they are after a block."""

    w: Tensor
    moments: Moments
    losses: Tensor  # (K, B) before each step of the block


def _by_block(recorded: list[int], count: int) -> dict[int, list[tuple[int, int]]]:
    """First step of a block -> for each recorded step in it, its place among the recorded and its row in the block."""
    blocks: dict[int, list[tuple[int, int]]] = {}
    for place, step in enumerate(recorded):
        blocks.setdefault(step - step % count, []).append((place, step % count))
    return blocks


def _look(left: _Left, w: Tensor, loss: Tensor, step: int, slope_of: Value | None) -> Progress:
    """What is known after `step` steps, with the gradient of `slope_of` where any fit asks for it."""
    gradient = None if slope_of is None else differentiated(slope_of, w, left.problem)[1]
    return looked_at(left.progress, left.criteria, w, loss, gradient, left.progress.made.clamp(max=step))


def _compacted(left: _Left, now: _Now, whole: Descent, recorded: list[int], first: int) -> tuple[_Left, _Now]:
    """Without the fits that have ended, once they are half of the batch."""
    # Those that ended within the last steps are still to be looked at.
    running = left.fits.steps > first - CHECK_STEPS
    if 2 * int(running.sum()) > len(running):
        return left, now
    _settle(left, now, whole, recorded)
    at = running.nonzero()[:, 0]
    rest: _Left = taken(left, at)
    return rest if left.at is not None else rest._replace(at=at), taken(now, at)


def _settle(left: _Left, now: _Now, whole: Descent, recorded: list[int]) -> None:
    """Put coefficients, ends and the losses after them in their places; those of running fits are overwritten later."""
    at = torch.arange(len(whole.made), device=whole.made.device) if left.at is None else left.at
    watched, progress = left.criteria.watched, left.progress
    whole.w[:, at] = torch.where(watched, progress.best_w, now.w)
    whole.made[at], whole.end[at] = progress.made, progress.end
    final = torch.where(watched, progress.best, now.losses[-1])
    after = torch.tensor(recorded, device=at.device)[:, None] >= progress.made
    whole.losses[:, at] = torch.where(after, final, whole.losses[:, at])


def differentiated(value: Value, w: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """The losses, (B,), and their gradients, (P, B), by autograd."""
    with torch.enable_grad():
        leaf = w.detach().requires_grad_()
        values = value(leaf, problem)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient
