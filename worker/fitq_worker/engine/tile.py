"""One tile of jobs: samples -> reduction -> descent -> outcome. A job's numbers do not depend on the tile it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_worker.engine.descent.eager import BLOCK_STEPS, Batch, Descent, Fits
from fitq_worker.engine.descent.losses import Problem, value_at
from fitq_worker.engine.descent.optimizers import OPTIMIZERS, Hyper
from fitq_worker.engine.descent.schedule import Schedule, tabulate
from fitq_worker.engine.descent.starts import Starts, draw_starts, find_lowest
from fitq_worker.engine.descent.stopping import DIVERGENCE_FACTOR, Criteria
from fitq_worker.engine.descent.traces import Traces, find_recorded, join_traces, no_traces, scale
from fitq_worker.engine.optimum.objective import Objective, robust_objective, squares_objective
from fitq_worker.engine.outcome.assessment import Ended
from fitq_worker.engine.outcome.results import Outcome, end_at_once
from fitq_worker.engine.plan import Plan
from fitq_worker.engine.samples.reduction import Reduced
from fitq_worker.engine.samples.sets import Tile

#: Fits are descended together as long as the losses they keep, the tables of their schedules, and what restarts repeat of
#: their problem hold no more numbers than this: 256 MiB of float32.
DESCENT_NUMBERS = 1 << 26
#: Numbers of a schedule for each step, at most: the factor of the learning rate and three of the optimizer.
_TABLE_COLUMNS = 4

#: Rows of the jobs of a plan.
Rows: TypeAlias = NDArray[np.int64]


def fit_tile(tile: Tile, plan: Plan) -> tuple[Outcome, Traces]:
    """Fit the jobs on their sample sets; returns what results are made of, and the traces."""
    jobs = tile.jobs
    reduced = plan.reduction(tile.sets, plan.shape["degree"])
    if tile.set_of is not None:
        set_of = torch.from_numpy(tile.set_of).to(reduced.target.device)
        reduced = Reduced(*(field[..., set_of] for field in reduced))
    objective = _objective(tile, plan, reduced)
    if plan.shape["optimizer"] == "exact":
        return Outcome(tile, reduced, objective, end_at_once(objective.optimum), plan.path), no_traces(len(jobs))
    starts = draw_starts(jobs, reduced, objective.space, objective.optimum)
    ended, traces = descend_best(tile.rows, plan, objective, starts)
    return Outcome(tile, reduced, objective, ended, plan.path), traces


def _objective(tile: Tile, plan: Plan, reduced: Reduced) -> Objective:
    if plan.shape["loss"] == "mse":
        return squares_objective(tile.jobs, reduced, has_ridge=plan.has_ridge)
    return robust_objective(tile, reduced, has_ridge=plan.has_ridge)


def descend_best(rows: Rows, plan: Plan, objective: Objective, starts: Starts) -> tuple[Ended, Traces]:
    """Descend from every start and keep the lowest end of each fit; `rows` are those of the plan's jobs that are fitted."""
    problem, unit = objective.problem(), objective.loss_unit
    descent, traces = _descend(rows, plan, problem, starts, unit)
    if starts.fit is None:
        return Ended(starts.w.double(), descent.w.double(), descent.steps_made, descent.end, starts.turn), traces
    lowest = find_lowest(_final_losses(rows, plan, problem, starts, descent.w), starts.fit)
    best = torch.from_numpy(lowest).to(unit.device)
    w, steps_made, end = descent.w[:, best].double(), descent.steps_made[best], descent.end[best]
    return Ended(starts.w[:, best].double(), w, steps_made, end, starts.turn[best]), traces.take(lowest)


def _descend(rows: Rows, plan: Plan, problem: Problem, starts: Starts, unit: Tensor) -> tuple[Descent, Traces]:
    """Descend `plan.width` starts at a time; `unit` is that of the loss in units of y, (B,)."""
    start = starts.w.to(getattr(torch, plan.shape["dtype"]))
    problem = type(problem)(*(field.to(start.dtype) for field in problem))
    loss, optimizer = plan.shape["loss"], plan.shape["optimizer"]
    parts, traces = [], []
    for some, fits_of in _slices(rows, plan, problem, starts):
        these = rows[fits_of]
        hyper = {name: values[these] for name, values in plan.hyper.items()}
        part = _take(problem, fits_of)
        fits, schedule = _fits(optimizer, hyper, start), _schedule(plan, these, part)
        steps, entries = find_recorded(plan.shape["trace"], hyper["steps"])
        begin = start[:, some].contiguous()
        end = plan.descend(Batch(part, begin, fits, schedule, _criteria(hyper, part, begin, loss), steps))
        losses = end.losses if entries is None else end.losses.gather(0, torch.from_numpy(entries).to(start.device))
        traces.append(scale(losses, unit[fits_of]))
        parts.append(end._replace(losses=losses[:0]))
    if len(parts) == 1:
        return parts[0], traces[0]
    fields = (torch.cat(field, dim=-1) for field in zip(*parts, strict=True))
    return Descent(*fields), join_traces(traces)


def _final_losses(rows: Rows, plan: Plan, problem: Problem, starts: Starts, w: Tensor) -> NDArray[np.float64]:
    """The loss at which each start ended, (S,), in float64."""
    slices = _slices(rows, plan, problem, starts)
    losses = [value_at(plan.shape["loss"], w[:, some].double(), _take(problem, fits_of)) for some, fits_of in slices]
    return np.asarray(torch.cat(losses).cpu())


def _take(problem: Problem, fits_of: slice | Rows) -> Problem:
    """The problem of some fits, one after the other in memory."""
    some = fits_of if isinstance(fits_of, slice) else torch.from_numpy(fits_of).to(problem.target.device)
    return type(problem)(*(field[..., some].contiguous() for field in problem))


def _criteria(hyper: Hyper, problem: Problem, start: Tensor, loss: str) -> Criteria:
    """When each fit stops; its loss has diverged far above that of its start and that of the zero polynomial."""
    ftol, gtol = (torch.tensor(hyper[name]).to(start) for name in ("ftol", "gtol"))
    patience = torch.from_numpy(hyper["patience"].astype(np.int32)).to(start.device)
    criteria = Criteria(ftol, patience, gtol, torch.full_like(ftol, torch.inf))
    if not criteria.watched.any():
        return criteria
    usual = torch.maximum(value_at(loss, start, problem), value_at(loss, torch.zeros_like(start), problem))
    return criteria._replace(ceiling=DIVERGENCE_FACTOR * usual)


def _fits(optimizer: str, hyper: Hyper, like: Tensor) -> Fits:
    rows = OPTIMIZERS[optimizer].constants(hyper)
    constants = np.array(rows, dtype=np.float64).reshape(len(rows), len(hyper["lr"]))
    steps = torch.from_numpy(hyper["steps"].astype(np.int32)).to(like.device)
    return Fits(torch.tensor(hyper["lr"]).to(like), steps, torch.from_numpy(constants).to(like))


def _schedule(plan: Plan, rows: Rows, problem: Problem) -> Schedule:
    """The tables of a batch, one block beyond its last step."""
    device, batch = problem.target.device, problem.target.shape[-1]
    beyond = int(plan.hyper["steps"][rows].max()) + BLOCK_STEPS
    schedule = tabulate(plan.shape["optimizer"], plan.combinations.take(rows), beyond, device)
    if plan.one_schedule or schedule.column is not None:
        return schedule
    # Some fits may agree where not all of the batch do; the block in use takes a column for each fit.
    return Schedule(schedule.table, torch.zeros(batch, dtype=torch.int64, device=device))


def _slices(rows: Rows, plan: Plan, problem: Problem, starts: Starts) -> Iterator[tuple[slice, slice | Rows]]:
    """At most `plan.width` starts, and the fits they are of; fewer where what they keep would not fit into memory."""
    # Restarts of a fit share its problem until they are descended.
    repeated = 0 if starts.fit is None else sum(field[..., 0].numel() for field in problem)
    fit, begin, count = np.arange(starts.w.shape[1]) if starts.fit is None else starts.fit, 0, starts.w.shape[1]
    while begin < count:
        end = min(begin + plan.width, count)
        while end - begin > 1 and _count_numbers(rows[fit[begin:end]], plan, repeated) > DESCENT_NUMBERS:
            end = begin + (end - begin) // 2
        some = slice(begin, end)
        yield some, some if starts.fit is None else fit[some]
        begin = end


def _count_numbers(rows: Rows, plan: Plan, repeated: int) -> int:
    """The losses that fits record together, the entries of the tables of their schedules, or what is `repeated` for each."""
    steps = plan.hyper["steps"][rows]
    losses = len(find_recorded(plan.shape["trace"], steps)[0]) * len(steps)
    return max(losses, plan.combinations.take(rows).width * int(steps.max()) * _TABLE_COLUMNS, repeated * len(steps))
