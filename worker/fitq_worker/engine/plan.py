"""How the jobs of a batch are fitted: which reduction, which block of steps, how many fits together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from fitq_shared.jobs.schemas import SHAPE_COLUMNS
from fitq_worker.engine.descent import eager
from fitq_worker.engine.descent.eager import step_block
from fitq_worker.engine.descent.lbfgs import lbfgs_block
from fitq_worker.engine.descent.optimizers import HYPERPARAMETERS, Hyper
from fitq_worker.engine.descent.schedule import SCHEDULES, Combinations, combine
from fitq_worker.engine.descent.stopping import CRITERIA
from fitq_worker.engine.native import cuda
from fitq_worker.engine.native import descent as native
from fitq_worker.engine.native.kernels import CodePath, find_library
from fitq_worker.engine.native.program import Program
from fitq_worker.engine.samples.fused_reduction import Reduction, find_reduction
from fitq_worker.engine.samples.reduction import Reduced, reduce
from fitq_worker.engine.samples.sets import SampleSets, numbers, pad

#: Fits descended together: native code wants their problems in a near cache, torch few large operations.
NATIVE_TILE_FITS, EAGER_TILE_FITS, CUDA_TILE_FITS = 8192, 16384, 1 << 20
#: Coefficient updates from which a missing kernel is worth building, a second's work: less of eager work, if not the last.
WORTH_BUILDING_UPDATES = 5_000_000
#: A step of L-BFGS, or through the samples, is at least so many others.
_COSTLY_STEP = 20


class Plan(NamedTuple):
    """How the jobs of a batch are fitted; the same for all its tiles."""

    #: What the jobs agree in, by the names of SHAPE_COLUMNS.
    shape: dict[str, Any]
    path: CodePath
    reduction: Reduction
    #: The reduction, or the loss, pads the sample sets.
    pads: bool
    descend: native.Descend
    #: The jobs have a ridge.
    has_ridge: bool
    #: Fits that are descended together.
    width: int
    #: The hyperparameters of the jobs, and what their schedules depend on.
    hyper: Hyper
    combinations: Combinations

    @property
    def one_schedule(self) -> bool:
        """All jobs follow one schedule."""
        return self.combinations.width == 1


def make_plan(jobs: pa.RecordBatch, device: torch.device, path: CodePath, on_block: Callable[[], None]) -> Plan:
    """The plan for jobs that agree in SHAPE_COLUMNS and in whether they have a ridge."""
    shape = {name: jobs[name][0].as_py() for name in SHAPE_COLUMNS}
    has_ridge = jobs["ridge"][0].as_py() > 0
    fused = find_reduction(path) if device.type == "cpu" else None
    reduction = fused or partial(_padded_reduction, device)
    pads = fused is None or shape["loss"] != "mse"
    descend = _eager(shape["loss"], shape["optimizer"], on_block)
    if shape["optimizer"] == "exact":
        nothing = Combinations({"gamma": np.zeros(1)}, np.zeros(len(jobs), dtype=np.int64))
        return Plan(shape, path, reduction, pads, descend, has_ridge, len(jobs), {}, nothing)
    hyper = _hyperparameters(jobs)
    combinations = combine(shape["optimizer"], hyper)
    updates = int(numbers(jobs["restarts"]).sum()) * int(hyper["steps"].max()) * (shape["degree"] + 1)
    triangular = shape["loss"] == "mse" and (shape["basis"] != "orthogonal" or has_ridge)
    what = shape["loss"], shape["optimizer"], shape["degree"], triangular, shape["dtype"], combinations.width == 1
    run = _find_native(Program(*what), device, path, updates)
    width = EAGER_TILE_FITS if run is None else NATIVE_TILE_FITS
    width = CUDA_TILE_FITS if device.type == "cuda" else width
    if run is not None:
        descend = partial(native.descend, run, shape["optimizer"], on_block, descend)
    return Plan(shape, path, reduction, pads, descend, has_ridge, width, hyper, combinations)


def _hyperparameters(jobs: pa.RecordBatch) -> Hyper:
    """The numeric hyperparameters of the jobs, the schedule as its index in SCHEDULES."""
    codes = pc.index_in(jobs["schedule"], pa.array(SCHEDULES))
    columns = {name: codes if name == "schedule" else jobs[name] for name in (*HYPERPARAMETERS, *CRITERIA)}
    return {name: numbers(column) for name, column in columns.items()}


def _find_native(program: Program, device: torch.device, path: CodePath, updates: int) -> native.Run | None:
    """What runs native descents; None where there is none yet or none is wanted."""
    cost = _COSTLY_STEP if program.loss != "mse" or program.optimizer == "lbfgs" else 1
    worth_building = updates * cost >= WORTH_BUILDING_UPDATES
    if device.type == "cpu":
        library = find_library(program, path, worth_building=worth_building)
        return None if library is None else partial(native.run_on_cpu, library)
    if program.optimizer == "lbfgs":  # NVRTC was still busy with it after six minutes
        return None
    function = cuda.find_kernel(program, device, path, worth_building=worth_building)
    return None if function is None else partial(native.run_on_gpu, function, device)


def _eager(loss: str, optimizer: str, on_block: Callable[[], None]) -> native.Descend:
    steps = partial(lbfgs_block, loss=loss) if optimizer == "lbfgs" else partial(step_block, loss=loss, optimizer=optimizer)
    return partial(eager.descend, eager.Method(steps, loss, optimizer, on_block))


def _padded_reduction(device: torch.device, sets: SampleSets, degree: int) -> Reduced:
    return reduce(pad(sets, device), degree)
