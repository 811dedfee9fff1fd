"""How the jobs of a batch are fitted: which reduction, which block of steps, how many fits together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from fitq_shared.jobs.schemas import SHAPE_COLUMNS
from fitq_worker.engine import compiled, fused_reduction, kernels
from fitq_worker.engine.compiled import StepKernel
from fitq_worker.engine.descent import StepBlock, step_block
from fitq_worker.engine.fused_reduction import Reduction, ReductionKernel
from fitq_worker.engine.lbfgs import lbfgs_block
from fitq_worker.engine.optimizers import HYPERPARAMETERS, Hyper
from fitq_worker.engine.reduction import Reduced, reduce
from fitq_worker.engine.samples import SampleSets, numbers, pad
from fitq_worker.engine.schedule import SCHEDULES, Combinations, combine
from fitq_worker.engine.stopping import CRITERIA

#: Which code descends: a kernel if there is one, none in any case, or one that is built if need be.
CodePath = Literal["auto", "eager", "compiled"]

#: Fits descended together: a compiled block wants its arrays in the cache of a core, an eager one few large operations.
COMPILED_TILE_FITS, EAGER_TILE_FITS, CUDA_TILE_FITS = 8192, 16384, 1 << 20
#: Coefficient updates from which a missing kernel is worth building: some seconds of eager work.
WORTH_COMPILING_UPDATES = 50_000_000


class Plan(NamedTuple):
    """How the jobs of a batch are fitted; the same for all its tiles."""

    #: What the jobs agree in, by the names of SHAPE_COLUMNS.
    shape: dict[str, Any]
    reduction: Reduction
    #: The reduction, or the loss, pads the sample sets.
    pads: bool
    block: StepBlock
    #: The jobs have a ridge.
    has_ridge: bool
    #: Fits that are descended together.
    width: int
    #: The hyperparameters of the jobs, and what their schedules depend on.
    hyper: Hyper
    combinations: Combinations
    on_block: Callable[[], None]

    @property
    def one_schedule(self) -> bool:
        """All jobs follow one schedule."""
        return self.combinations.width == 1


def make_plan(jobs: pa.RecordBatch, device: torch.device, path: CodePath, on_block: Callable[[], None]) -> Plan:
    """The plan for jobs that agree in SHAPE_COLUMNS and in whether they have a ridge."""
    shape = {name: jobs[name][0].as_py() for name in SHAPE_COLUMNS}
    has_ridge = jobs["ridge"][0].as_py() > 0
    fused = _fused_reduction(path) if shape["loss"] == "mse" and device.type == "cpu" else None
    reduction, pads = fused or partial(_padded_reduction, device), fused is None
    eager = _eager(shape["loss"], shape["optimizer"])
    if shape["optimizer"] == "exact":
        nothing = Combinations({"gamma": np.zeros(1)}, np.zeros(len(jobs), dtype=np.int64))
        return Plan(shape, reduction, pads, eager, has_ridge, len(jobs), {}, nothing, on_block)
    hyper = _hyperparameters(jobs)
    combinations = combine(shape["optimizer"], hyper)
    updates = int(numbers(jobs["restarts"]).sum()) * int(hyper["steps"].max()) * (shape["degree"] + 1)
    triangular = shape["basis"] != "orthogonal" or has_ridge
    kernel = None
    if shape["loss"] == "mse" and shape["optimizer"] != "lbfgs":
        one = combinations.width == 1
        wanted = StepKernel(shape["optimizer"], shape["degree"], triangular, shape["dtype"], one, device.type)
        kernel = _compiled_block(wanted, path, updates)
    width = EAGER_TILE_FITS if kernel is None else COMPILED_TILE_FITS
    width = CUDA_TILE_FITS if device.type == "cuda" else width
    return Plan(shape, reduction, pads, kernel or eager, has_ridge, width, hyper, combinations, on_block)


def _hyperparameters(jobs: pa.RecordBatch) -> Hyper:
    """The numeric hyperparameters of the jobs, the schedule as its index in SCHEDULES."""
    codes = pc.index_in(jobs["schedule"], pa.array(SCHEDULES))
    columns = {name: codes if name == "schedule" else jobs[name] for name in (*HYPERPARAMETERS, *CRITERIA)}
    return {name: numbers(column) for name, column in columns.items()}


def _eager(loss: str, optimizer: str) -> StepBlock:
    if optimizer == "lbfgs":
        return partial(lbfgs_block, loss=loss)
    return partial(step_block, loss=loss, optimizer=optimizer)


def _compiled_block(kernel: StepKernel, path: CodePath, updates: int) -> StepBlock | None:
    """The compiled block; None where there is none yet or none is wanted."""
    if path == "compiled":
        kernels.build(kernel)
    ready = None if path == "eager" else compiled.load(kernel)
    if path == "auto" and ready is None and updates >= WORTH_COMPILING_UPDATES:
        kernels.request(kernel)
    return ready


def _padded_reduction(device: torch.device, sets: SampleSets, degree: int) -> Reduced:
    return reduce(pad(sets, device), degree)


def _fused_reduction(path: CodePath) -> Reduction | None:
    """The fused reduction; None where there is none yet or none is wanted."""
    kernel = ReductionKernel()
    if path == "compiled":
        kernels.build(kernel)
    ready = None if path == "eager" else fused_reduction.load(kernel)
    if path == "auto" and ready is None:
        kernels.request(kernel)
    return ready
