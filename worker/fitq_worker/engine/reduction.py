"""The sample set becomes sufficient statistics: an orthonormal basis on the points and the targets' place in it.

With the weighted mean <u, v> = sum(w u v) / sum(w) over a sample set, polynomials q_0 = 1, q_1, ... with
<q_i, q_j> = [i = j] are built by Arnoldi's method on multiplication by t, the points mapped to [-1, 1]: "Vandermonde
with Arnoldi" (Brubeck, Nakatsukasa and Trefethen, SIAM Review 63, 2021), orthogonalised twice. It is the QR
factorisation of the design matrix without ever forming the ill-conditioned matrix. What the descent and the
diagnostics need of the samples is then of the size of the polynomial, not of the sample set:

    mean((sum_k a_k q_k - z)^2) = |a - d|^2 + c,    d_k = <q_k, z>,    c = mean((z - sum_k d_k q_k)^2)

where z = (y - mean) / scale are the standardised targets. All arrays are float64 with the batch as last axis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.samples import Samples

#: A new direction shorter than this, relative to unit vectors, is rounding: the points do not determine it.
RANK_TOLERANCE = 1e-12
#: Targets that vary by less than this, relative to their size, are constant up to rounding.
CONSTANT_TOLERANCE = 1e-15


class Reduced(NamedTuple):
    """Sufficient statistics of B sample sets for polynomials with P coefficients; float64."""

    middle: Tensor  # (B,) t = (x - middle) / half_width lies in [-1, 1]
    half_width: Tensor  # (B,)
    mean: Tensor  # (B,) of y
    scale: Tensor  # (B,) standard deviation of y; the root mean square of y, or 1, where y is constant
    varies: Tensor  # (B,) bool, y is not constant
    hessenberg: Tensor  # (P, P - 1, B) t q_k = sum_j hessenberg[j, k] q_j
    target: Tensor  # (P, B) d, in units of the scale
    floor: Tensor  # (B,) c, in units of the scale squared: the least-squares optimum
    rank: Tensor  # (B,) int64
    used: Tensor  # (B,) int64, points of positive weight
    total: Tensor  # (B,) sum of the weights as given


class Points(NamedTuple):
    """The samples as the other losses need them; float64."""

    basis: list[Tensor]  # P of (N, B), the orthonormal polynomials at the points
    y: Tensor  # (N, B)
    weights: Tensor  # (N, B), their sum is 1


def reduce(samples: Samples, degree: int) -> tuple[Reduced, Points]:
    """Reduce each sample set for polynomials of `degree` (P = degree + 1)."""
    x, y, weights, inside = samples.x, samples.y, samples.weights, samples.weights > 0
    total = tree_sum(weights)
    weights = weights / torch.where(total > 0, total, 1.0)
    middle, half_width = _domain(x, inside)
    t = torch.where(inside, (x - middle) / half_width, 0.0)
    mean, scale, varies, z = _standardised(y, weights, inside)
    basis, hessenberg = _arnoldi(t, weights, inside, degree)
    target, floor = _projected(z, basis, weights)
    used = inside.sum(0)
    rank = _rank(hessenberg, used)
    reduced = Reduced(middle, half_width, mean, scale, varies, hessenberg, target, floor, rank, used, total)
    return reduced, Points(basis, y, weights)


def coordinates(reduced: Reduced) -> Tensor:
    """The optimum in the orthonormal basis, in units of y: (P, B)."""
    coordinate = reduced.target * reduced.scale
    return torch.cat([coordinate[:1] + reduced.mean, coordinate[1:]])


def _domain(x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half width of the interval of the points; (0, 1) without points, half width 1 without spread."""
    low = torch.where(inside, x, torch.inf).amin(0)
    high = torch.where(inside, x, -torch.inf).amax(0)
    empty = low > high
    low, high = torch.where(empty, 0.0, low), torch.where(empty, 0.0, high)
    half_width = (high - low) * 0.5
    return (low + high) * 0.5, torch.where(half_width > 0, half_width, 1.0)


def _standardised(y: Tensor, weights: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, scale, whether y varies, and z = (y - mean) / scale."""
    mean = tree_sum(weights * y)
    centred = torch.where(inside, y - mean, 0.0)
    deviation = square_root(tree_sum(weights * centred * centred))
    size = square_root(tree_sum(weights * y * y))
    varies = deviation > CONSTANT_TOLERANCE * size
    scale = torch.where(varies, deviation, torch.where(size > 0, size, 1.0))
    return mean, scale, varies, centred / scale


def _arnoldi(t: Tensor, weights: Tensor, inside: Tensor, degree: int) -> tuple[list[Tensor], Tensor]:
    basis = [inside.to(t.dtype)]
    hessenberg = t.new_zeros(degree + 1, degree, t.shape[1])
    for k in range(degree):
        direction = t * basis[k]
        for _ in range(2):  # twice is enough to be orthogonal to the last bits
            for j, q in enumerate(basis):
                projection = tree_sum(weights * q * direction)
                direction = direction - projection * q
                hessenberg[j, k] += projection
        length = square_root(tree_sum(weights * direction * direction))
        independent = length > RANK_TOLERANCE
        hessenberg[k + 1, k] = torch.where(independent, length, 0.0)
        basis.append(torch.where(independent, direction / torch.where(independent, length, 1.0), 0.0))
    return basis, hessenberg


def _projected(z: Tensor, basis: list[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """d and c: coordinates of z in the basis, and the mean square of what is left over."""
    coordinates = []
    for q in basis:
        coordinate = tree_sum(weights * q * z)
        z = z - coordinate * q
        coordinates.append(coordinate)
    return torch.stack(coordinates), tree_sum(weights * z * z)


def _rank(hessenberg: Tensor, used: Tensor) -> Tensor:
    """Number of independent basis polynomials; 0 without points."""
    rank = torch.ones_like(used)
    for k in range(hessenberg.shape[1]):
        rank += hessenberg[k + 1, k] > 0
    return torch.minimum(rank, used)
