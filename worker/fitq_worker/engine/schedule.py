"""What changes with the step: the learning rate's schedule and the corrections of the optimizer, tabulated beforehand.

Fits that agree in the hyperparameters behind a table share one column of it, so that the usual batch, where all agree,
keeps a few numbers per step and nothing per fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fitq_worker.engine.optimizers import OPTIMIZERS, Floats, Hyper

SCHEDULES = ("constant", "cosine", "exponential", "step")
_RATE = ("schedule", "gamma", "step_size", "steps")


class Schedule(NamedTuple):
    """Tables of the U distinct schedules of a batch, and which of them each fit follows."""

    #: float64 of shape (S, C, U): the factor of the learning rate, then the columns of the optimizer.
    table: torch.Tensor
    #: (B,) int64, None when there is one for all.
    place: torch.Tensor | None


def distinct(optimizer: str, hyper: Hyper) -> tuple[Hyper, NDArray[np.int64]]:
    """The distinct combinations of what a schedule depends on, arrays of shape (U,), and each fit's place among them."""
    names = [*_RATE, *OPTIMIZERS[optimizer].scheduled]
    # Only a cosine depends on where the descent ends; others must not be told apart by it.
    values = {**hyper, "steps": np.where(hyper["schedule"] == SCHEDULES.index("cosine"), hyper["steps"], 0)}
    rows = np.stack([np.asarray(values[name], dtype=np.float64) for name in names])
    if (rows == rows[:, :1]).all():  # the usual batch, spared the sorting
        return dict(zip(names, rows[:, :1], strict=True)), np.zeros(rows.shape[1], dtype=np.int64)
    combinations, place = np.unique(rows, axis=1, return_inverse=True)
    return dict(zip(names, combinations, strict=True)), place.reshape(-1)


def tabulated(optimizer: str, hyper: Hyper, steps: int, device: torch.device) -> Schedule:
    """The schedule of a batch for steps 1 .. `steps`."""
    combinations, place = distinct(optimizer, hyper)
    t = np.arange(1, steps + 1, dtype=np.float64)[:, None]
    columns = [_rate_factor(t - 1.0, combinations), *OPTIMIZERS[optimizer].schedule(t, combinations)]
    width = len(combinations["gamma"])
    table = np.stack([np.broadcast_to(column, (steps, width)) for column in columns], axis=1)
    shared = width == 1
    return Schedule(torch.from_numpy(table).to(device), None if shared else torch.from_numpy(place).to(device))


def _rate_factor(t: Floats, hyper: Hyper) -> Floats:
    """Factor of the learning rate after t updates, shape (S, U)."""
    kind, turns = hyper["schedule"], t / hyper["step_size"]
    cosine = 0.5 * (1.0 + np.cos(np.pi * np.minimum(t / np.maximum(hyper["steps"], 1.0), 1.0)))
    with np.errstate(over="ignore"):  # of a gamma above 1: the fit diverges and says so
        choices = [np.ones_like(turns), cosine, hyper["gamma"] ** turns, hyper["gamma"] ** np.floor(turns)]
    return np.select([np.broadcast_to(kind == code, turns.shape) for code in range(4)], choices)
