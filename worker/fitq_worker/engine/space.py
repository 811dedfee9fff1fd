"""The coordinates that a descent runs in, and the way from them to the orthonormal basis and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.basis import FACTORS, multiply_upper, solve_upper
from fitq_worker.engine.exact import coordinates
from fitq_worker.engine.losses import Problem
from fitq_worker.engine.reduction import Reduced


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
        """The other way round."""
        scaled = torch.cat([coordinate[:1] - self.offset, coordinate[1:]]) / self.unit
        return scaled if self.factor is None else solve_upper(self.factor, scaled[:, None])[:, 0]

    def in_units_of_y(self, w: Tensor) -> Tensor:
        """Coefficients of the same basis for y itself: the first polynomial of every basis is the constant 1."""
        scaled = w * self.unit
        return torch.cat([scaled[:1] + self.offset, scaled[1:]])


def space_of(basis: str, reduced: Reduced) -> Space:
    """Targets are standardised in every basis but raw powers, which are the notebook's own coordinates."""
    factor = FACTORS[basis](reduced) if basis in FACTORS else None
    if basis == "power":
        return Space(factor, torch.ones_like(reduced.scale), torch.zeros_like(reduced.scale))
    return Space(factor, reduced.scale, reduced.mean)


def problem_in(space: Space, reduced: Reduced, dtype: torch.dtype) -> Problem:
    """The mean squared error in these coordinates."""
    size, batch = reduced.target.shape
    optimum = coordinates(reduced)
    target = torch.cat([optimum[:1] - space.offset, optimum[1:]]) / space.unit
    ratio = reduced.scale / space.unit
    factor = torch.empty(0, batch) if space.factor is None else _upper_rows(space.factor, size)
    return Problem(factor.to(target).to(dtype), target.to(dtype), (reduced.floor * ratio * ratio).to(dtype))


def _upper_rows(factor: Tensor, size: int) -> Tensor:
    return torch.stack([factor[i, j] for i in range(size) for j in range(i, size)])
