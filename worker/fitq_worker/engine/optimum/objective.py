"""What a tile minimises: the coordinates, the loss in them, its optimum, and how far from it a fit may be."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import tree_sum
from fitq_worker.engine.descent.losses import Problem
from fitq_worker.engine.descent.space import Space, choose_space, quadratic_problem, ridge_system, sampled_problem
from fitq_worker.engine.optimum.exact import Solution, excess, least_squares, ridge_regression, robust_regression
from fitq_worker.engine.optimum.ridge import RidgeSystem
from fitq_worker.engine.optimum.robust import Robust, Widths, robust_optimum
from fitq_worker.engine.samples.basis import FACTORS, solve_upper
from fitq_worker.engine.samples.reduction import Reduced, coordinates, sample_points
from fitq_worker.engine.samples.sets import Tile, numbers, pad

#: A descent takes a width beyond this as this: all residuals are far below it, and its square is no float32.
MOST_DESCENT_WIDTH = 1e12


class Measured(NamedTuple):
    """Losses of B fits in units of y, and the gap of the last."""

    initial: Tensor  # (B,)
    zero: Tensor  # (B,) of the zero polynomial of the space
    loss: Tensor  # (B,)
    gap: Tensor  # (B,) what it is above the optimum, beside the loss of the spread of y


class Objective(Protocol):
    """A loss on the sample sets of B jobs, as polynomials with P coefficients w of a space have it."""

    @property
    def reduced(self) -> Reduced:
        """The sample sets."""

    @property
    def space(self) -> Space:
        """The coordinates of the descent."""

    @property
    def optimum(self) -> Tensor:
        """The coefficients with the lowest loss, (P, B)."""

    @property
    def loss_unit(self) -> Tensor:
        """What a loss of 1 in the descent is in units of y, (B,)."""

    @property
    def delta(self) -> Tensor | None:
        """The width of huber, (B,), in units of y; None for other losses."""

    def problem(self) -> Problem:
        """The loss as the descent has it, float64."""

    def measure(self, start: Tensor, final: Tensor) -> Measured:
        """Losses where a descent began and ended, (P, B) each."""

    def at_optimum(self) -> Measured:
        """Losses of the optimum itself, without the detour through the coordinates of the descent."""

    def solution(self, absolute: Tensor, *, covariance: bool) -> Solution:
        """The optimum and its uncertainty; `absolute` are the jobs with weights of 1 / sigma^2, (B,) bool."""


class _Squares(NamedTuple):
    """The mean of squares."""

    reduced: Reduced
    space: Space
    optimum: Tensor
    delta: Tensor | None = None

    @property
    def loss_unit(self) -> Tensor:
        return self.space.unit * self.space.unit

    def problem(self) -> Problem:
        return quadratic_problem(self.space, self.reduced, None)

    def measure(self, start: Tensor, final: Tensor) -> Measured:
        variance = self.reduced.scale * self.reduced.scale
        points = start, torch.zeros_like(start), final
        above = [excess(self.space.to_orthonormal(w), self.reduced) for w in points]
        initial, zero, loss = (self.reduced.floor * variance + distance for distance in above)
        return Measured(initial, zero, loss, above[-1] / variance)

    def at_optimum(self) -> Measured:
        return _lowest(self.reduced.floor * self.reduced.scale * self.reduced.scale)

    def solution(self, absolute: Tensor, *, covariance: bool) -> Solution:
        return least_squares(self.reduced, absolute, covariance=covariance)


class _Ridge(NamedTuple):
    """The mean of squares with a ridge."""

    reduced: Reduced
    space: Space
    penalty: RidgeSystem
    optimum: Tensor
    delta: Tensor | None = None

    @property
    def loss_unit(self) -> Tensor:
        return self.space.unit * self.space.unit

    def problem(self) -> Problem:
        return quadratic_problem(self.space, self.reduced, self.penalty)

    def measure(self, start: Tensor, final: Tensor) -> Measured:
        above = [self.penalty.excess(w) * self.loss_unit for w in (start, torch.zeros_like(start), final)]
        initial, zero, loss = (self.penalty.floor * self.loss_unit + distance for distance in above)
        return Measured(initial, zero, loss, above[-1] / (self.reduced.scale * self.reduced.scale))

    def at_optimum(self) -> Measured:
        return _lowest(self.penalty.floor * self.loss_unit)

    def solution(self, absolute: Tensor, *, covariance: bool) -> Solution:
        return ridge_regression(self.reduced, self.space, self.penalty, absolute, covariance=covariance)


class _Points(NamedTuple):
    """A loss that goes through the points."""

    reduced: Reduced
    space: Space
    robust: Robust
    in_descent: Problem
    curvature: Tensor  # (B,) of the loss at 0, in the descent
    optimum: Tensor

    @property
    def loss_unit(self) -> Tensor:
        unit = self.space.unit
        return unit if self.robust.loss == "l1" else unit * unit / self.curvature

    @property
    def delta(self) -> Tensor | None:
        return self.robust.points.width * self.robust.unit if self.robust.loss == "huber" else None

    def problem(self) -> Problem:
        return self.in_descent

    def measure(self, start: Tensor, final: Tensor) -> Measured:
        standardised = [
            self.robust.standardise(self.space.to_orthonormal(w)) for w in (start, torch.zeros_like(start), final)
        ]
        initial, zero, loss = (self.robust.loss_at(w) for w in standardised)
        return Measured(initial, zero, loss, self.robust.gap_at(standardised[-1]))

    def at_optimum(self) -> Measured:
        lowest = self.robust.loss_at(self.robust.w)
        return Measured(lowest, lowest, lowest, self.robust.gap_at(self.robust.w))

    def solution(self, absolute: Tensor, *, covariance: bool) -> Solution:
        variance = torch.where(absolute, torch.nan, self.robust.variance())
        loss = self.robust.loss_at(self.robust.w)
        return robust_regression(self.reduced, self.robust.coordinates, loss, variance, covariance=covariance)


def _lowest(loss: Tensor) -> Measured:
    """What is measured of an optimum that is known up to rounding."""
    return Measured(loss, loss, loss, torch.zeros_like(loss))


def squares_objective(jobs: pa.RecordBatch, reduced: Reduced, *, has_ridge: bool) -> Objective:
    """The mean of squares; standardised targets have the mean 0 and the variance 1."""
    space = choose_space(jobs["basis"][0].as_py(), reduced, reduced.scale, reduced.mean)
    if not has_ridge:
        return _Squares(reduced, space, space.from_orthonormal(coordinates(reduced)))
    penalty = ridge_system(space, reduced, torch.tensor(numbers(jobs["ridge"])).to(reduced.target))
    return _Ridge(reduced, space, penalty, penalty.optimum)


def robust_objective(tile: Tile, reduced: Reduced, *, has_ridge: bool) -> Objective:
    """A loss that goes through the points; standardised targets have the median 0 and a robust spread of 1.

    The descent has a curvature of about 1: huber is taken over min(delta, spread) times the spread, log_cosh over the same
    with a delta of 1, and l1 over the spread. Raw powers keep the loss as it is, as everybody writes it.
    """
    jobs, loss, basis = tile.jobs, tile.jobs["loss"][0].as_py(), tile.jobs["basis"][0].as_py()
    points = sample_points(pad(tile.sets, reduced.target.device, tile.set_of), reduced)
    ridge, *widths = (_column(jobs, name).to(reduced.target) for name in ("ridge", "delta", "delta_sigma"))
    solvable = reduced.determined & ~reduced.invalid
    penalty = ridge * _penalty(basis, reduced) if has_ridge else None
    robust = robust_optimum(loss, points, Widths(*widths), penalty, solvable)
    space = choose_space(basis, reduced, robust.unit, robust.offset)
    width = (robust.points.width * robust.unit / space.unit).clamp(max=MOST_DESCENT_WIDTH)
    curvature = torch.ones_like(width) if basis == "power" or loss == "l1" else (1.0 / width).clamp(min=1.0)
    problem = sampled_problem(space, points, width, curvature, ridge * (space.unit if loss == "l1" else curvature))
    return _Points(reduced, space, robust, problem, curvature, space.from_orthonormal(robust.coordinates))


def _penalty(basis: str, reduced: Reduced) -> Tensor:
    """S with c' S c the sum of squares of the basis coefficients of a polynomial, all but the constant's, (P, P, B)."""
    size, batch = reduced.target.shape
    inverse = torch.eye(size, dtype=reduced.target.dtype, device=reduced.target.device)[:, :, None].expand(-1, -1, batch)
    if basis in FACTORS:
        inverse = solve_upper(FACTORS[basis](reduced), inverse)
    rows = inverse[1:]
    return tree_sum(rows[:, :, None] * rows[:, None, :]) if size > 1 else torch.zeros_like(inverse)


def _column(jobs: pa.RecordBatch, name: str) -> Tensor:
    """A column of float64; NaN where it is null."""
    return torch.tensor(numbers(jobs[name]), dtype=torch.float64)
