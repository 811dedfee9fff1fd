"""What the reduction says without any descent: the least-squares optimum, its uncertainty, and the gap to it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.basis import powers_of_t, solve_upper, to_raw_powers
from fitq_worker.engine.reduction import Reduced, coordinates
from fitq_worker.engine.ridge import Penalised
from fitq_worker.engine.space import Space

#: Numbers of a matrix of each fit that are worked on together: half a MiB, which stays in the caches of a core.
PART_NUMBERS = 1 << 16


class LeastSquares(NamedTuple):
    """The optimum of B fits with P coefficients; float64, coefficients from the lowest power up."""

    coefficients: Tensor  # (P, B) in powers of raw x
    loss: Tensor  # (B,) in units of y squared
    #: (P, P, B), (B,): the covariance of the coefficients is variance * root root'. NaN without degrees of freedom.
    root: Tensor
    variance: Tensor

    @property
    def stderr(self) -> Tensor:
        """Standard errors of the coefficients, (P, B)."""
        return square_root(self.variance * tree_sum((self.root * self.root).transpose(0, 1)))

    @property
    def covariance(self) -> Tensor:
        """Of the coefficients, (P, P, B)."""
        products = self.root[:, None] * self.root[None]
        return self.variance * tree_sum(products.movedim(2, 0))


def least_squares(reduced: Reduced, absolute: Tensor) -> LeastSquares:
    """Solve every fit exactly.

    The covariance is s^2 (X' W X)^-1 with s^2 = sum(w residual^2) / (points - P), or 1 for the fits that are `absolute`,
    (B,) bool, where X' W X = sum(w) R' R and R is the triangular factor of the powers of raw x.
    """
    size, batch = reduced.target.shape
    width = max(1, PART_NUMBERS // (size * (size + 1)))
    parts = [Reduced(*(field[..., at : at + width] for field in reduced)) for at in range(0, batch, width)]
    raw = torch.cat([_solution_and_inverse(part) for part in parts], dim=-1)
    loss = reduced.floor * reduced.scale * reduced.scale
    return LeastSquares(raw[:, 0], loss, raw[:, 1:], _variance(reduced, loss, absolute))


def _solution_and_inverse(reduced: Reduced) -> Tensor:
    """The optimum, (P, 1, B), and R^-1, (P, P, B), in powers of raw x, side by side."""
    factor = powers_of_t(reduced)
    right = torch.cat([coordinates(reduced)[:, None], identity(factor)], dim=1)
    return to_raw_powers(solve_upper(factor, right), reduced)


def ridge_regression(reduced: Reduced, space: Space, penalty: Penalised, absolute: Tensor) -> LeastSquares:
    """The same of a penalised problem; `loss` includes the penalty.

    The covariance is s^2 A^-1 X' W X A^-1 with A = X' W X + sum(w) ridge: what the spread of y makes of the coefficients.
    """
    optimum = space.to_orthonormal(penalty.optimum)
    distance = excess(optimum, reduced)
    inverse = solve_upper(penalty.factor, identity(penalty.factor))
    narrowed = inverse if space.factor is None else _product(space.factor, inverse)
    root = _product(inverse, narrowed.transpose(0, 1))
    spread = _product(space.factor, root) if space.factor is not None else root
    raw = to_raw_powers(solve_upper(powers_of_t(reduced), torch.cat([optimum[:, None], spread], dim=1)), reduced)
    squares = reduced.floor * reduced.scale * reduced.scale + distance
    loss = penalty.floor * space.unit * space.unit
    return LeastSquares(raw[:, 0], loss, raw[:, 1:], _variance(reduced, squares, absolute))


def _variance(reduced: Reduced, squares: Tensor, absolute: Tensor) -> Tensor:
    """Of the errors, over the sum of the weights; `squares` is the mean square of the residuals."""
    freedom = (reduced.used - len(reduced.target)).to(torch.float64)
    scaled = squares / torch.where(freedom > 0, freedom, torch.nan)
    return torch.where(absolute, 1.0 / reduced.total, scaled)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product of (P, P, B) and (P, K, B), each sum in the order of a tree."""
    return torch.stack([tree_sum(row[:, None] * right) for row in left])


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
    inverse = solve_upper(factor, identity(factor))
    squares = tree_sum((factor * factor).flatten(0, 1)) * tree_sum((inverse * inverse).flatten(0, 1))
    return square_root(squares) / len(factor)


def identity(factor: Tensor) -> Tensor:
    """The unit matrix of the shape of `factor`, (P, P, B)."""
    return torch.eye(len(factor), dtype=factor.dtype, device=factor.device)[:, :, None].expand_as(factor)
