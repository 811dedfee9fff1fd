"""`fit`: a frame of jobs in, frames of results and traces out. Knows nothing of queues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.frames import jobs_batch
from fitq_shared.jobs import FitJob
from fitq_shared.sampling import START, normals
from fitq_shared.trace import recorded_steps
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
    """Pay for what a first fit would pay for, and load or start to build the kernels that most work needs."""
    for degree, triangular in _COMMON_KERNELS:
        kernel = compiled.Kernel("nadam", degree, triangular, torch.device(device).type)
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


def _start(jobs: pa.RecordBatch, reduced: Reduced, basis: str) -> Start:
    """Starting coefficients in the basis: the job's own, else drawn from N(0, 1) under its seed."""
    size = len(reduced.target)
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
    unit = (reduced.scale * reduced.scale if start.factor is None else torch.ones_like(reduced.scale)).float()
    parts = []
    for at in _tiles(shape["trace"], steps.cpu().numpy(), tile):
        recorded, place = _recorded(shape["trace"], steps[at].cpu().numpy())
        tiled = Problem(*(field[..., at].contiguous() for field in problem))
        w = start.w[:, at].float().contiguous()
        part = descend(tiled, w, lr[at], steps[at], recorded, block, shape["optimizer"], on_block)
        losses = part.losses if place is None else part.losses.gather(0, torch.from_numpy(place).to(device))
        parts.append(Descent(part.w, losses * unit[at]))
    return Descent(torch.cat([part.w for part in parts], dim=1), _stacked([part.losses for part in parts]))


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


def _block(shape: dict[str, str], device: torch.device, path: Path, fit_steps: int) -> tuple[StepBlock, int]:
    """The step block to run, and how many fits it takes at once."""
    kernel = compiled.Kernel(shape["optimizer"], int(shape["degree"]), shape["basis"] == "power", device.type)
    if path == "compiled":
        compiled.build(kernel)
    ready = None if path == "eager" else compiled.load(kernel)
    if path == "auto" and ready is None and fit_steps * (kernel.degree + 1) >= WORTH_COMPILING_UPDATES:
        compiled.request(kernel)
    tile = EAGER_TILE_FITS if ready is None else COMPILED_TILE_FITS
    tile = CUDA_TILE_FITS if device.type == "cuda" else tile
    return ready or partial(step_block, optimizer=shape["optimizer"]), tile


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"


def _nothing() -> None:
    """Default of `on_block`."""
