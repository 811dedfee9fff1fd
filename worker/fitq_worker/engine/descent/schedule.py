"""What changes with the step: the schedule of the learning rate and the corrections of the optimizer, tabulated before.

Fits that agree in the hyperparameters behind a table share one column of it, so that the usual batch, where all agree,
keeps a few numbers per step and nothing per fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fitq_worker.engine.descent.optimizers import OPTIMIZERS, Floats, Hyper

SCHEDULES = ("constant", "cosine", "exponential", "step")
_RATE = ("schedule", "gamma", "step_size", "steps")


class Combinations(NamedTuple):
    """The U distinct combinations of the hyperparameters behind the schedules of B fits, and which of them each fit has."""

    hyper: Hyper  # arrays of shape (U,)
    column: NDArray[np.int64]  # (B,)

    @property
    def width(self) -> int:
        """U."""
        return len(self.hyper["gamma"])

    def take(self, fits: slice | NDArray[np.int64]) -> Combinations:
        """Those of some of the fits, in the same order."""
        if self.width == 1:
            return Combinations(self.hyper, self.column[fits])
        used, column = np.unique(self.column[fits], return_inverse=True)
        return Combinations({name: values[used] for name, values in self.hyper.items()}, column)


class Schedule(NamedTuple):
    """Tables of the U distinct schedules of a batch, and which of them each fit follows."""

    #: float64 of shape (S, C, U): the factor of the learning rate, then the columns of the optimizer.
    table: torch.Tensor
    #: (B,) int64, None when there is one for all.
    column: torch.Tensor | None


def combine(optimizer: str, hyper: Hyper) -> Combinations:
    """Find the distinct combinations of what the schedules of these fits depend on."""
    names = [*_RATE, *OPTIMIZERS[optimizer].scheduled]
    # Only a cosine depends on where the descent ends; others must not be told apart by it.
    values = {**hyper, "steps": np.where(hyper["schedule"] == SCHEDULES.index("cosine"), hyper["steps"], 0)}
    rows = np.stack([np.asarray(values[name], dtype=np.float64) for name in names])
    if (rows == rows[:, :1]).all():  # the usual batch, spared the sorting
        return Combinations(dict(zip(names, rows[:, :1], strict=True)), np.zeros(rows.shape[1], dtype=np.int64))
    distinct, column = np.unique(rows, axis=1, return_inverse=True)
    return Combinations(dict(zip(names, distinct, strict=True)), column.reshape(-1))


def tabulate(optimizer: str, combinations: Combinations, steps: int, device: torch.device) -> Schedule:
    """The schedule of a batch for steps 1 .. `steps`."""
    hyper, width = combinations.hyper, combinations.width
    t = np.arange(1, steps + 1, dtype=np.float64)[:, None]
    columns = [_rate_factor(t - 1.0, hyper), *OPTIMIZERS[optimizer].schedule(t, hyper)]
    table = np.stack([np.broadcast_to(column, (steps, width)) for column in columns], axis=1)
    column = None if width == 1 else torch.from_numpy(combinations.column).to(device)
    return Schedule(torch.from_numpy(table).to(device), column)


def _rate_factor(t: Floats, hyper: Hyper) -> Floats:
    """Factor of the learning rate after t updates, shape (S, U)."""
    kind, turns = hyper["schedule"], t / hyper["step_size"]
    cosine = 0.5 * (1.0 + np.cos(np.pi * np.minimum(t / np.maximum(hyper["steps"], 1.0), 1.0)))
    with np.errstate(over="ignore"):  # of a gamma above 1: the fit diverges and says so
        choices = [np.ones_like(turns), cosine, hyper["gamma"] ** turns, hyper["gamma"] ** np.floor(turns)]
    return np.select([np.broadcast_to(kind == code, turns.shape) for code in range(4)], choices)
