"""Bases and the way between them: triangular factors, and conversion to powers of raw x in float64.

A basis polynomial of degree k is a combination of the first k + 1 orthonormal polynomials of the reduction. Its
coordinates are column k of a triangular factor R, so that coefficients w stand for the polynomial sum_k (R w)_k q_k.
All arrays are float64 with the batch as last axis; coefficients run from the lowest power up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import is_never
from fitq_worker.engine.samples.reduction import Reduced


def powers_of_t(reduced: Reduced) -> Tensor:
    """R of the basis 1, t, t^2, ..., shape (P, P, B)."""
    return _columns(reduced, lambda k, times_t, last, before: times_t)


def powers_of_x(reduced: Reduced) -> Tensor:
    """R of the basis 1, x, x^2, ..., shape (P, P, B); x = half_width t + centre."""
    return _columns(reduced, lambda k, times_t, last, before: times_t * reduced.half_width + last * reduced.centre)


def chebyshev(reduced: Reduced) -> Tensor:
    """R of the Chebyshev polynomials of u, x mapped to [-1, 1]: T_{k+1} = 2 u T_k - T_{k-1}."""
    shift = _shift(reduced)

    def following(k: int, times_t: Tensor, last: Tensor, before: Tensor) -> Tensor:
        times_u = times_t + shift * last
        return times_u if k == 0 else 2.0 * times_u - before

    return _columns(reduced, following)


def legendre(reduced: Reduced) -> Tensor:
    """R of the Legendre polynomials of u, x mapped to [-1, 1]: (k + 1) P_{k+1} = (2 k + 1) u P_k - k P_{k-1}."""
    shift = _shift(reduced)

    def following(k: int, times_t: Tensor, last: Tensor, before: Tensor) -> Tensor:
        return ((2 * k + 1) * (times_t + shift * last) - k * before) / (k + 1)

    return _columns(reduced, following)


#: A shift of x by less than this share of its half width is the rounding of its middle.
NO_SHIFT = 2.0**-50

#: R by the name of the basis; the orthonormal basis has none, its R is the identity.
FACTORS = {"power": powers_of_x, "chebyshev": chebyshev, "legendre": legendre}


def solve_upper(factor: Tensor, right: Tensor) -> Tensor:
    """X with R X = right by back substitution: R is (P, P, B), right and X are (P, K, B).

    A zero on the diagonal (a fit without full rank) is taken as one; what comes out for that fit means nothing.
    """
    size = len(factor)
    solution = factor.new_empty(right.shape)
    for i in reversed(range(size)):
        rest = right[i]
        for j in range(i + 1, size):
            rest = rest - factor[i, j] * solution[j]
        diagonal = factor[i, i]
        solution[i] = rest / torch.where(diagonal == 0, 1.0, diagonal)
    return solution


def multiply_upper(factor: Tensor, vector: Tensor) -> Tensor:
    """R v: R is (P, P, B), v and the product are (P, B)."""
    rows = []
    for i in range(len(factor)):
        row = factor[i, i] * vector[i]
        for j in range(i + 1, len(factor)):
            row = row + factor[i, j] * vector[j]
        rows.append(row)
    return torch.stack(rows)


def inverse_and_solution(factor: Tensor, vector: Tensor) -> Tensor:
    """R^-1 and, as its last column, R^-1 v: R is (P, P, B), v is (P, B), the result (P, P + 1, B).

    As `solve_upper`, without the half of the work that is on zeros: the inverse is upper triangular too.
    """
    size = len(factor)
    solution = factor.new_zeros(size, size + 1, factor.shape[2])
    for i in reversed(range(size)):
        rest = solution[i, i:]
        rest[0], rest[-1] = 1.0, vector[i]
        for j in range(i + 1, size):
            rest[j - i :] -= factor[i, j] * solution[j, j:]
        diagonal = factor[i, i]
        rest /= torch.where(diagonal == 0, 1.0, diagonal)
    return solution


def to_raw_powers(coefficients: Tensor, reduced: Reduced) -> Tensor:
    """Coefficients in powers of t become those in powers of x; both have shape (P, K, B)."""
    return _in_powers(coefficients, reduced.centre, reduced.half_width)


def to_scaled_powers(coefficients: Tensor, reduced: Reduced) -> Tensor:
    """Coefficients in powers of t become those in powers of u, x mapped to [-1, 1]; both have shape (P, K, B)."""
    shift = _shift(reduced)
    moved = shift.abs() > NO_SHIFT
    if is_never(moved):
        return coefficients
    return torch.where(moved, _in_powers(coefficients, shift, torch.ones_like(shift)), coefficients)


def _shift(reduced: Reduced) -> Tensor:
    """u - t, (B,), without rounding the middle of x, which is coarse far from 0."""
    return ((reduced.centre - reduced.low) + (reduced.centre - reduced.high)) * 0.5 / reduced.half_width


def _in_powers(coefficients: Tensor, origin: Tensor, unit: Tensor) -> Tensor:
    """Coefficients in powers of (v - origin) / unit become those in powers of v, by Horner's scheme."""
    found = torch.zeros_like(coefficients)
    for degree, coefficient in enumerate(coefficients.flip(0)):
        # v^0 .. v^(degree - 1) are in use before the step, and v^degree after it.
        shifted = origin * found[: degree + 1]
        found[1 : degree + 1].copy_(found[:degree].clone())
        found[0] = 0.0
        found[: degree + 1].sub_(shifted).div_(unit)
        found[0] += coefficient
    return found


#: (k, t times column k, column k, column k - 1) -> column k + 1
Recurrence = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def _columns(reduced: Reduced, following: Recurrence) -> Tensor:
    """R by columns: the first is the constant 1, each further one follows from the two before."""
    hessenberg = reduced.hessenberg
    size, _, batch = hessenberg.shape
    columns = [hessenberg.new_zeros(size, batch)]
    columns[0][0] = 1.0
    for k in range(size - 1):
        times_t = torch.zeros_like(columns[k])
        for j in range(k + 1):  # what lies below the diagonal of R and beside that of the Hessenberg matrix is zero
            times_t[: j + 2] += hessenberg[: j + 2, j] * columns[k][j]
        columns.append(following(k, times_t, columns[k], columns[max(k - 1, 0)]))
    return torch.stack(columns, dim=1)
