"""Compiled step blocks: torch.export and AOTInductor turn `step_block` into a library that serves any batch size.

Eager and compiled blocks give the same bits, so which one runs is a question of speed alone. Loading takes milliseconds;
`kernels` tells how long building takes.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fitq_worker.engine.descent import Fits, StepBlock, count_block_steps
from fitq_worker.engine.kernels import build_in_background, kernel_file
from fitq_worker.engine.losses import Problem, Quadratic, mean_of_squares
from fitq_worker.engine.optimizers import HYPERPARAMETERS, OPTIMIZERS, Moments
from fitq_worker.engine.schedule import combine, tabulate

log = logging.getLogger(__name__)

#: A change of any of these files makes a new kernel.
_SOURCES = ("arithmetic.py", "losses.py", "optimizers.py", "schedule.py", "descent.py", "compiled.py")
_LARGEST_BATCH = 1 << 24
#: The usual limit of operations in one loop would cut a block into several that pass their numbers through memory.
_ONE_LOOP = {"max_fusion_size": 1 << 20}


class StepKernel(NamedTuple):
    """A compiled step block."""

    optimizer: str
    degree: int
    triangular: bool
    dtype: str  # "float32" or "float64"
    one_schedule: bool  # which all fits of the batch follow
    device: str  # "cpu" or "cuda"

    @property
    def file(self) -> Path:
        """Where it is kept."""
        shape = "triangular" if self.triangular else "orthonormal"
        schedule = "shared" if self.one_schedule else "own"
        name = f"{self.optimizer}-mse-{shape}-d{self.degree}-{self.dtype}-{schedule}-{self.device}"
        return kernel_file(name, ".pt2", self.device, _SOURCES)

    def compile(self, target: Path) -> None:
        """Build it into a new file."""
        torch.set_num_threads(1)  # one worker process a core: the kernel must not start threads of its own
        arguments, batch = _example(self), torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
        dynamic = _dynamic_shapes(arguments, batch, self.one_schedule)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch's own export
            program = torch.export.export(_Block(self.optimizer), arguments, dynamic_shapes=dynamic, strict=False)
            torch._inductor.aoti_compile_and_package(program, package_path=str(target), inductor_configs=_ONE_LOOP)


def load(kernel: StepKernel) -> StepBlock | None:
    """The compiled block, or None while there is none."""
    return _load(kernel.file) if kernel.file.exists() else None


class _Block(torch.nn.Module):
    """`step_block` by rows of coefficients, its arguments tensors and plain tuples as torch.export wants them.

    Arrays of one shape, (B,), become a single loop over the fits that keeps the numbers of each in registers.
    """

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self._update = OPTIMIZERS[optimizer].update

    def forward(
        self, w: Tensor, moments: Moments, problem: Moments, fits: Moments, first: Tensor, schedule: Tensor
    ) -> tuple[Tensor, Moments, Tensor]:
        assert self._update is not None
        lr, steps, constants = fits
        rows, losses = w.unbind(0), []
        moments_of_rows = list(zip(*(moment.unbind(0) for moment in moments), strict=True))
        for k in range(len(schedule)):
            values, gradient = _differentiate(rows, Quadratic(*problem))
            updated = [
                self._update(*row, lr * schedule[k, 0], constants, schedule[k, 1:])
                for row in zip(rows, gradient, moments_of_rows, strict=True)
            ]
            rows = tuple(torch.where(first + k < steps, new, row) for row, (new, _) in zip(rows, updated, strict=True))
            moments_of_rows = [new for _, new in updated]
            losses.append(values)
        moments = tuple(torch.stack(moment) for moment in zip(*moments_of_rows, strict=True))
        return torch.stack(rows), moments, torch.stack(losses)


def _differentiate(rows: Moments, problem: Quadratic) -> tuple[Tensor, Moments]:
    """The losses, (B,), and by autograd their gradient, P rows of (B,)."""
    with torch.enable_grad():
        leaves = [row.detach().requires_grad_() for row in rows]
        values = mean_of_squares(leaves, problem)
        gradient = torch.autograd.grad(values.sum(), leaves)
    return values.detach(), gradient


def _example(kernel: StepKernel) -> tuple[Any, ...]:
    """Arguments of the right types and shapes; the batch size stands for any."""
    size, batch, rule = kernel.degree + 1, 64, OPTIMIZERS[kernel.optimizer]
    new = partial(torch.ones, device=kernel.device, dtype=getattr(torch, kernel.dtype))
    hyper = {name: np.full(batch, 0.5) for name in HYPERPARAMETERS}
    columns = tabulate(kernel.optimizer, combine(kernel.optimizer, hyper), 1, torch.device(kernel.device)).table.shape[1]
    problem = (new(size * (size + 1) // 2 if kernel.triangular else 0, batch), new(size, batch), new(batch))
    moments = tuple(new(size, batch) for _ in range(rule.moments))
    fits = (new(batch), new(batch, dtype=torch.int32), new(len(rule.constants(hyper)), batch))
    first = torch.zeros((), dtype=torch.int32, device=kernel.device)
    rows = new(count_block_steps(size, kernel.triangular), columns, 1 if kernel.one_schedule else batch)
    return new(size, batch), moments, problem, fits, first, rows


def _dynamic_shapes(arguments: tuple[Any, ...], batch: Any, one_schedule: bool) -> tuple[Any, ...]:
    last = {1: batch}
    fits = ({0: batch}, {0: batch}, last)
    return (
        last,
        tuple(last for _ in arguments[1]),
        (last, last, {0: batch}),
        fits,
        None,
        None if one_schedule else {2: batch},
    )


@cache
def _load(file: Path) -> StepBlock | None:
    try:
        # What torch._inductor.aoti_load_package wraps; importing that module takes longer than to start a worker.
        loader = torch._C._aoti.AOTIModelPackageLoader(str(file), "model", False, 1, -1)
    except Exception as error:  # a broken file must cost speed, not fits
        log.warning("kernel %s cannot be loaded (%s); going on without it, delete it to have it built again", file, error)
        return None
    return partial(_run, loader)


def _run(
    loader: Any, w: Tensor, moments: Moments, problem: Problem, fits: Fits, first: Tensor, schedule: Tensor
) -> tuple[Tensor, Moments, Tensor]:
    """Call a kernel with its arguments laid flat; the package's own call spends as long on unpacking as on fitting."""
    w, *updated, losses = loader.boxed_run([w, *moments, *problem, *fits, first, schedule])
    return w, tuple(updated), losses


if __name__ == "__main__":
    build_in_background(StepKernel(*json.loads(sys.argv[1])))
