"""Ridge regression as least squares: the penalty is P more rows below the triangular factor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.samples.basis import multiply_upper, solve_upper


class RidgeSystem(NamedTuple):
    """|R' w - d'|^2 + c': mean of squares and penalty of B fits with P coefficients; float64."""

    factor: Tensor  # (P, P, B), upper triangular
    target: Tensor  # (P, B)
    floor: Tensor  # (B,), at the optimum

    @property
    def optimum(self) -> Tensor:
        """The coefficients of the ridge regression, (P, B)."""
        return solve_upper(self.factor, self.target[:, None])[:, 0]

    def excess(self, w: Tensor) -> Tensor:
        """What w, (P, B), exceeds the optimum by, (B,)."""
        distance = multiply_upper(self.factor, w - self.optimum)
        return tree_sum(distance * distance)


def add_ridge(factor: Tensor, target: Tensor, floor: Tensor, ridge: Tensor) -> RidgeSystem:
    """R', d', c' with |R' w - d'|^2 + c' = |R w - d|^2 + c + ridge (w_1^2 + ... + w_{P-1}^2) for every w.

    R and R' are upper triangular, (P, P, B), d and d' are (P, B), the rest is (B,); float64. Householder reflections,
    column by column (Golub and Van Loan, "Matrix Computations", 5.2), of R with the rows of sqrt(ridge) below it.
    """
    top, right, size = list(factor.unbind(0)), list(target.unbind(0)), len(factor)
    rows = torch.eye(size, dtype=factor.dtype, device=factor.device)[:, :, None] * square_root(ridge)
    rows[0] = 0.0  # the constant is not penalised
    below = torch.zeros_like(target)
    for k in range(size):
        column, head = rows[:, k], top[k][k]
        length = square_root(head * head + tree_sum(column * column))
        pivot = head + torch.where(head < 0, -length, length)
        squares = pivot * pivot + tree_sum(column * column)
        weight = 2.0 / torch.where(squares > 0, squares, 1.0)
        along = weight * (pivot * top[k] + tree_sum(column[:, None] * rows))
        top[k], rows = top[k] - along * pivot, rows - column[:, None] * along
        along = weight * (pivot * right[k] + tree_sum(column * below))
        right[k], below = right[k] - along * pivot, below - column * along
    return RidgeSystem(_upper(torch.stack(top)), torch.stack(right), floor + tree_sum(below * below))


def _upper(matrix: Tensor) -> Tensor:
    """What the reflections leave below the diagonal is rounding."""
    keep = torch.ones(len(matrix), len(matrix), dtype=torch.bool, device=matrix.device).triu()
    return torch.where(keep[:, :, None], matrix, 0.0)
