"""One tile of jobs: samples -> reduction -> descent -> outcome. A job's numbers do not depend on the tile it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.sampling import START, normals
from fitq_shared.trace import recorded_steps
from fitq_worker.engine.basis import multiply_upper, powers_of_x
from fitq_worker.engine.descent import Descent, Fits, StepBlock, block_steps, descend, is_triangular
from fitq_worker.engine.exact import coordinates
from fitq_worker.engine.losses import LOSSES, Problem, Quadratic, Sampled
from fitq_worker.engine.optimizers import HYPERPARAMETERS, OPTIMIZERS, Hyper
from fitq_worker.engine.outcome import Outcome
from fitq_worker.engine.reduction import Reduced, points, reduce
from fitq_worker.engine.samples import Samples, Tile, numbers, ragged
from fitq_worker.engine.schedule import SCHEDULES, Schedule, distinct, tabulated
from fitq_worker.engine.space import Space, quadratic, sampled, space_of

#: Fits are descended together as long as the losses they keep, and the schedules they follow, are no more than this:
#: 256 MiB of float32.
DESCENT_NUMBERS = 1 << 26


class Plan(NamedTuple):
    """How the jobs of a frame are fitted; the same for all its tiles."""

    #: What the jobs agree in, by the names of SHAPE_COLUMNS.
    shape: dict[str, Any]
    block: StepBlock
    #: Fits that are descended together.
    width: int
    #: All jobs of the frame follow one schedule.
    shared: bool
    on_block: Callable[[], None]


def fit_tile(tile: Tile, plan: Plan) -> tuple[Outcome, Tensor]:
    """Fit the jobs on their sample sets; returns what results are made of and the traces, (T, B) in units of y."""
    _, jobs, samples = tile
    reduced = reduce(samples, plan.shape["degree"])
    space = space_of(plan.shape["basis"], reduced)
    if plan.shape["optimizer"] == "exact":
        final = space.from_orthonormal(coordinates(reduced))
        outcome = Outcome(jobs, reduced, space, None, final, final, samples.invalid, descended=False)
        return outcome, final.new_empty(0, len(jobs))
    problem = _problem(jobs, plan.shape["loss"], space, reduced, samples)
    start = _start(jobs, reduced, space).to(getattr(torch, plan.shape["dtype"]))
    unit = space.unit ** LOSSES[plan.shape["loss"]].power
    descent = _descend(jobs, plan, problem, start, unit)

    def loss(w: Tensor) -> Tensor:
        return LOSSES[plan.shape["loss"]].value(w, problem) * unit

    own_loss = None if isinstance(problem, Quadratic) else loss
    ends = (start.double(), descent.w.double())
    return Outcome(jobs, reduced, space, own_loss, *ends, samples.invalid, descended=True), descent.losses


def hyperparameters(jobs: pa.RecordBatch) -> Hyper:
    """The numeric hyperparameters of the jobs, the schedule as its place in SCHEDULES."""
    codes = pc.index_in(jobs["schedule"], pa.array(SCHEDULES))
    return {name: numbers(codes if name == "schedule" else jobs[name]) for name in HYPERPARAMETERS}


def _problem(jobs: pa.RecordBatch, loss: str, space: Space, reduced: Reduced, samples: Samples) -> Problem:
    if loss == "mse":
        return quadratic(space, reduced)
    return sampled(space, points(samples, len(reduced.target) - 1), torch.tensor(numbers(jobs["delta"])).to(reduced.target))


def _start(jobs: pa.RecordBatch, reduced: Reduced, space: Space) -> Tensor:
    """Starting coefficients in the space, (P, B) float64: the job's own, else drawn from N(0, 1) under its seed."""
    device = reduced.target.device
    drawn = torch.from_numpy(normals(numbers(jobs["seed"]).astype(np.int64), START, len(reduced.target))).to(device)
    own = np.asarray(jobs["init"].is_valid())
    if not own.any():
        return drawn
    raw = torch.from_numpy(ragged(jobs["init"], len(drawn)).T[::-1].copy()).to(device)
    given = space.from_orthonormal(multiply_upper(powers_of_x(reduced), raw))
    return torch.where(torch.from_numpy(own).to(device), given, drawn)


def _descend(jobs: pa.RecordBatch, plan: Plan, problem: Problem, start: Tensor, unit: Tensor) -> Descent:
    """Descend `plan.width` fits at a time; losses come back in units of y."""
    hyper, optimizer = hyperparameters(jobs), plan.shape["optimizer"]
    problem = type(problem)(*(field.to(start.dtype) for field in problem))
    parts = []
    for at in _slices(hyper, plan):
        own = {name: values[at] for name, values in hyper.items()}
        part = type(problem)(*(field[..., at].contiguous() for field in problem))
        fits, schedule = _fits(optimizer, own, start), _schedule(optimizer, own, part, plan.shared)
        recorded, place = _recorded(plan.shape["trace"], own["steps"])
        end = descend(part, start[:, at].contiguous(), fits, schedule, recorded, plan.block, optimizer, plan.on_block)
        losses = end.losses if place is None else end.losses.gather(0, torch.from_numpy(place).to(start.device))
        parts.append(Descent(end.w, (losses * unit[at].to(start.dtype)).float()))
    return Descent(torch.cat([part.w for part in parts], dim=1), _side_by_side([part.losses for part in parts]))


def _fits(optimizer: str, hyper: Hyper, like: Tensor) -> Fits:
    constants = np.stack([np.asarray(row, dtype=np.float64) for row in OPTIMIZERS[optimizer].constants(hyper)])
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
