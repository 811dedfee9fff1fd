"""What the reduction says without any descent: the least-squares optimum, its uncertainty, and the gap to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.descent.space import Space
from fitq_worker.engine.optimum.ridge import RidgeSystem
from fitq_worker.engine.samples.basis import inverse_and_solution, powers_of_t, solve_upper, to_raw_powers, to_scaled_powers
from fitq_worker.engine.samples.reduction import Reduced, coordinates

#: Numbers of a matrix of each fit that are worked on together: half a MiB, which stays in the caches of a core.
PART_NUMBERS = 1 << 16


class Solution(NamedTuple):
    """The optimum of B fits with P coefficients; float64, coefficients from the lowest power up."""

    coefficients: Tensor  # (P, B) in powers of raw x
    scaled: Tensor  # (P, B) in powers of u, x mapped to [-1, 1]
    loss: Tensor  # (B,) in units of y squared
    stderr: Tensor  # (P, B) of the coefficients; NaN without degrees of freedom
    covariance: Tensor | None  # (P, P, B) of the coefficients, where it was asked for
    scaled_covariance: Tensor | None  # the same of the scaled ones


def least_squares(reduced: Reduced, absolute: Tensor, *, covariance: bool) -> Solution:
    """Solve every fit exactly.

    The covariance is s^2 (X' W X)^-1 with s^2 = sum(w residual^2) / (points - P), or 1 for the fits that are `absolute`,
    (B,) bool, where X' W X = sum(w) R' R and R is the triangular factor of the powers of raw x.
    """
    size, batch = reduced.target.shape
    width = max(1, PART_NUMBERS // (size * (size + 1)))
    parts = []
    for start in range(0, batch, width):
        part = Reduced(*(field[..., start : start + width] for field in reduced))
        in_t = inverse_and_solution(powers_of_t(part), coordinates(part))
        squares = part.floor * part.scale * part.scale
        parts.append(
            _least_squares(in_t, part, squares, _variance(part, squares, absolute[start : start + width]), covariance)
        )
    return parts[0] if len(parts) == 1 else Solution(*(_concatenate(fields) for fields in zip(*parts, strict=True)))


def _least_squares(in_t: Tensor, reduced: Reduced, loss: Tensor, variance: Tensor, covariance: bool) -> Solution:
    """In powers of t come, side by side, the root of the covariance, (P, P, B), and the optimum, (P, 1, B).

    The covariance is variance * root root'; the variance is (B,).
    """
    raw = to_raw_powers(in_t, reduced)
    scaled = to_scaled_powers(in_t if covariance else in_t[:, -1:], reduced)
    stderr = square_root(variance * tree_sum((raw[:, :-1] * raw[:, :-1]).transpose(0, 1)))
    products = [variance * _gram(root[:, :-1]) if covariance else None for root in (raw, scaled)]
    return Solution(raw[:, -1], scaled[:, -1], loss, stderr, *products)


def _gram(root: Tensor) -> Tensor:
    """root root' of (P, P, B)."""
    return tree_sum((root[:, None] * root[None]).movedim(2, 0))


def _concatenate(parts: Sequence[Tensor | None]) -> Any:
    return None if parts[0] is None else torch.cat(parts, dim=-1)  # type: ignore[arg-type]  # all are tensors then


def ridge_regression(
    reduced: Reduced, space: Space, penalty: RidgeSystem, absolute: Tensor, *, covariance: bool
) -> Solution:
    """The same of a penalised problem; `loss` includes the penalty.

    The covariance is s^2 A^-1 X' W X A^-1 with A = X' W X + sum(w) ridge: what the spread of y makes of the coefficients.
    """
    optimum = space.to_orthonormal(penalty.optimum)
    distance = excess(optimum, reduced)
    inverse = solve_upper(penalty.factor, identity(penalty.factor))
    narrowed = inverse if space.factor is None else _product(space.factor, inverse)
    root = _product(inverse, narrowed.transpose(0, 1))
    spread = _product(space.factor, root) if space.factor is not None else root
    in_t = solve_upper(powers_of_t(reduced), torch.cat([spread, optimum[:, None]], dim=1))
    squares = reduced.floor * reduced.scale * reduced.scale + distance
    loss = penalty.floor * space.unit * space.unit
    return _least_squares(in_t, reduced, loss, _variance(reduced, squares, absolute), covariance)


def robust_regression(reduced: Reduced, coordinate: Tensor, loss: Tensor, variance: Tensor, *, covariance: bool) -> Solution:
    """The same of another loss with its optimum at `coordinate`, (P, B) in the orthonormal basis; its covariance is
    variance (X' W X)^-1.
    """
    in_t = inverse_and_solution(powers_of_t(reduced), coordinate)
    return _least_squares(in_t, reduced, loss, variance, covariance)


def _variance(reduced: Reduced, squares: Tensor, absolute: Tensor) -> Tensor:
    """Of the errors, over the sum of the weights; `squares` is the mean square of the residuals."""
    freedom = (reduced.used - len(reduced.target)).to(torch.float64)
    scaled = squares / torch.where(freedom > 0, freedom, torch.nan)
    return torch.where(absolute, 1.0 / reduced.total, scaled)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product of (P, P, B) and (P, K, B), each sum in the order of a tree."""
    return torch.stack([tree_sum(row[:, None] * right) for row in left])


def powers(coordinate: Tensor, reduced: Reduced) -> tuple[Tensor, Tensor]:
    """Coordinates in the orthonormal basis as coefficients in powers of raw x, and in powers of u; all are (P, B)."""
    in_t = solve_upper(powers_of_t(reduced), coordinate[:, None])
    return to_raw_powers(in_t, reduced)[:, 0], to_scaled_powers(in_t, reduced)[:, 0]


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
    inverse = solve_upper(factor, identity(factor))
    squares = tree_sum((factor * factor).flatten(0, 1)) * tree_sum((inverse * inverse).flatten(0, 1))
    return square_root(squares) / len(factor)


def identity(factor: Tensor) -> Tensor:
    """The unit matrix of the shape of `factor`, (P, P, B)."""
    return torch.eye(len(factor), dtype=factor.dtype, device=factor.device)[:, :, None].expand_as(factor)
