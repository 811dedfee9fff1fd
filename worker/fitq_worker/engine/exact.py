"""What the reduction says without any descent: the least-squares optimum, its uncertainty, and the gap to it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.basis import powers_of_t, solve_upper, to_raw_powers
from fitq_worker.engine.reduction import Reduced


class LeastSquares(NamedTuple):
    """The optimum of B fits with P coefficients; float64, coefficients from the lowest power up."""

    coefficients: Tensor  # (P, B) in powers of raw x
    loss: Tensor  # (B,) in units of y squared
    stderr: Tensor  # (P, B) of the coefficients, scaled by the residual variance; NaN without degrees of freedom


def coordinates(reduced: Reduced) -> Tensor:
    """The optimum in the orthonormal basis, in units of y: (P, B)."""
    coordinate = reduced.target * reduced.scale
    return torch.cat([coordinate[:1] + reduced.mean, coordinate[1:]])


def least_squares(reduced: Reduced) -> LeastSquares:
    """Solve every fit exactly.

    Standard errors are the roots of the diagonal of s^2 (X' W X)^-1 with s^2 = sum(w residual^2) / (points - P), where
    X' W X = sum(w) R' R and R is the triangular factor of the powers of raw x.
    """
    size = len(reduced.target)
    factor = powers_of_t(reduced)
    right = torch.cat([coordinates(reduced)[:, None], _identity(factor)], dim=1)
    raw = to_raw_powers(solve_upper(factor, right), reduced)
    solution, inverse = raw[:, 0], raw[:, 1:]
    loss = reduced.floor * reduced.scale * reduced.scale
    freedom = (reduced.used - size).to(torch.float64)
    variance = loss / torch.where(freedom > 0, freedom, torch.nan)
    return LeastSquares(solution, loss, square_root(variance * tree_sum((inverse * inverse).transpose(0, 1))))


def raw_powers(coordinate: Tensor, reduced: Reduced) -> Tensor:
    """Coordinates in the orthonormal basis, (P, B), as coefficients in powers of raw x, (P, B)."""
    return to_raw_powers(solve_upper(powers_of_t(reduced), coordinate[:, None]), reduced)[:, 0]


def excess(coordinate: Tensor, reduced: Reduced) -> Tensor:
    """loss - exact loss, (B,), in units of y squared, of a polynomial given in the orthonormal basis, (P, B).

    It is the squared distance to the optimum, so that nothing cancels however close the fit is.
    """
    distance = coordinate - coordinates(reduced)
    return tree_sum(distance * distance)


def condition(factor: Tensor) -> Tensor:
    """Condition number of the design matrix with the triangular factor R, (B,): |R| |R^-1| / P in the Frobenius norm.

    It lies between 1 and the 2-norm condition number, which exceeds it by at most the factor P.
    """
    inverse = solve_upper(factor, _identity(factor))
    squares = tree_sum((factor * factor).flatten(0, 1)) * tree_sum((inverse * inverse).flatten(0, 1))
    return square_root(squares) / len(factor)


def _identity(factor: Tensor) -> Tensor:
    return torch.eye(len(factor), dtype=factor.dtype, device=factor.device)[:, :, None].expand_as(factor)
