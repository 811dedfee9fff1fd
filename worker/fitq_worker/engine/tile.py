"""One tile of jobs: samples -> reduction -> descent -> outcome. A job's numbers do not depend on the tile it is in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fitq_worker.engine.descent import Descent, Fits, How, block_steps, descend, is_triangular
from fitq_worker.engine.losses import LOSSES, Problem, Quadratic, Sampled
from fitq_worker.engine.objective import Objective, robust_objective, squares_objective
from fitq_worker.engine.optimizers import OPTIMIZERS, Hyper
from fitq_worker.engine.outcome import Ended, Outcome, at_once
from fitq_worker.engine.plan import Plan, hyperparameters
from fitq_worker.engine.reduction import Reduced
from fitq_worker.engine.samples import Tile
from fitq_worker.engine.schedule import Schedule, distinct, tabulated
from fitq_worker.engine.starts import Starts, lowest, starting_points
from fitq_worker.engine.stopping import DIVERGENCE_FACTOR, Criteria
from fitq_worker.engine.traces import Traces, no_traces, recorded, scaled, side_by_side

#: Fits are descended together as long as the losses they keep, and the schedules they follow, are no more than this:
#: 256 MiB of float32.
DESCENT_NUMBERS = 1 << 26


def fit_tile(tile: Tile, plan: Plan) -> tuple[Outcome, Traces]:
    """Fit the jobs on their sample sets; returns what results are made of, and the traces."""
    jobs = tile.jobs
    reduced = plan.reduction(tile.sets, plan.shape["degree"])
    if tile.set_of is not None:
        of = torch.from_numpy(tile.set_of).to(reduced.target.device)
        reduced = Reduced(*(field[..., of] for field in reduced))
    objective = _objective(tile, plan, reduced)
    if plan.shape["optimizer"] == "exact":
        return Outcome(tile, reduced, objective, at_once(objective.optimum)), no_traces(len(jobs))
    starts = starting_points(jobs, reduced, objective.space, objective.optimum)
    ended, traces = descend_best(jobs, plan, objective, starts)
    return Outcome(tile, reduced, objective, ended), traces


def _objective(tile: Tile, plan: Plan, reduced: Reduced) -> Objective:
    if plan.shape["loss"] == "mse":
        return squares_objective(tile.jobs, reduced, penalised=plan.penalised)
    return robust_objective(tile, reduced, penalised=plan.penalised)


def descend_best(jobs: pa.RecordBatch, plan: Plan, objective: Objective, starts: Starts) -> tuple[Ended, Traces]:
    """Descend from every start and keep the lowest end of each fit."""
    hyper, problem, unit = hyperparameters(jobs), objective.problem(), objective.loss_unit
    if starts.fit is None:
        descent, traces = _descend(hyper, plan, problem, starts.w, unit)
        return Ended(starts.w.double(), descent.w.double(), descent.made, descent.end, starts.turn), traces
    of = torch.from_numpy(starts.fit).to(unit.device)
    problem = type(problem)(*(field[..., of] for field in problem))
    every = {name: values[starts.fit] for name, values in hyper.items()}
    descent, traces = _descend(every, plan, problem, starts.w, unit[of])
    final = LOSSES[plan.shape["loss"]](descent.w.double(), problem)
    places = lowest(final.cpu().numpy(), starts.fit)
    best = torch.from_numpy(places).to(unit.device)
    w, made, end = descent.w[:, best].double(), descent.made[best], descent.end[best]
    return Ended(starts.w[:, best].double(), w, made, end, starts.turn[best]), traces.taken(places)


def _descend(hyper: Hyper, plan: Plan, problem: Problem, start: Tensor, unit: Tensor) -> tuple[Descent, Traces]:
    """Descend `plan.width` fits at a time; `unit` is that of the loss in units of y, (B,)."""
    start = start.to(getattr(torch, plan.shape["dtype"]))
    problem = type(problem)(*(field.to(start.dtype) for field in problem))
    loss, optimizer = plan.shape["loss"], plan.shape["optimizer"]
    how = How(plan.block, loss, optimizer, plan.on_block)
    parts, traces = [], []
    for at in _slices(hyper, plan):
        own = {name: values[at] for name, values in hyper.items()}
        part = type(problem)(*(field[..., at].contiguous() for field in problem))
        fits, schedule = _fits(optimizer, own, start), _schedule(optimizer, own, part, plan.shared)
        steps, place = recorded(plan.shape["trace"], own["steps"])
        begin = start[:, at].contiguous()
        end = descend(part, begin, fits, schedule, _criteria(own, part, begin, loss), steps, how)
        losses = end.losses if place is None else end.losses.gather(0, torch.from_numpy(place).to(start.device))
        traces.append(scaled(losses, unit[at]))
        parts.append(end._replace(losses=losses[:0]))
    if len(parts) == 1:
        return parts[0], traces[0]
    fields = (torch.cat(field, dim=-1) for field in zip(*parts, strict=True))
    return Descent(*fields), side_by_side(traces)


def _criteria(hyper: Hyper, problem: Problem, start: Tensor, loss: str) -> Criteria:
    """When each fit stops; its loss has diverged far above that of its start and that of the zero polynomial."""
    ftol, gtol = (torch.tensor(hyper[name]).to(start) for name in ("ftol", "gtol"))
    patience = torch.from_numpy(hyper["patience"].astype(np.int32)).to(start.device)
    criteria = Criteria(ftol, patience, gtol, torch.full_like(ftol, torch.inf))
    if not criteria.watched.any():
        return criteria
    value = LOSSES[loss]
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
    losses = len(recorded(plan.shape["trace"], steps)[0]) * len(steps)
    optimizer, own = plan.shape["optimizer"], {name: values[at] for name, values in hyper.items()}
    width = 1 if plan.shared else len(distinct(optimizer, own)[0]["gamma"])
    return max(losses, width * int(steps.max()) * 4)
