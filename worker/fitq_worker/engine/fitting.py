"""`fit`: a frame of jobs in, frames of results and traces out. Knows nothing of queues."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from fitq_shared.frames import SHAPE_COLUMNS, jobs_batch
from fitq_shared.jobs import FitJob
from fitq_worker.engine import compiled
from fitq_worker.engine.compiled import Kernel
from fitq_worker.engine.descent import StepBlock, step_block
from fitq_worker.engine.lbfgs import lbfgs_block
from fitq_worker.engine.outcome import result_frame, trace_frame
from fitq_worker.engine.samples import numbers, sample_tiles
from fitq_worker.engine.schedule import distinct
from fitq_worker.engine.tile import Plan, fit_tile, hyperparameters

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


def fit(
    jobs: pa.RecordBatch, device: str = "cpu", *, path: Path = "auto", on_block: Callable[[], None] | None = None
) -> Fitted:
    """Fit all jobs of a frame as one tensor program.

    Args:
        jobs: a record batch of JOB_SCHEMA whose rows agree in its SHAPE_COLUMNS.
        device: "cpu" or "cuda:N".
        path: "compiled" uses a compiled kernel and builds it first where it is missing, which takes some ten seconds;
            "eager" never does; "auto" uses one that is there, and has a missing one built in the background when the
            work is large. The results are the same to the last bit. Only the loss mse has kernels, the others run eager.
        on_block: called between blocks of steps; what it raises ends the fit.

    A fit that fails is a row with its status and message; nothing is raised for it.
    """
    place = torch.device(device)
    name = "cpu" if place.type == "cpu" else f"{place} {torch.cuda.get_device_name(place)}"
    rows, results, traces = [], [], []
    for group in _by_penalty(jobs):
        own = jobs if len(group) == len(jobs) else jobs.take(pa.array(group))
        plan = _plan(own, place, path, on_block or _nothing)
        for tile in sample_tiles(own, place):
            outcome, losses = fit_tile(tile, plan)
            rows.append(group[tile.rows])
            results.append(result_frame(outcome, name))
            traces.append(trace_frame(outcome, losses))
    back = np.argsort(np.concatenate(rows))
    return Fitted(_in_order(results, back), _in_order(traces, back))


def _by_penalty(jobs: pa.RecordBatch) -> list[NDArray[np.int64]]:
    """Rows of the jobs without and with a ridge: a ridge makes the least-squares system triangular."""
    penalised = numbers(jobs["ridge"]) > 0
    return [rows for rows in (np.flatnonzero(~penalised), np.flatnonzero(penalised)) if len(rows)]


def warm_up(device: str) -> None:
    """Pay for what a first fit would pay for, and load or start to build the kernels that most work needs."""
    for degree, triangular in _COMMON_KERNELS:
        kernel = Kernel("nadam", degree, triangular, "float32", True, torch.device(device).type)
        if compiled.load(kernel) is None:
            compiled.request(kernel)
    fit(jobs_batch([FitJob(polynomial=[1.0], steps=1)]), device)


def _plan(jobs: pa.RecordBatch, device: torch.device, path: Path, on_block: Callable[[], None]) -> Plan:
    shape = {name: jobs[name][0].as_py() for name in SHAPE_COLUMNS}
    penalised = shape["loss"] == "mse" and jobs["ridge"][0].as_py() > 0
    eager = _eager(shape["loss"], shape["optimizer"])
    if shape["optimizer"] == "exact":
        return Plan(shape, eager, penalised, len(jobs), True, on_block)
    hyper = hyperparameters(jobs)
    shared = len(distinct(shape["optimizer"], hyper)[0]["gamma"]) == 1
    updates = int(numbers(jobs["restarts"]).sum()) * int(hyper["steps"].max()) * (shape["degree"] + 1)
    triangular = shape["basis"] != "orthogonal" or penalised
    kernel = None
    if shape["loss"] == "mse" and shape["optimizer"] != "lbfgs":
        wanted = Kernel(shape["optimizer"], shape["degree"], triangular, shape["dtype"], shared, device.type)
        kernel = _ready(wanted, path, updates)
    width = EAGER_TILE_FITS if kernel is None else COMPILED_TILE_FITS
    width = CUDA_TILE_FITS if device.type == "cuda" else width
    return Plan(shape, kernel or eager, penalised, width, shared, on_block)


def _eager(loss: str, optimizer: str) -> StepBlock:
    if optimizer == "lbfgs":
        return partial(lbfgs_block, loss=loss)
    return partial(step_block, loss=loss, optimizer=optimizer)


def _ready(kernel: Kernel, path: Path, updates: int) -> StepBlock | None:
    """The compiled block; None where there is none yet or none is wanted."""
    if path == "compiled":
        compiled.build(kernel)
    ready = None if path == "eager" else compiled.load(kernel)
    if path == "auto" and ready is None and updates >= WORTH_COMPILING_UPDATES:
        compiled.request(kernel)
    return ready


def _in_order(frames: list[pa.RecordBatch], back: NDArray[np.int64]) -> pa.RecordBatch:
    """The frames of all tiles as one, rows in the order of the jobs; a frame without rows stays so."""
    whole = frames[0] if len(frames) == 1 else pa.concat_batches(frames)
    ordered = not len(whole) or (np.diff(back) > 0).all()
    return whole if ordered else whole.take(pa.array(back))


def _nothing() -> None:
    """Default of `on_block`."""
