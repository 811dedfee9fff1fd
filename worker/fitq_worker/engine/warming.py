"""Kernels ahead of time: loaded when a worker starts, or built before any does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from fitq_shared.jobs.fields import Basis, Dtype, Loss, Optimizer
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine.fitting import fit
from fitq_worker.engine.native.kernels import find_library
from fitq_worker.engine.native.program import Program

#: What a worker can expect first: the notebook's degree in either basis.
_COMMON_KERNELS = ((2, False), (2, True))


def warm_up(device: str) -> None:
    """Do what would slow down a first fit, and load or start to build the kernels that most work needs."""
    for degree, triangular in _COMMON_KERNELS if device == "cpu" else ():
        find_library(Program("mse", "nadam", degree, triangular, "float32", one_schedule=True), "auto")
    fit(jobs_batch([FitJob(polynomial=[1.0], steps=1)]), device)


def build_kernels(
    degrees: Sequence[int],
    losses: Sequence[Loss],
    optimizers: Sequence[Optimizer],
    bases: Sequence[Basis],
    dtypes: Sequence[Dtype],
) -> Iterator[str]:
    """Build all kernels that jobs of every combination of these take on this CPU; yields what each combination was.

    Raises:
        KernelError: one cannot be built.
    """
    for degree, loss, optimizer, basis, dtype in product(degrees, losses, optimizers, bases, dtypes):
        job = FitJob(polynomial=[1.0], degree=degree, loss=loss, optimizer=optimizer, basis=basis, dtype=dtype, steps=1)
        fit(jobs_batch([job]), path="compiled")
        yield f"degree {degree}, {loss}, {optimizer}, {basis}, {dtype}"
