"""The optimum of the losses that go through the points, how far any fit is from it at most, and its uncertainty.

What is minimised, in float64 and in units of a robust spread of y, is in robust_losses.py. At the optimum theta, the slope
of the loss at each residual, solves the dual problem

    max sum_i weight_i (theta_i z_i - gamma conjugate(theta_i)),    Q' W theta = 0,    |theta_i| <= 1,

and whatever is feasible there bounds the loss of every polynomial from below (Rockafellar, "Convex Analysis", 1970, section
31). So the gap to the optimum is proven, not estimated, and it is a sum of terms that are not negative: nothing cancels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import tree_sum
from fitq_worker.engine.optimum import newton
from fitq_worker.engine.optimum.cholesky import cholesky, solve
from fitq_worker.engine.optimum.interior_point import Standardised, minimise
from fitq_worker.engine.optimum.robust_losses import LEAST_WIDTH, MOST_WIDTH, SHAPES
from fitq_worker.engine.samples.medians import robust_unit, spread_around
from fitq_worker.engine.samples.reduction import Points
from fitq_worker.engine.trees import take

#: Times that theta is moved towards the equations of the dual problem where it is further off than rounding; what is left
#: after these is taken out for good.
_REPAIRS, _OFF = 2, 5e-15
#: A residual of l1 below this is that of a point on the polynomial.
_TOUCHING = 1e-9
#: An optimum proven no better than this is worth another method.
_POOR_GAP = 1e-9
#: Newton's method alone finds most optima of losses at least this wide, in spreads, within so many steps and to this gap.
_WIDE, _NEWTON_STEPS, _PROVEN_GAP = 0.01, 6, 1e-14


class Widths(NamedTuple):
    """The widths of huber that jobs ask for, (B,) each; NaN where a job does not."""

    delta: Tensor  # in units of y
    sigmas: Tensor  # in robust standard deviations of the residuals of the l1 fit


class Robust(NamedTuple):
    """The problem of B fits with P coefficients and its optimum; float64, w in units of the spread."""

    loss: str
    points: Standardised
    unit: Tensor  # (B,) robust spread of y
    offset: Tensor  # (B,) median of y
    w: Tensor  # (P, B) the optimum
    theta: Tensor  # (N, B) a feasible solution of the dual problem

    @property
    def loss_unit(self) -> Tensor:
        """What F = 1 is as a loss in units of y, (B,)."""
        return self.unit if self.loss == "l1" else self.points.width * self.unit * self.unit

    @property
    def coordinates(self) -> Tensor:
        """The optimum in the orthonormal basis, in units of y, (P, B)."""
        scaled = self.w * self.unit
        return torch.cat([scaled[:1] + self.offset, scaled[1:]])

    def standardise(self, coordinate: Tensor) -> Tensor:
        """Coordinates in the orthonormal basis, from units of y to units of the spread; (P, B) both."""
        return torch.cat([coordinate[:1] - self.offset, coordinate[1:]]) / self.unit

    def loss_at(self, w: Tensor) -> Tensor:
        """The loss of polynomials, (B,), in units of y, with its penalty."""
        values = tree_sum(self.points.weights * self._values(self.points.residuals(w)))
        if len(self.points.penalty):
            values = values + 0.5 * tree_sum(w * self.points.pull(w))
        return values * self.loss_unit

    def gap_at(self, w: Tensor) -> Tensor:
        """How far polynomials are above the lowest loss at most, (B,), beside the loss of one spread."""
        points, residuals = self.points, self.points.residuals(w)
        conjugate = 0.0 if self.loss == "l1" else points.width * SHAPES[self.loss].conjugate(self.theta)
        above = tree_sum(points.weights * (self._values(residuals) + conjugate - self.theta * residuals))
        if len(points.penalty):
            above = above + _penalty_gap(points, self.theta, w)
        return above.clamp(min=0.0) / self._values(torch.ones_like(residuals[:1]))[0]

    def variance(self) -> Tensor:
        """Of the optimum's errors over the sum of the weights, (B,), as of residuals in least squares; NaN where unknown.

        Huber's sandwich estimate for an M-estimator of fixed scale with his correction for few points ("Robust Statistics",
        1981, 7.6), H1 of statsmodels.RLM. Where all points within the width are interpolated, and for l1, it needs the
        density of the errors at 0, which the points do not tell.
        """
        points, shape = self.points, SHAPES[self.loss]
        size, used = len(self.w), (points.weights > 0).sum(0).to(torch.float64)
        u = points.residuals(self.w) / points.width
        curvature = shape.curvature(u)
        mean = tree_sum(points.weights * curvature)
        spread = tree_sum(points.weights * (curvature - mean) ** 2)
        squares = tree_sum(points.weights * (points.width * shape.slope(u)) ** 2)
        known = (used > size) & (used * mean > size) & (self.loss != "l1") & (len(points.penalty) == 0)
        mean = torch.where(known, mean, torch.nan)
        correction = 1.0 + size / used * spread / (mean * mean)
        return (correction * self.unit / mean) ** 2 * squares / (used - size)

    def _values(self, residuals: Tensor) -> Tensor:
        if self.loss == "l1":
            return residuals.abs()
        return self.points.width * SHAPES[self.loss].value(residuals / self.points.width)


def robust_optimum(loss: str, given: Points, widths: Widths, penalty: Tensor | None, solvable: Tensor) -> Robust:
    """Solve every fit that is `solvable`, (B,) bool: its points determine all coefficients.

    `penalty` is the matrix S of ridge c' S c, (P, P, B), for c in units of y in the orthonormal basis; None is no ridge.
    """
    offset, unit = robust_unit(given.y, given.weights)
    z = torch.where(given.weights > 0, (given.y - offset) / unit, 0.0)
    none = z.new_empty(0, 0, z.shape[1])
    points = Standardised(torch.stack(given.basis, dim=1), z, given.weights, torch.full_like(unit, LEAST_WIDTH), none)
    points = points._replace(width=_width(loss, points, widths, unit, solvable))
    blank = Robust(loss, points, unit, offset, z.new_zeros(len(given.basis), z.shape[1]), torch.zeros_like(z))
    if penalty is not None and len(penalty) > 1:
        points = points._replace(penalty=penalty * (unit * unit / blank.loss_unit))
    tried = _try_newton(blank._replace(points=points), solvable)
    left = solvable & ~(tried.gap_at(tried.w) <= _PROVEN_GAP)
    if not left.any():
        return tried
    w, theta = _solve(loss, points, left)
    found = tried._replace(w=torch.where(left, w, tried.w), theta=torch.where(left, theta, tried.theta))
    return _improve(found)


def _try_newton(robust: Robust, solvable: Tensor) -> Robust:
    """A few steps of Newton's method from the least squares: a tenth of the work of the interior-point method."""
    wide = (solvable & (robust.points.width >= _WIDE)).nonzero()[:, 0]
    if robust.loss == "l1" or not len(wide):
        return robust
    points, shape = take(robust.points, wide), SHAPES[robust.loss]
    squares = points.projected(points.z)
    if len(points.penalty):
        squares = solve(cholesky(points.normal_matrix(1.0 / points.width)), squares / points.width)
    return _place(robust, points, wide, newton.descend(points, shape, squares, _NEWTON_STEPS))


def _place(robust: Robust, points: Standardised, indices: Tensor, found: Tensor) -> Robust:
    """The problem with coefficients, and what they make of theta, for the fits at `indices`, whose points these are."""
    w, theta = robust.w.clone(), robust.theta.clone()
    slopes = SHAPES[robust.loss].slope(points.residuals(found) / points.width)
    w[:, indices], theta[:, indices] = found, _make_feasible(points, slopes, found)
    return robust._replace(w=w, theta=theta)


def _improve(robust: Robust) -> Robust:
    """Descend further with the few fits of huber whose interior-point method got stuck."""
    gap = robust.gap_at(robust.w)
    stuck = (gap > _POOR_GAP).nonzero()[:, 0]
    if robust.loss != "huber" or not len(stuck):
        return robust
    points = take(robust.points, stuck)
    better = _place(robust, points, stuck, newton.descend(points, SHAPES[robust.loss], robust.w[:, stuck]))
    use = better.gap_at(better.w) < gap
    return better._replace(w=torch.where(use, better.w, robust.w), theta=torch.where(use, better.theta, robust.theta))


def _width(loss: str, points: Standardised, widths: Widths, unit: Tensor, solvable: Tensor) -> Tensor:
    """gamma of each fit, (B,), in units of the spread."""
    if loss == "l1":
        return points.width
    if loss == "log_cosh":
        return (1.0 / unit).clamp(max=MOST_WIDTH)
    width = widths.delta / unit
    if not bool(widths.sigmas.isnan().all()):
        residuals = points.residuals(_solve("l1", points, solvable)[0])
        sigma = spread_around(torch.zeros_like(unit), residuals, points.weights)
        width = torch.where(widths.sigmas.isnan(), width, (widths.sigmas * sigma).clamp(min=LEAST_WIDTH))
    return width.clamp(max=MOST_WIDTH)


def _solve(loss: str, points: Standardised, solvable: Tensor) -> tuple[Tensor, Tensor]:
    """The optimum, (P, B), and a feasible theta, (N, B); zeros where it is not `solvable`."""
    w, theta = torch.zeros_like(points.q[0]), torch.zeros_like(points.z)
    indices = solvable.nonzero()[:, 0]
    if len(indices):
        solved = take(points, indices)
        w[:, indices], slopes = minimise(solved._replace(width=solved.width.clamp(min=LEAST_WIDTH)))
        if loss == "l1" and not len(solved.penalty):
            w[:, indices] = _interpolate(solved, w[:, indices])
        if loss == "log_cosh":
            w[:, indices] = newton.descend(solved, SHAPES[loss], w[:, indices])
            slopes = SHAPES[loss].slope(solved.residuals(w[:, indices]) / solved.width)
        theta[:, indices] = _make_feasible(solved, slopes, w[:, indices])
    return w, theta


def _interpolate(points: Standardised, w: Tensor) -> Tensor:
    """Move coefficients of l1 onto the points that they touch, which an optimum goes through, where that is no worse."""
    residuals = points.residuals(w)
    touched = (residuals.abs() <= _TOUCHING).to(residuals.dtype)
    moved = w + solve(cholesky(points.normal_matrix(touched)), points.projected(touched * residuals))
    before, after = (tree_sum(points.weights * values.abs()) for values in (residuals, points.residuals(moved)))
    return torch.where(after <= before, moved, w)


def _make_feasible(points: Standardised, theta: Tensor, w: Tensor) -> Tensor:
    """Move theta to Q' W theta = the penalty's gradient where it is free to move, and bring it within its limits.

    What is left is taken out along the orthonormal polynomials: the constant alone where there is a penalty.
    """
    off = ((points.projected(theta) - points.pull(w)).abs().amax(0) > _OFF).nonzero()[:, 0]
    if len(off):
        theta = theta.clone()
        theta[:, off] = _repair(take(points, off), theta[:, off], w[:, off])
    rest = points.projected(theta)
    if len(points.penalty):
        rest = torch.cat([rest[:1], torch.zeros_like(rest[1:])])
    theta = theta - _combine(points, rest)
    return theta / theta.abs().amax(0).clamp(min=1.0)


def _repair(points: Standardised, theta: Tensor, w: Tensor) -> Tensor:
    for _ in range(_REPAIRS):
        slack = (1.0 - theta) * (1.0 + theta)
        factor = cholesky(Standardised.normal_matrix(points._replace(penalty=points.penalty[:0, :0]), slack))
        missing = solve(factor, points.projected(theta) - points.pull(w))
        moved = theta - slack * _combine(points, missing)
        theta = torch.where(torch.isfinite(moved).all(0), moved.clamp(-1.0, 1.0), theta)
    return theta


def _combine(points: Standardised, coefficients: Tensor) -> Tensor:
    """Q coefficients, (N, B); 0 at what is no point."""
    return torch.where(points.weights > 0, tree_sum((points.q * coefficients).transpose(0, 1)), 0.0)


def _penalty_gap(points: Standardised, theta: Tensor, w: Tensor) -> Tensor:
    """w' S w, plus its conjugate at a = Q' W theta, less a' w: (w - b)' S (w - b) with 2 S b = a; the constant is free."""
    matrix = points.penalty[1:, 1:]
    distance = w[1:] - 0.5 * solve(cholesky(matrix), points.projected(theta)[1:])
    return tree_sum(distance * tree_sum((matrix * distance).transpose(0, 1)))
