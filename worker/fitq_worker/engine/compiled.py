"""Compiled step blocks: built once in a process of their own, kept on disk, loaded in milliseconds.

torch.export and AOTInductor turn `step_block` into a shared library that serves any batch size. Compiling takes some
ten seconds, so it never happens in front of anybody: `request` starts it in the background, and `load` gives the
kernel from the moment its file is there. Eager and compiled blocks give the same bits, so which one runs is a question
of speed alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fitq_worker.compiler import cxx_compiler
from fitq_worker.engine.descent import Fits, StepBlock, block_steps
from fitq_worker.engine.losses import Problem, Quadratic, mean_of_squares
from fitq_worker.engine.optimizers import HYPERPARAMETERS, OPTIMIZERS, Moments
from fitq_worker.engine.schedule import tabulated

log = logging.getLogger(__name__)

#: What a kernel depends on besides its name; a change of any of these files makes a new kernel.
_SOURCES = ("arithmetic.py", "losses.py", "optimizers.py", "schedule.py", "descent.py", "compiled.py")
_LARGEST_BATCH = 1 << 24
#: The usual limit of operations in one loop would cut a block into several that pass their numbers through memory.
_ONE_LOOP = {"max_fusion_size": 1 << 20}


class Kernel(NamedTuple):
    """Name of a compiled step block."""

    optimizer: str
    degree: int
    triangular: bool
    dtype: str  # "float32" or "float64"
    shared: bool  # all fits of the batch follow one schedule
    device: str  # "cpu" or "cuda"

    @property
    def file(self) -> Path:
        """Where it is kept: the user's cache, by name, torch version, processor and source."""
        shape = "triangular" if self.triangular else "orthonormal"
        schedule = "shared" if self.shared else "own"
        name = f"{self.optimizer}-mse-{shape}-d{self.degree}-{self.dtype}-{schedule}-{self.device}"
        return _cache() / f"{name}-{_fingerprint(self.device)}.pt2"


def load(kernel: Kernel) -> StepBlock | None:
    """The compiled block, or None while there is none."""
    return _loaded(kernel.file) if kernel.file.exists() else None


def request(kernel: Kernel) -> None:
    """See to it that the kernel gets built in the background; returns at once."""
    if not kernel.file.exists() and _compiler() and not _being_built(kernel):
        _start_build(kernel)


def build(kernel: Kernel) -> None:
    """Compile a kernel and put it in its place; nothing to do when it is there or another process got it done."""
    with _lock(kernel) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kernel.file.exists():
            _compile(kernel)


def _lock(kernel: Kernel) -> IO[str]:
    """The file whose lock the building process holds; the lock goes with the process, however that ends."""
    kernel.file.parent.mkdir(parents=True, exist_ok=True)
    return kernel.file.with_suffix(".lock").open("w")


def _being_built(kernel: Kernel) -> bool:
    """Another process is at it: all workers of a machine ask for the same kernels when they start."""
    with _lock(kernel) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _compile(kernel: Kernel) -> None:
    torch.set_num_threads(1)  # one worker process a core: the kernel must not start threads of its own
    arguments, batch = _example(kernel), torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's own export
        program = torch.export.export(
            _Block(kernel.optimizer), arguments, dynamic_shapes=_dynamic(arguments, batch, kernel.shared), strict=False
        )
        with tempfile.TemporaryDirectory(dir=kernel.file.parent) as folder:
            package = torch._inductor.aoti_compile_and_package(
                program, package_path=str(Path(folder, "kernel.pt2")), inductor_configs=_ONE_LOOP
            )
            os.replace(package, kernel.file)


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
            values, gradient = _differentiated(rows, Quadratic(*problem))
            updated = [
                self._update(*row, lr * schedule[k, 0], constants, schedule[k, 1:])
                for row in zip(rows, gradient, moments_of_rows, strict=True)
            ]
            rows = tuple(torch.where(first + k < steps, new, row) for row, (new, _) in zip(rows, updated, strict=True))
            moments_of_rows = [new for _, new in updated]
            losses.append(values)
        moments = tuple(torch.stack(moment) for moment in zip(*moments_of_rows, strict=True))
        return torch.stack(rows), moments, torch.stack(losses)


def _differentiated(rows: Moments, problem: Quadratic) -> tuple[Tensor, Moments]:
    """The losses, (B,), and by autograd their gradient, P rows of (B,)."""
    with torch.enable_grad():
        leaves = [row.detach().requires_grad_() for row in rows]
        values = mean_of_squares(leaves, problem)
        gradient = torch.autograd.grad(values.sum(), leaves)
    return values.detach(), gradient


def _example(kernel: Kernel) -> tuple[Any, ...]:
    """Arguments of the right types and shapes; the batch size stands for any."""
    size, batch, rule = kernel.degree + 1, 64, OPTIMIZERS[kernel.optimizer]
    new = partial(torch.ones, device=kernel.device, dtype=getattr(torch, kernel.dtype))
    hyper = {name: np.full(batch, 0.5) for name in HYPERPARAMETERS}
    columns = tabulated(kernel.optimizer, hyper, 1, torch.device(kernel.device)).table.shape[1]
    problem = (new(size * (size + 1) // 2 if kernel.triangular else 0, batch), new(size, batch), new(batch))
    moments = tuple(new(size, batch) for _ in range(rule.moments))
    fits = (new(batch), new(batch, dtype=torch.int32), new(len(rule.constants(hyper)), batch))
    first = torch.zeros((), dtype=torch.int32, device=kernel.device)
    rows = new(block_steps(size, kernel.triangular), columns, 1 if kernel.shared else batch)
    return new(size, batch), moments, problem, fits, first, rows


def _dynamic(arguments: tuple[Any, ...], batch: Any, shared: bool) -> tuple[Any, ...]:
    last = {1: batch}
    fits = ({0: batch}, {0: batch}, last)
    return last, tuple(last for _ in arguments[1]), (last, last, {0: batch}), fits, None, None if shared else {2: batch}


@cache
def _loaded(file: Path) -> StepBlock | None:
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


@cache
def _start_build(kernel: Kernel) -> None:
    """Build in a process of low priority that survives this one; at most once in the life of this process."""
    log.info("building kernel %s in the background", kernel.file.name)
    with kernel.file.with_suffix(".log").open("wb") as output:
        command = [sys.executable, "-m", __name__, json.dumps(kernel)]
        subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)


@cache
def _compiler() -> bool:
    found = cxx_compiler() is not None
    if not found:
        log.warning("no C++ compiler (g++ or clang++): the engine runs eager, about ten times slower; results are the same")
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fitq" / "kernels"


@cache
def _fingerprint(device: str) -> str:
    processor = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name()
    digest = hashlib.sha256(f"{torch.__version__} {processor} {sys.version_info[:2]}".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    os.nice(19)
    build(Kernel(*json.loads(sys.argv[1])))
