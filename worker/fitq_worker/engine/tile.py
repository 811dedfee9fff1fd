"""One tile of jobs: samples -> reduction -> descent -> outcome. A job's numbers do not depend on the tile it is in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.trace import recorded_steps
from fitq_worker.engine.descent import Descent, Fits, How, block_steps, descend, is_triangular
from fitq_worker.engine.losses import LOSSES, Problem, Quadratic, Sampled
from fitq_worker.engine.optimizers import OPTIMIZERS, Hyper
from fitq_worker.engine.outcome import Ended, Outcome, at_once
from fitq_worker.engine.plan import Plan, hyperparameters
from fitq_worker.engine.reduction import Reduced, coordinates, sample_points
from fitq_worker.engine.samples import Tile, numbers, padded
from fitq_worker.engine.schedule import Schedule, distinct, tabulated
from fitq_worker.engine.space import quadratic, ridge_system, sampled, space_of
from fitq_worker.engine.starts import Starts, lowest, starting_points
from fitq_worker.engine.stopping import DIVERGENCE_FACTOR, Criteria

#: Fits are descended together as long as the losses they keep, and the schedules they follow, are no more than this:
#: 256 MiB of float32.
DESCENT_NUMBERS = 1 << 26


def fit_tile(tile: Tile, plan: Plan) -> tuple[Outcome, Tensor]:
    """Fit the jobs on their sample sets; returns what results are made of and the traces, (T, B) in units of y."""
    jobs, degree = tile.jobs, plan.shape["degree"]
    reduced = plan.reduction(tile.sets, degree)
    if tile.set_of is not None:
        of = torch.from_numpy(tile.set_of).to(reduced.target.device)
        reduced = Reduced(*(field[..., of] for field in reduced))
    space = space_of(plan.shape["basis"], reduced)
    ridge = torch.tensor(numbers(jobs["ridge"])).to(reduced.target)
    penalty = ridge_system(space, reduced, ridge) if plan.penalised else None
    optimum = space.from_orthonormal(coordinates(reduced)) if penalty is None else penalty.optimum
    if plan.shape["optimizer"] == "exact":
        outcome = Outcome(jobs, tile.given, reduced, space, penalty, None, at_once(optimum))
        return outcome, optimum.new_empty(0, len(jobs))
    power = LOSSES[plan.shape["loss"]].power
    if plan.shape["loss"] == "mse":
        problem: Problem = quadratic(space, reduced, penalty)
    else:
        points = sample_points(padded(tile.sets, reduced.target.device, tile.set_of), reduced)
        problem = sampled(space, points, torch.tensor(numbers(jobs["delta"])).to(ridge), ridge * space.unit ** (2 - power))
    starts = starting_points(jobs, reduced, space, optimum)
    ended, losses = descend_best(jobs, plan, problem, starts, space.unit**power)

    def loss(w: Tensor) -> Tensor:
        return LOSSES[plan.shape["loss"]].value(w, problem) * space.unit**power

    own_loss = None if isinstance(problem, Quadratic) else loss
    return Outcome(jobs, tile.given, reduced, space, penalty, own_loss, ended), losses


def descend_best(jobs: pa.RecordBatch, plan: Plan, problem: Problem, starts: Starts, unit: Tensor) -> tuple[Ended, Tensor]:
    """Descend from every start and keep the lowest end of each fit; `unit` is (B,), that of the loss."""
    hyper = hyperparameters(jobs)
    if starts.fit is None:
        descent = _descend(hyper, plan, problem, starts.w, unit)
        return Ended(starts.w.double(), descent.w.double(), descent.made, descent.end, starts.turn), descent.losses
    of = torch.from_numpy(starts.fit).to(unit.device)
    problem = type(problem)(*(field[..., of] for field in problem))
    every = {name: values[starts.fit] for name, values in hyper.items()}
    descent = _descend(every, plan, problem, starts.w, unit[of])
    final = LOSSES[plan.shape["loss"]].value(descent.w.double(), problem)
    best = torch.from_numpy(lowest(final.cpu().numpy(), starts.fit)).to(unit.device)
    w, made, end = descent.w[:, best].double(), descent.made[best], descent.end[best]
    return Ended(starts.w[:, best].double(), w, made, end, starts.turn[best]), descent.losses[:, best]


def _descend(hyper: Hyper, plan: Plan, problem: Problem, start: Tensor, unit: Tensor) -> Descent:
    """Descend `plan.width` fits at a time; losses come back in units of y."""
    start = start.to(getattr(torch, plan.shape["dtype"]))
    problem = type(problem)(*(field.to(start.dtype) for field in problem))
    loss, optimizer = plan.shape["loss"], plan.shape["optimizer"]
    how = How(plan.block, loss, optimizer, plan.on_block)
    parts = []
    for at in _slices(hyper, plan):
        own = {name: values[at] for name, values in hyper.items()}
        part = type(problem)(*(field[..., at].contiguous() for field in problem))
        fits, schedule = _fits(optimizer, own, start), _schedule(optimizer, own, part, plan.shared)
        recorded, place = _recorded(plan.shape["trace"], own["steps"])
        begin = start[:, at].contiguous()
        end = descend(part, begin, fits, schedule, _criteria(own, part, begin, loss), recorded, how)
        losses = end.losses if place is None else end.losses.gather(0, torch.from_numpy(place).to(start.device))
        parts.append(end._replace(losses=(losses * unit[at].to(start.dtype)).float()))
    return Descent(
        torch.cat([part.w for part in parts], dim=1),
        _side_by_side([part.losses for part in parts]),
        torch.cat([part.made for part in parts]),
        torch.cat([part.end for part in parts]),
    )


def _criteria(hyper: Hyper, problem: Problem, start: Tensor, loss: str) -> Criteria:
    """When each fit stops; its loss has diverged far above that of its start and that of the zero polynomial."""
    ftol, gtol = (torch.tensor(hyper[name]).to(start) for name in ("ftol", "gtol"))
    patience = torch.from_numpy(hyper["patience"].astype(np.int32)).to(start.device)
    criteria = Criteria(ftol, patience, gtol, torch.full_like(ftol, torch.inf))
    if not criteria.watched.any():
        return criteria
    value = LOSSES[loss].value
    usual = torch.maximum(value(start, problem), value(torch.zeros_like(start), problem))
    return criteria._replace(ceiling=DIVERGENCE_FACTOR * usual)


def _fits(optimizer: str, hyper: Hyper, like: Tensor) -> Fits:
    rows = OPTIMIZERS[optimizer].constants(hyper)
    constants = np.array(rows, dtype=np.float64).reshape(len(rows), len(hyper["lr"]))
    steps = torch.from_numpy(hyper["steps"].astype(np.int32)).to(like.device)
    return Fits(torch.tensor(hyper["lr"]).to(like), steps, torch.from_numpy(constants).to(like))


def _schedule(optimizer: str, hyper: Hyper, problem: Quadratic | Sampled, shared: bool) -> Schedule:
    """The tables of a batch, one block beyond its last step."""
    device, batch = problem.target.device, problem.target.shape[-1]
    size = len(problem.target) if isinstance(problem, Quadratic) else len(problem.design)
    beyond = int(hyper["steps"].max()) + block_steps(size, is_triangular(problem))
    schedule = tabulated(optimizer, hyper, beyond, device)
    if shared or schedule.place is not None:
        return schedule
    # A part may agree where the whole frame does not; the block in use takes a place for each fit.
    return Schedule(schedule.table, torch.zeros(batch, dtype=torch.int64, device=device))


def _slices(hyper: Hyper, plan: Plan) -> Iterator[slice]:
    """Slices of at most `plan.width` fits, fewer where they differ so much that what they keep would not fit memory."""
    start, end = 0, len(hyper["steps"])
    while start < end:
        stop = min(start + plan.width, end)
        while stop - start > 1 and _numbers_kept(hyper, plan, slice(start, stop)) > DESCENT_NUMBERS:
            stop = start + (stop - start) // 2
        yield slice(start, stop)
        start = stop


def _numbers_kept(hyper: Hyper, plan: Plan, at: slice) -> int:
    """The losses that fits record together, and the entries of the tables of their schedules."""
    steps = hyper["steps"][at]
    losses = len(_recorded(plan.shape["trace"], steps)[0]) * len(steps)
    optimizer, own = plan.shape["optimizer"], {name: values[at] for name, values in hyper.items()}
    width = 1 if plan.shared else len(distinct(optimizer, own)[0]["gamma"])
    return max(losses, width * int(steps.max()) * 4)


def _recorded(trace: str, steps: NDArray[np.int32]) -> tuple[list[int], NDArray[np.int64] | None]:
    """Steps that any of the fits records and, unless it is the same for all, where in them each fit's are: (T, B).

    Fits with shorter traces repeat their last entry.
    """
    limits, fit_limit = np.unique(steps, return_inverse=True)
    schedules = [recorded_steps(trace, int(limit)) for limit in limits]
    union = np.unique(np.concatenate(schedules))
    if len(schedules) == 1 or not len(union):
        return union.tolist(), None
    longest = max(map(len, schedules))
    table = np.stack([np.pad(schedule, (0, longest - len(schedule)), mode="edge") for schedule in schedules], axis=1)
    return union.tolist(), np.searchsorted(union, table)[:, fit_limit]


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Tiles of losses side by side, padded with NaN to the longest trace."""
    longest = max(len(part) for part in parts)
    if all(len(part) == longest for part in parts):
        return torch.cat(parts, dim=1)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, longest - len(part)), value=torch.nan) for part in parts]
    return torch.cat(padded, dim=1)
