"""`fit`: a frame of jobs in, frames of results and traces out. Knows nothing of queues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.frames import SHAPE_COLUMNS, jobs_batch
from fitq_shared.jobs import FitJob
from fitq_shared.sampling import START, normals
from fitq_shared.trace import recorded_steps
from fitq_worker.engine import compiled
from fitq_worker.engine.basis import multiply_upper, powers_of_x
from fitq_worker.engine.compiled import Kernel
from fitq_worker.engine.descent import Descent, Fits, StepBlock, block_steps, descend, step_block
from fitq_worker.engine.exact import coordinates
from fitq_worker.engine.losses import Problem
from fitq_worker.engine.optimizers import HYPERPARAMETERS, OPTIMIZERS, Hyper
from fitq_worker.engine.outcome import Outcome, result_frame, trace_frame
from fitq_worker.engine.reduction import Reduced, concatenated, reduce, selected
from fitq_worker.engine.samples import numbers, ragged, sample_tiles
from fitq_worker.engine.schedule import SCHEDULES, Schedule, distinct, tabulated
from fitq_worker.engine.space import Space, problem_in, space_of

log = logging.getLogger(__name__)

Path = Literal["auto", "eager", "compiled"]

#: Fits descended together: a compiled block wants its arrays in the cache of a core, an eager one few large operations.
COMPILED_TILE_FITS, EAGER_TILE_FITS, CUDA_TILE_FITS = 4096, 16384, 1 << 20
#: Losses kept while a tile is descended: 256 MiB of float32.
TILE_LOSSES = 1 << 26
#: Coefficient updates from which on a missing kernel is worth building: some seconds of eager work.
WORTH_COMPILING_UPDATES = 50_000_000
#: What a worker can expect first: the notebook's degree in either basis.
_COMMON_KERNELS = ((2, False), (2, True))


class Fitted(NamedTuple):
    """Record batches of RESULT_SCHEMA and TRACE_SCHEMA, rows in the order of the jobs; `chunk` is left null."""

    results: pa.RecordBatch
    traces: pa.RecordBatch


def fit(
    jobs: pa.RecordBatch, device: str = "cpu", *, path: Path = "auto", on_block: Callable[[], None] | None = None
) -> Fitted:
    """Fit all jobs of a frame as one tensor program.

    Args:
        jobs: a record batch of JOB_SCHEMA whose rows agree in its SHAPE_COLUMNS.
        device: "cpu" or "cuda:N".
        path: "compiled" uses a compiled kernel and builds it first where it is missing, which takes some ten seconds;
            "eager" never does; "auto" uses one that is there, and has a missing one built in the background when the
            work is large. The results are the same to the last bit.
        on_block: called between blocks of steps; what it raises ends the fit.

    A fit that fails is a row with its status and message; nothing is raised for it.
    """
    shape = {name: jobs[name][0].as_py() for name in SHAPE_COLUMNS}
    place = torch.device(device)
    reduced, invalid = _reduced(jobs, shape["degree"], place)
    space = space_of(shape["basis"], reduced)
    if shape["optimizer"] == "exact":
        start = space.from_orthonormal(coordinates(reduced))
        descent = Descent(start, start.new_empty(0, len(jobs)))
    else:
        start = _start(jobs, reduced, space).to(getattr(torch, shape["dtype"]))
        descent = _descend(jobs, shape, reduced, space, start, path, on_block or _nothing)
    descended = shape["optimizer"] != "exact"
    outcome = Outcome(jobs, reduced, space, start.double(), descent.w.double(), invalid, descended)
    return Fitted(result_frame(outcome, _device_name(place)), trace_frame(outcome, descent.losses))


def warm_up(device: str) -> None:
    """Pay for what a first fit would pay for, and load or start to build the kernels that most work needs."""
    for degree, triangular in _COMMON_KERNELS:
        kernel = Kernel("nadam", degree, triangular, "float32", True, torch.device(device).type)
        if compiled.load(kernel) is None:
            compiled.request(kernel)
    fit(jobs_batch([FitJob(polynomial=[1.0], steps=1)]), device)


def _reduced(jobs: pa.RecordBatch, degree: int, device: torch.device) -> tuple[Reduced, Tensor]:
    """The sufficient statistics of all jobs, and which of them have invalid samples, in the order of the jobs."""
    tiles = [(samples.rows, reduce(samples, degree), samples.invalid) for samples in sample_tiles(jobs, device)]
    rows = np.concatenate([rows for rows, _, _ in tiles])
    back = torch.from_numpy(np.argsort(rows)).to(device)
    reduced = concatenated([reduced for _, reduced, _ in tiles])
    return selected(reduced, back), torch.cat([invalid for _, _, invalid in tiles])[back]


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


def _descend(
    jobs: pa.RecordBatch,
    shape: dict[str, Any],
    reduced: Reduced,
    space: Space,
    start: Tensor,
    path: Path,
    on_block: Callable[[], None],
) -> Descent:
    """Descend tile by tile; losses come back in units of y squared."""
    device, hyper = start.device, _hyperparameters(jobs)
    problem = problem_in(space, reduced, start.dtype)
    unit = (space.unit * space.unit).to(start.dtype)
    shared = len(distinct(shape["optimizer"], hyper)[0]["gamma"]) == 1
    updates = len(jobs) * int(hyper["steps"].max()) * len(start)
    block, width = _block(shape, shared, device, path, updates)
    parts = []
    for at in _tiles(shape["trace"], hyper["steps"], width):
        own = {name: values[at] for name, values in hyper.items()}
        tiled = Problem(*(field[..., at].contiguous() for field in problem))
        fits, schedule = _fits(shape["optimizer"], own, start), _schedule(shape["optimizer"], own, tiled, shared)
        recorded, place = _recorded(shape["trace"], own["steps"])
        part = descend(tiled, start[:, at].contiguous(), fits, schedule, recorded, block, shape["optimizer"], on_block)
        losses = part.losses if place is None else part.losses.gather(0, torch.from_numpy(place).to(device))
        parts.append(Descent(part.w, (losses * unit[at]).float()))
    return Descent(torch.cat([part.w for part in parts], dim=1), _stacked([part.losses for part in parts]))


def _hyperparameters(jobs: pa.RecordBatch) -> Hyper:
    codes = pa.compute.index_in(jobs["schedule"], pa.array(SCHEDULES))
    return {name: numbers(codes if name == "schedule" else jobs[name]) for name in HYPERPARAMETERS}


def _fits(optimizer: str, hyper: Hyper, like: Tensor) -> Fits:
    constants = np.stack([np.asarray(row, dtype=np.float64) for row in OPTIMIZERS[optimizer].constants(hyper)])
    steps = torch.from_numpy(hyper["steps"].astype(np.int32)).to(like.device)
    return Fits(torch.tensor(hyper["lr"]).to(like), steps, torch.from_numpy(constants).to(like))


def _schedule(optimizer: str, hyper: Hyper, problem: Problem, shared: bool) -> Schedule:
    """The tables of a tile, one block beyond its last step."""
    size, batch = problem.target.shape
    beyond = int(hyper["steps"].max()) + block_steps(size, len(problem.factor) > 0)
    schedule = tabulated(optimizer, hyper, beyond, problem.target.device)
    if shared or schedule.place is not None:
        return schedule
    # A tile may agree where the whole batch does not; the block in use takes a place for each fit.
    return Schedule(schedule.table, torch.zeros(batch, dtype=torch.int64, device=problem.target.device))


def _tiles(trace: str, steps: NDArray[np.int32], width: int) -> Iterator[slice]:
    """Slices of at most `width` fits, fewer where different step limits make many different steps to record."""
    start = 0
    while start < len(steps):
        stop = min(start + width, len(steps))
        while stop - start > 1 and len(_recorded(trace, steps[start:stop])[0]) * (stop - start) > TILE_LOSSES:
            stop = start + (stop - start) // 2
        yield slice(start, stop)
        start = stop


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


def _stacked(parts: list[Tensor]) -> Tensor:
    """Tiles of losses side by side, padded with NaN to the longest trace."""
    longest = max(len(part) for part in parts)
    if all(len(part) == longest for part in parts):
        return torch.cat(parts, dim=1)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, longest - len(part)), value=torch.nan) for part in parts]
    return torch.cat(padded, dim=1)


def _block(shape: dict[str, Any], shared: bool, device: torch.device, path: Path, updates: int) -> tuple[StepBlock, int]:
    """The step block to run, and how many fits it takes at once."""
    triangular = shape["basis"] != "orthogonal"
    kernel = Kernel(shape["optimizer"], shape["degree"], triangular, shape["dtype"], shared, device.type)
    if path == "compiled":
        compiled.build(kernel)
    ready = None if path == "eager" else compiled.load(kernel)
    if path == "auto" and ready is None and updates >= WORTH_COMPILING_UPDATES:
        compiled.request(kernel)
    width = EAGER_TILE_FITS if ready is None else COMPILED_TILE_FITS
    width = CUDA_TILE_FITS if device.type == "cuda" else width
    return ready or partial(step_block, optimizer=shape["optimizer"]), width


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"


def _nothing() -> None:
    """Default of `on_block`."""
