"""The native descent, called: as `descent.eager.descend`, in one loop over the steps, with the same bits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_worker.engine.descent.eager import Batch, Descent
from fitq_worker.engine.descent.losses import Quadratic, Sampled
from fitq_worker.engine.descent.optimizers import OPTIMIZERS
from fitq_worker.engine.descent.stopping import CHECK_STEPS
from fitq_worker.engine.native import cuda
from fitq_worker.engine.native.program import MOST_TILE_FITS
from fitq_worker.engine.trees import take

#: Coefficient updates, times samples where the loss goes through them, in one call: some hundredths of a second.
_CALL_UPDATES = {"cpu": 1 << 26, "cuda": 1 << 34}
#: Fits in one call where it is cut, at least: a few tiles.
_LEAST_FITS = 256
#: Numbers of the samples of a tile, at most: a quarter of a GiB of float32.
_MOST_NUMBERS = 1 << 26
#: Runs the fits of a batch until they end.
Descend = Callable[[Batch], Descent]
#: Runs the fits from one to another of a descent that is packed into its arguments, as descent.cpp has them.
Run = Callable[[list[int | Tensor], int, int], None]


def run_on_cpu(library: ctypes.CDLL, arguments: list[int | Tensor], begin: int, end: int) -> None:
    """Run them in this thread."""
    packed = _pack(arguments)
    library.descend(ctypes.c_void_p(packed.ctypes.data), ctypes.c_longlong(begin), ctypes.c_longlong(end))


def run_on_gpu(function: Any, device: torch.device, arguments: list[int | Tensor], begin: int, end: int) -> None:
    """Have them run on the current stream; all fits at once."""
    cuda.launch(function, torch.from_numpy(_pack(arguments)).to(device), end - begin)


def descend(run: Run, optimizer: str, on_block: Callable[[], None], eager: Descend, batch: Batch) -> Descent:
    """Run every fit of the batch until it ends; as `descent.eager.descend`.

    `eager` takes sample sets so long that those of a tile would not fit into memory.
    """
    if isinstance(batch.problem, Sampled) and batch.problem.design[:, :, 0].numel() * MOST_TILE_FITS > _MOST_NUMBERS:
        return eager(batch)
    steps = batch.fits.steps
    if int(steps.min()) == int(steps.max()):
        return _descend(run, optimizer, on_block, batch)
    # Fits with about the same number of steps share a tile, which runs until the last of them ends.
    order = torch.argsort(steps, stable=True)
    schedule = batch.schedule._replace(column=take(batch.schedule.column, order))
    problem, start, fits, criteria = take((batch.problem, batch.start, batch.fits, batch.criteria), order)
    sorted_batch = Batch(problem, start, fits, schedule, criteria, batch.recorded)
    back: Descent = take(_descend(run, optimizer, on_block, sorted_batch), torch.argsort(order))
    return back


def _descend(run: Run, optimizer: str, on_block: Callable[[], None], whole: Batch) -> Descent:
    problem, start, fits, schedule, criteria, recorded = whole
    batch, watched = start.shape[1], bool(criteria.watched.any())
    per_fit = problem if isinstance(problem, Quadratic) else problem[3:]
    fixed = _rows([*per_fit, fits.lr, fits.constants, criteria.ftol, criteria.gtol, criteria.ceiling])
    moments = start.new_zeros(OPTIMIZERS[optimizer].moments * len(start), batch)
    seen = [start, start.new_full((2, batch), torch.inf)] if watched else []
    state = _rows([start, moments, *seen])
    none = torch.zeros_like(fits.steps)
    counts = torch.stack([fits.steps, none, none, criteria.patience])
    samples, count = start.new_empty(0), 0
    if isinstance(problem, Sampled):
        samples = torch.cat([problem.design, problem.target[None], problem.weights[None]]).transpose(0, 1).contiguous()
        count = len(samples)
    table = schedule.table.to(start).contiguous()
    steps = torch.tensor(recorded, dtype=torch.int32, device=start.device)
    losses = _empty_losses(start, len(recorded))
    on_cpu = start.device.type == "cpu"
    memory = start.new_empty(samples.shape[:2].numel() * MOST_TILE_FITS if on_cpu else 0)
    column = schedule.column if schedule.column is not None else none
    last = int(fits.steps.max())
    for (begin, end), (first, stop) in _calls(batch, last + 1, len(start) * max(count, 1), start.device.type):
        arguments: list[int | Tensor] = [
            batch, first, stop, watched, fixed, state, counts, table, column, table.shape[2],
            steps, len(recorded), int(np.searchsorted(recorded, first)), losses, *losses.stride(), samples, count, memory,
        ]  # fmt: skip
        run(arguments, begin, end)
        on_block()
    return Descent(state[: len(start)], losses, counts[0], counts[1].to(torch.int8))


def _pack(arguments: list[int | Tensor]) -> NDArray[np.int64]:
    return np.array([each.data_ptr() if isinstance(each, Tensor) else each for each in arguments], dtype=np.int64)


def _empty_losses(start: Tensor, records: int) -> Tensor:
    """(T, B): in memory as the frame of traces has them, or on a GPU with neighbouring fits side by side."""
    batch = start.shape[1]
    return start.new_empty(batch, records).T if start.device.type == "cpu" else start.new_empty(records, batch)


def _rows(parts: list[Tensor]) -> Tensor:
    """Tensors of shape (..., B) below each other, (K, B)."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _calls(batch: int, steps: int, updates: int, device: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The fits and the steps of each call; `updates` are those of one step of one fit. A GPU takes all fits at once."""
    most = _CALL_UPDATES[device]
    width = max(_LEAST_FITS, most // (steps * updates) // _LEAST_FITS * _LEAST_FITS) if device == "cpu" else batch
    length = max(1, most // (min(width, batch) * updates) // CHECK_STEPS) * CHECK_STEPS
    for begin in range(0, batch, width):
        for first in range(0, steps, length):
            yield (begin, min(begin + width, batch)), (first, first + length)
