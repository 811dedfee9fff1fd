"""The coordinates that a descent runs in, and the way from them to the orthonormal basis and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.basis import FACTORS, multiply_upper, solve_upper
from fitq_worker.engine.exact import coordinates
from fitq_worker.engine.losses import Quadratic, Sampled
from fitq_worker.engine.reduction import Points, Reduced


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


def space_of(basis: str, reduced: Reduced) -> Space:
    """Targets are standardised in every basis but raw powers, which are the notebook's own coordinates."""
    factor = FACTORS[basis](reduced) if basis in FACTORS else None
    if basis == "power":
        return Space(factor, torch.ones_like(reduced.scale), torch.zeros_like(reduced.scale))
    return Space(factor, reduced.scale, reduced.mean)


def quadratic(space: Space, reduced: Reduced) -> Quadratic:
    """The mean of squares in these coordinates, float64."""
    size, batch = reduced.target.shape
    target = space.in_own_units(coordinates(reduced))
    ratio = reduced.scale / space.unit
    factor = target.new_empty(0, batch) if space.factor is None else _upper_rows(space.factor, size)
    return Quadratic(factor, target, reduced.floor * ratio * ratio)


def sampled(space: Space, points: Points, delta: Tensor) -> Sampled:
    """The residuals in these coordinates, float64; `delta` is (B,), in units of y."""
    columns = points.basis if space.factor is None else _columns(points.basis, space.factor)
    inside = points.weights > 0
    target = torch.where(inside, (points.y - space.offset) / space.unit, 0.0)
    return Sampled(torch.stack(columns), target, points.weights, space.unit, delta)


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
