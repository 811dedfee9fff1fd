"""`fit`: a frame of jobs in, frames of results and traces out. Knows nothing of queues."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from fitq_shared.sampling import START, normals
from fitq_shared.trace import recorded_steps
from torch import Tensor

from fitq_worker.engine import compiled
from fitq_worker.engine.basis import multiply_upper, powers_of_x
from fitq_worker.engine.descent import Descent, StepBlock, descend, step_block
from fitq_worker.engine.exact import coordinates
from fitq_worker.engine.losses import Problem
from fitq_worker.engine.outcome import Outcome, result_frame, trace_frame
from fitq_worker.engine.reduction import Reduced, concatenated, reduce, selected
from fitq_worker.engine.samples import numbers, ragged, sample_tiles

log = logging.getLogger(__name__)

Path = Literal["auto", "eager", "compiled"]

#: Fits descended together: a compiled block wants its arrays in the cache of a core, an eager one few large operations.
COMPILED_TILE_FITS, EAGER_TILE_FITS, CUDA_TILE_FITS = 4096, 16384, 1 << 20
#: Coefficient updates from which on a missing kernel is worth building: some seconds of eager work.
WORTH_COMPILING_UPDATES = 50_000_000
#: What a worker can expect first: the notebook's degree in either basis.
_COMMON_KERNELS = ((2, False), (2, True))


class Fitted(NamedTuple):
    """Record batches of RESULT_SCHEMA and TRACE_SCHEMA, rows in the order of the jobs; `chunk` is left null."""

    results: pa.RecordBatch
    traces: pa.RecordBatch


class Start(NamedTuple):
    """What the descent of B fits starts from, in the coordinates it runs in; float64."""

    w: Tensor  # (P, B)
    #: R of the basis, (P, P, B); None where it is the identity.
    factor: Tensor | None


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
    shape = {name: jobs[name][0].as_py() for name in ("degree", "basis", "loss", "optimizer", "trace")}
    place = torch.device(device)
    reduced, invalid = _reduced(jobs, shape["degree"], place)
    start = _start(jobs, reduced, shape["basis"])
    block, tile = _block(shape, place, path, len(jobs) * int(numbers(jobs["steps"]).max()))
    descent = _descend(jobs, shape, reduced, start, block, tile, on_block or _nothing)
    outcome = Outcome(jobs, shape["basis"], reduced, start.w.float().double(), descent.w.double(), start.factor, invalid)
    return Fitted(result_frame(outcome, _device_name(place)), trace_frame(outcome, descent.losses))


def warm_up(device: str) -> None:
    """Load or start to build the kernels that most work needs; returns at once."""
    for degree, triangular in _COMMON_KERNELS:
        kernel = compiled.Kernel("nadam", degree, triangular, torch.device(device).type)
        if compiled.load(kernel) is None:
            compiled.request(kernel)


def _reduced(jobs: pa.RecordBatch, degree: int, device: torch.device) -> tuple[Reduced, Tensor]:
    """The sufficient statistics of all jobs, and which of them have invalid samples, in the order of the jobs."""
    tiles = [(samples.rows, reduce(samples, degree), samples.invalid) for samples in sample_tiles(jobs, device)]
    rows = np.concatenate([rows for rows, _, _ in tiles])
    back = torch.from_numpy(np.argsort(rows)).to(device)
    reduced = concatenated([reduced for _, reduced, _ in tiles])
    return selected(reduced, back), torch.cat([invalid for _, _, invalid in tiles])[back]


def _start(jobs: pa.RecordBatch, reduced: Reduced, basis: str) -> Start:
    """Starting coefficients in the basis: the job's own, else drawn from N(0, 1) under its seed."""
    size, batch = reduced.target.shape
    given = torch.from_numpy(ragged(jobs["init"], size).T[::-1].copy()).to(reduced.target.device)
    drawn = torch.from_numpy(normals(numbers(jobs["seed"]).astype(np.int64), START, size)).to(given.device)
    factor = powers_of_x(reduced)
    if basis == "orthogonal":
        given = multiply_upper(factor, given)
        given = torch.cat([given[:1] - reduced.mean, given[1:]]) / reduced.scale
    has_own = torch.from_numpy(np.asarray(jobs["init"].is_valid())).to(given.device)
    return Start(torch.where(has_own, given, drawn), factor if basis == "power" else None)


def _problem(reduced: Reduced, factor: Tensor | None) -> Problem:
    """The loss that is descended, float32: of the standardised targets where R is the identity, else of y itself."""
    size, batch = reduced.target.shape
    if factor is None:
        return Problem(reduced.target.new_empty(0, batch).float(), reduced.target.float(), reduced.floor.float())
    rows = torch.stack([factor[i, j] for i in range(size) for j in range(i, size)])
    floor = reduced.floor * reduced.scale * reduced.scale
    return Problem(rows.float(), coordinates(reduced).float(), floor.float())


def _descend(
    jobs: pa.RecordBatch,
    shape: dict[str, str],
    reduced: Reduced,
    start: Start,
    block: StepBlock,
    tile: int,
    on_block: Callable[[], None],
) -> Descent:
    """Descend tile by tile; losses come back in units of y squared."""
    device = start.w.device
    lr = torch.from_numpy(numbers(jobs["lr"]).astype(np.float32)).to(device)
    steps = torch.from_numpy(numbers(jobs["steps"]).astype(np.int32)).to(device)
    problem = _problem(reduced, start.factor)
    parts = []
    for first in range(0, len(jobs), tile):
        at = slice(first, first + tile)
        recorded = _recorded(shape["trace"], steps[at])
        tiled = Problem(*(field[..., at].contiguous() for field in problem))
        w = start.w[:, at].float().contiguous()
        parts.append(descend(tiled, w, lr[at], steps[at], recorded, block, shape["optimizer"], on_block))
    losses = _stacked([part.losses for part in parts])
    if start.factor is None:
        losses = (losses.double() * reduced.scale * reduced.scale).float()
    return Descent(torch.cat([part.w for part in parts], dim=1), losses)


def _recorded(trace: str, steps: Tensor) -> Tensor:
    """Recorded steps of each fit, (T, B), or (T, 1) when all have the same number of steps; short ones end in -1."""
    distinct, place = np.unique(steps.cpu().numpy(), return_inverse=True)
    schedules = [recorded_steps(trace, int(number)) for number in distinct]
    table = np.full((max(map(len, schedules)), len(schedules)), -1)
    for column, schedule in enumerate(schedules):
        table[: len(schedule), column] = schedule
    return torch.from_numpy(table if len(distinct) == 1 else table[:, place]).to(steps.device)


def _stacked(parts: list[Tensor]) -> Tensor:
    """Tiles of losses side by side, padded with NaN to the longest trace."""
    longest = max(len(part) for part in parts)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, longest - len(part)), value=torch.nan) for part in parts]
    return torch.cat(padded, dim=1)


def _block(shape: dict[str, str], device: torch.device, path: Path, fit_steps: int) -> tuple[StepBlock, int]:
    """The step block to run, and how many fits it takes at once."""
    kernel = compiled.Kernel(shape["optimizer"], int(shape["degree"]), shape["basis"] == "power", device.type)
    if path == "compiled":
        compiled.build(kernel)
    ready = None if path == "eager" else compiled.load(kernel)
    if path == "auto" and ready is None and fit_steps * (kernel.degree + 1) >= WORTH_COMPILING_UPDATES:
        compiled.request(kernel)
    if device.type == "cuda":
        tile = CUDA_TILE_FITS
    else:
        tile = EAGER_TILE_FITS if ready is None else COMPILED_TILE_FITS
    return ready or partial(step_block, optimizer=shape["optimizer"]), tile


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"


def _nothing() -> None:
    """Default of `on_block`."""
