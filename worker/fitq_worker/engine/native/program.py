"""The source of a kernel: torch's trace of one step of a descent, and of a look at it, set into descent.cpp."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import LANES
from fitq_worker.engine.descent.eager import Fits, take_step
from fitq_worker.engine.descent.lbfgs import MAX_TRIALS, Search, begin_search, judge_trial
from fitq_worker.engine.descent.losses import (
    Problem,
    Quadratic,
    Sampled,
    add_penalty,
    differentiate,
    penalise,
    value_at,
    weigh_losses,
    with_gradient,
)
from fitq_worker.engine.descent.optimizers import HYPERPARAMETERS, OPTIMIZERS, Moments
from fitq_worker.engine.descent.schedule import combine, tabulate
from fitq_worker.engine.descent.stopping import CHECK_STEPS, Criteria, End, Progress, update_progress
from fitq_worker.engine.native.expressions import PRELUDE, TYPES
from fitq_worker.engine.native.tracing import argument, assignments

_SKELETON = Path(__file__).with_name("descent.cpp")
#: What the numbers of a tile may take up: the smallest first-level cache of today's processors holds 32 KiB.
_TILE_BYTES = 24 << 10
MOST_TILE_FITS, _LEAST_TILE_FITS = 64, 16

#: The parts of a line search where a step does without one.
_NO_SEARCH = {"search": 0, "trial": "", "judge": "", "arrive": ""}
#: Operations in a step that takes a compiler long.
_LONG_STEP = 400


class Program(NamedTuple):
    """A descent that can be made into code."""

    loss: str
    optimizer: str
    degree: int
    triangular: bool  # the mean of squares has a factor
    dtype: str  # "float32" or "float64"
    one_schedule: bool  # which all fits of the batch follow

    @property
    def name(self) -> str:
        """A word for it."""
        shape = "triangular" if self.triangular else "orthonormal"
        schedule = "shared" if self.one_schedule else "own"
        return f"{self.optimizer}-{self.loss}-{shape}-d{self.degree}-{self.dtype}-{schedule}"

    @property
    def made_from(self) -> tuple[str, ...]:
        """Its own files, and those that a trace goes through."""
        return ("native", "descent", "arithmetic.py", "elementary.py")

    def write(self) -> str:
        """Its source code."""
        return write_source(self)


class _Table:
    """Rows of an array of the tile, given out one after the other."""

    def __init__(self, text: str, dtype: torch.dtype) -> None:
        self._text, self._dtype, self.length = text, dtype, 0

    def rows(self, *shape: int) -> Tensor:
        """The next rows: a tensor of this shape, and the batch as last axis."""
        start, self.length = self.length, self.length + math.prod(shape)
        return argument([self._text.format(place) for place in range(start, self.length)], shape, self._dtype)


class _Tile(NamedTuple):
    """What a tile holds, traced; the same in every part of the code."""

    problem: Problem
    sums: Tensor  # (P + 1, B) of the losses and their gradients, where the loss goes through the samples
    fits: Fits
    criteria: Criteria
    w: Tensor
    moments: Moments
    progress: Progress
    fixed: int
    state: int
    seen: int


def write_source(program: Program) -> str:
    """The source code of a program, C++ and CUDA in one.

    Raises:
        TraceError: the loss or the optimizer does what native code does not know.
    """
    tile, columns = _tile(program), _columns(program.optimizer)
    size, dtype = program.degree + 1, getattr(torch, program.dtype)
    sampled = isinstance(tile.problem, Sampled)
    rows = tile.fixed + tile.state + tile.seen
    if program.optimizer == "lbfgs":
        searching, step = _print_search(program, tile, columns)
    else:
        searching, step = _NO_SEARCH, _print_step(program, tile, columns)
    parts = {
        "prelude": PRELUDE,
        "number": TYPES[dtype],
        "tile": _tile_fits(rows * dtype.itemsize),
        "coefficients": size,
        "fixed": tile.fixed,
        "state": tile.state,
        "seen": tile.seen,
        "sample": size + 2 if sampled else 0,
        "columns": columns,
        "one_version": str(program.optimizer == "lbfgs" or step.count("\n") > _LONG_STEP).lower(),
        "one_schedule": str(program.one_schedule).lower(),
        "check_steps": CHECK_STEPS,
        "lanes": LANES,
        "max_trials": MAX_TRIALS,
        **searching,
        "terms": _print_terms(program, tile.problem) if isinstance(tile.problem, Sampled) else "",
        "step": step,
        "look": _print_look(program, tile),
        "settle": _print_settling(tile),
    }
    return Template(_SKELETON.read_text()).substitute(parts)


def _tile_fits(bytes_of_fit: int) -> int:
    fits = MOST_TILE_FITS
    while fits > _LEAST_TILE_FITS and fits * bytes_of_fit > _TILE_BYTES:
        fits //= 2
    return fits


def _tile(program: Program) -> _Tile:
    """Rows of `fixed`: the problem, rate, constants and criteria; of `state`: w and moments; then what has been seen."""
    size, dtype, rule = program.degree + 1, getattr(torch, program.dtype), OPTIMIZERS[program.optimizer]
    fixed, state = (_Table(f"tile.{name}[{{}}][b]", dtype) for name in ("fixed", "state"))
    counts = _Table("tile.counts[{}][b]", torch.int32)
    steps, end, since, patience = (counts.rows() for _ in range(4))
    sums = _Table("tile.sums[{}][b]", dtype).rows(size + 1)
    problem: Problem
    if program.loss == "mse":
        problem = Quadratic(fixed.rows(size * (size + 1) // 2 if program.triangular else 0), fixed.rows(size), fixed.rows())
    else:
        sample = _Table("at[{} * stride + b]", dtype)
        design, target, weights = sample.rows(size), sample.rows(), sample.rows()
        problem = Sampled(design, target, weights, *(fixed.rows() for _ in range(4)))
    fits = Fits(fixed.rows(), steps, fixed.rows(_constants(program.optimizer)))
    criteria = Criteria(fixed.rows(), patience, fixed.rows(), fixed.rows())
    w, moments = state.rows(size), tuple(state.rows(size) for _ in range(rule.moments))
    changing = state.length
    progress = Progress(state.rows(size), state.rows(), state.rows(), since, steps, end)
    return _Tile(problem, sums, fits, criteria, w, moments, progress, fixed.length, changing, state.length - changing)


def _step_and_row(program: Program, columns: int) -> tuple[Tensor, Tensor]:
    """The number of the step, and its row of the schedule."""
    row = _Table("row[{}]" if program.one_schedule else "own[{} * a.width]", getattr(torch, program.dtype))
    return argument(["step"], (), torch.int32), row.rows(columns)


def _evaluate(program: Program, tile: _Tile) -> tuple[Tensor, Tensor]:
    """Loss and gradient at w."""
    if isinstance(tile.problem, Quadratic):
        return differentiate(program.loss, tile.w, tile.problem)
    return add_penalty(tile.sums[0], tile.sums[1:], tile.w, tile.problem)


def _print_terms(program: Program, problem: Sampled) -> str:
    """The share of a sample in the loss and its gradient."""
    w = _Table("w[{}][b]", getattr(torch, program.dtype)).rows(program.degree + 1)
    loss, slopes = with_gradient(partial(weigh_losses, program.loss, problem=problem), w)
    return assignments([loss, slopes], [f"term[{k}]" for k in range(program.degree + 2)], "v")


def _print_step(program: Program, tile: _Tile, columns: int) -> str:
    """One step; the loss comes last, and is left out where nobody wants it."""
    step, row = _step_and_row(program, columns)
    loss, gradient = _evaluate(program, tile)
    w, moments = take_step(tile.w, tile.moments, gradient, tile.fits, step, row, program.optimizer)
    targets = [f"tile.state[{k}][b]" for k in range(tile.state)]
    return assignments([w, *moments, loss], [*targets, "if (WITH_LOSS) tile.loss[b]"], "t")


def _print_search(program: Program, tile: _Tile, columns: int) -> tuple[dict[str, Any], str]:
    """The parts of a step of L-BFGS with its line search: what begins it, a trial, what comes of it, and the end."""
    size, dtype = program.degree + 1, getattr(torch, program.dtype)
    step, row = _step_and_row(program, columns)
    loss, gradient = _evaluate(program, tile)
    moments, begun = begin_search(tile.w, tile.moments, loss, gradient, tile.fits, step, row)
    kept = _Table("tile.search[{}][b]", dtype)
    numbers = (kept.rows(size), kept.rows(), kept.rows(), kept.rows(), kept.rows(size))
    search = Search(*numbers, argument(["(tile.accepted[b] != 0)"], (), torch.bool))
    rows = [*(f"tile.search[{k}][b]" for k in range(kept.length)), "tile.accepted[b]"]
    states = [f"tile.state[{k}][b]" for k in range(tile.state)]
    trial = _Table("tile.trial[{}][b]", dtype).rows(size)
    if isinstance(tile.problem, Quadratic):
        reached = value_at(program.loss, trial, tile.problem)
    else:
        reached = penalise(tile.sums[0], trial, tile.problem)
    parts = {
        "search": kept.length,
        "trial": assignments([search.trial(tile.w)], [f"tile.trial[{k}][b]" for k in range(size)], "t"),
        "judge": assignments(judge_trial(search, trial, reached), rows, "t"),
        "arrive": assignments([torch.where(step < tile.fits.steps, search.moved, tile.w)], states[:size], "t"),
    }
    return parts, assignments([*moments, loss, *begun], [*states[size:], "tile.loss[b]", *rows], "t")


def _print_look(program: Program, tile: _Tile) -> str:
    """One look; a fit that ends goes back to the best coefficients."""
    step = argument(["step"], (), torch.int32)
    loss, gradient = _evaluate(program, tile)
    before = tile.progress
    seen = update_progress(before, tile.criteria, tile.w, loss, gradient, torch.minimum(before.steps_made, step))
    w = torch.where(seen.end == int(End.LAST_STEP), tile.w, seen.best_w)
    size = program.degree + 1
    targets = [f"tile.state[{k}][b]" for k in (*range(size), *range(tile.state, tile.state + tile.seen))]
    targets += [f"tile.counts[{name}][b]" for name in ("SINCE", "STEPS", "END")]
    return assignments([w, *seen], targets, "t")


def _print_settling(tile: _Tile) -> str:
    """Fits that may stop early end at the best coefficients that were seen."""
    loss = argument(["tile.loss[b]"], (), tile.w.dtype)
    ends = ((tile.progress.best_w, tile.w), (tile.progress.best, loss))
    w, loss_there = (torch.where(tile.criteria.watched, best, last) for best, last in ends)
    return assignments([w, loss_there], [*(f"tile.state[{k}][b]" for k in range(len(w))), "tile.loss[b]"], "t")


def _constants(optimizer: str) -> int:
    return len(OPTIMIZERS[optimizer].constants(_any_hyperparameters()))


def _columns(optimizer: str) -> int:
    schedule = tabulate(optimizer, combine(optimizer, _any_hyperparameters()), 1, torch.device("cpu"))
    return schedule.table.shape[1]


def _any_hyperparameters() -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    return {name: np.full(1, 0.5) for name in HYPERPARAMETERS}
