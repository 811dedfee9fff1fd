"""The coordinates that a descent runs in, and the way from them to the orthonormal basis and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.descent.losses import Quadratic, Sampled
from fitq_worker.engine.optimum.ridge import RidgeSystem, add_ridge
from fitq_worker.engine.samples.basis import FACTORS, multiply_upper, solve_upper
from fitq_worker.engine.samples.reduction import Points, Reduced, coordinates


class Space(NamedTuple):
    """Coefficients w of a basis for targets (y - offset) / unit, for B fits with P coefficients; float64."""

    #: R of the basis, (P, P, B); None where it is the identity.
    factor: Tensor | None
    unit: Tensor  # (B,)
    offset: Tensor  # (B,)

    def to_orthonormal(self, w: Tensor) -> Tensor:
        """Coordinates of the polynomial in the orthonormal basis, in units of y, (P, B)."""
        return self.in_units_of_y(w if self.factor is None else multiply_upper(self.factor, w))

    def from_orthonormal(self, coordinate: Tensor) -> Tensor:
        """The inverse of `to_orthonormal`."""
        scaled = self.in_own_units(coordinate)
        return scaled if self.factor is None else solve_upper(self.factor, scaled[:, None])[:, 0]

    def in_units_of_y(self, w: Tensor) -> Tensor:
        """Coefficients of the same basis for y itself: the first polynomial of every basis is the constant 1."""
        scaled = w * self.unit
        return torch.cat([scaled[:1] + self.offset, scaled[1:]])

    def in_own_units(self, coefficients: Tensor) -> Tensor:
        """The inverse of `in_units_of_y`."""
        return torch.cat([coefficients[:1] - self.offset, coefficients[1:]]) / self.unit


def choose_space(basis: str, reduced: Reduced, unit: Tensor, offset: Tensor) -> Space:
    """The space of a basis; targets are (y - offset) / unit, but y itself for raw powers, the notebook's coordinates."""
    factor = FACTORS[basis](reduced) if basis in FACTORS else None
    if basis == "power":
        return Space(factor, torch.ones_like(unit), torch.zeros_like(unit))
    return Space(factor, unit, offset)


def quadratic_problem(space: Space, reduced: Reduced, penalty: RidgeSystem | None) -> Quadratic:
    """The mean of squares, and the penalty where there is one, in these coordinates, float64."""
    size, batch = reduced.target.shape
    if penalty is not None:
        return Quadratic(_upper_rows(penalty.factor, size), penalty.target, penalty.floor)
    factor = reduced.target.new_empty(0, batch) if space.factor is None else _upper_rows(space.factor, size)
    return Quadratic(factor, *_optimum_and_floor(space, reduced))


def ridge_system(space: Space, reduced: Reduced, ridge: Tensor) -> RidgeSystem:
    """The least-squares system of these coordinates with a ridge, (B,), float64."""
    identity = torch.eye(len(reduced.target), dtype=ridge.dtype, device=ridge.device)[:, :, None]
    factor = identity.expand(-1, -1, len(ridge)) if space.factor is None else space.factor
    return add_ridge(factor, *_optimum_and_floor(space, reduced), ridge)


def _optimum_and_floor(space: Space, reduced: Reduced) -> tuple[Tensor, Tensor]:
    """d and c of |R w - d|^2 + c in these coordinates."""
    ratio = reduced.scale / space.unit
    return space.in_own_units(coordinates(reduced)), reduced.floor * ratio * ratio


def sampled_problem(space: Space, points: Points, width: Tensor, curvature: Tensor, ridge: Tensor) -> Sampled:
    """The residuals in these coordinates, float64; the rest is (B,), as in `Sampled`."""
    columns = points.basis if space.factor is None else _columns(points.basis, space.factor)
    inside = points.weights > 0
    target = torch.where(inside, (points.y - space.offset) / space.unit, 0.0)
    return Sampled(torch.stack(columns), target, points.weights, width, 1.0 / width, curvature, ridge)


def _upper_rows(factor: Tensor, size: int) -> Tensor:
    return torch.stack([factor[i, j] for i in range(size) for j in range(i, size)])


def _columns(basis: list[Tensor], factor: Tensor) -> list[Tensor]:
    """The polynomials of another basis at the points, from the orthonormal ones."""
    columns = []
    for k in range(len(factor)):
        column = basis[0] * factor[0, k]
        for j in range(1, k + 1):
            column = column + basis[j] * factor[j, k]
        columns.append(column)
    return columns
