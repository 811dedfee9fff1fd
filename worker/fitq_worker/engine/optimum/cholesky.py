"""Symmetric positive definite systems of a batch, a few operations for each column."""

from __future__ import annotations

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root

#: A pivot below this is rounding: the step along it is left out of a singular system by making it immense.
_LEAST_PIVOT = 1e-290


def cholesky(matrix: Tensor) -> Tensor:
    """L with L L' = matrix, (P, P, B), float64."""
    rest, factor = matrix.clone(), torch.zeros_like(matrix)
    for k in range(len(matrix)):
        column = rest[k:, k] / square_root(rest[k, k].clamp(min=_LEAST_PIVOT))
        factor[k:, k] = column
        rest[k + 1 :, k + 1 :] -= column[1:, None] * column[None, 1:]
    return factor


def solve(factor: Tensor, right: Tensor) -> Tensor:
    """x with L L' x = right, (P, B)."""
    x = right.clone()
    for k in range(len(x)):
        x[k] /= factor[k, k]
        x[k + 1 :] -= factor[k + 1 :, k] * x[k]
    for k in reversed(range(len(x))):
        x[k] /= factor[k, k]
        x[:k] -= factor[k, :k] * x[k]
    return x
