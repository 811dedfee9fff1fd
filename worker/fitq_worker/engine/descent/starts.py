"""Where descents begin: a job's own coefficients, the exact solution, or numbers drawn under its seed; once or often."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.jobs.sampling import START, normals
from fitq_worker.engine.descent.space import Space
from fitq_worker.engine.samples.basis import multiply_upper, powers_of_x
from fitq_worker.engine.samples.reduction import Reduced
from fitq_worker.engine.samples.sets import numbers, ragged


class Starts(NamedTuple):
    """S starts of B fits with P coefficients."""

    w: Tensor  # (P, S) float64, coefficients in the space
    turn: Tensor  # (S,) int32, which start of its fit it is
    #: (S,) the fit that each belongs to; None where each fit has one start.
    fit: NDArray[np.int64] | None


def draw_starts(jobs: pa.RecordBatch, reduced: Reduced, space: Space, optimum: Tensor) -> Starts:
    """All starts of the jobs: the first is the job's `init` or drawn, the others are drawn; `optimum` is (P, B)."""
    device, size = optimum.device, len(optimum)
    restarts = numbers(jobs["restarts"])
    fit = np.repeat(np.arange(len(jobs)), restarts)
    turn = np.arange(len(fit)) - np.repeat(np.cumsum(restarts) - restarts, restarts)
    w = torch.from_numpy(normals(numbers(jobs["seed"]).astype(np.int64)[fit], START + turn, size)).to(device)
    first = torch.from_numpy(turn == 0).to(device)
    given, exact = np.asarray(jobs["init"].is_valid()), numbers(jobs["init_exact"]).astype(bool)
    if given.any():
        w[:, first] = torch.where(torch.from_numpy(given).to(device), _given(jobs, reduced, space), w[:, first])
    if exact.any():
        w[:, first] = torch.where(torch.from_numpy(exact).to(device), optimum, w[:, first])
    alone = len(fit) == len(jobs)
    return Starts(w, torch.from_numpy(turn.astype(np.int32)).to(device), None if alone else fit)


def _given(jobs: pa.RecordBatch, reduced: Reduced, space: Space) -> Tensor:
    """`init` of the jobs in the space, (P, B)."""
    raw = torch.from_numpy(ragged(jobs["init"], len(reduced.target)).T[::-1].copy()).to(reduced.target.device)
    return space.from_orthonormal(multiply_upper(powers_of_x(reduced), raw))


def find_lowest(values: NDArray[Any], fit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the lowest of the values of each fit, the first of equals; one that is not finite comes last."""
    order = np.lexsort((np.where(np.isfinite(values), values, np.inf), fit))
    return order[np.unique(fit[order], return_index=True)[1]]
