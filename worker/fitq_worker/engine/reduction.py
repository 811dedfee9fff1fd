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

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import product_sum, square_root, tree_sum
from fitq_worker.engine.samples import Samples

#: Samples in one part: on the CPU its dozen arrays of float64 stay in the caches of a core.
PART_SAMPLES = {"cpu": 1 << 16, "cuda": 1 << 25}
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


def reduce(samples: Samples, degree: int) -> Reduced:
    """Reduce each sample set for polynomials of `degree` (P = degree + 1), a part of the batch at a time."""
    width = max(1, PART_SAMPLES[samples.x.device.type] // len(samples.x))
    parts = [_reduced(part, degree) for part in _parts(samples, width)]
    return parts[0] if len(parts) == 1 else Reduced(*(torch.cat(fields, dim=-1) for fields in zip(*parts, strict=True)))


def sample_points(samples: Samples, degree: int) -> Points:
    """The same reduction's polynomials at the points, for losses that go through the points in every step."""
    x, y, weights = (field.contiguous() for field in samples[:3])
    weights, inside, _ = _normalised(weights)
    t, _, _ = _mapped(x, inside)
    return Points(_arnoldi(t, weights, inside, degree)[0], y, weights)


def coordinates(reduced: Reduced) -> Tensor:
    """The optimum in the orthonormal basis, in units of y: (P, B)."""
    coordinate = reduced.target * reduced.scale
    return torch.cat([coordinate[:1] + reduced.mean, coordinate[1:]])


def _parts(samples: Samples, width: int) -> Iterator[Samples]:
    """Neighbours in a part's arrays are the same point of different fits: sums go over the first axis."""
    for at in range(0, samples.x.shape[1], width):
        yield Samples(*(field[..., at : at + width].contiguous() for field in samples))


def _reduced(samples: Samples, degree: int) -> Reduced:
    weights, inside, total = _normalised(samples.weights)
    t, middle, half_width = _mapped(samples.x, inside)
    mean, scale, varies, z = _standardised(samples.y, weights, inside)
    basis, weighted, hessenberg = _arnoldi(t, weights, inside, degree)
    target, floor = _projected(z, basis, weighted)
    used = inside.sum(0)
    rank = _rank(hessenberg, used)
    return Reduced(middle, half_width, mean, scale, varies, hessenberg, target, floor, rank, used, total)


def _normalised(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights whose sum is 1, which points count, and the sum of the weights as given."""
    total = tree_sum(weights)
    return weights / torch.where(total > 0, total, 1.0), weights > 0, total


def _mapped(x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """t, and middle and half width of the interval of the points: (0, 1) without points, half width 1 without spread."""
    low = torch.where(inside, x, torch.inf).amin(0)
    high = torch.where(inside, x, -torch.inf).amax(0)
    empty = low > high
    low, high = torch.where(empty, 0.0, low), torch.where(empty, 0.0, high)
    half_width = (high - low) * 0.5
    middle, half_width = (low + high) * 0.5, torch.where(half_width > 0, half_width, 1.0)
    return torch.where(inside, (x - middle).div_(half_width), 0.0), middle, half_width


def _standardised(y: Tensor, weights: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, scale, whether y varies, and z = (y - mean) / scale."""
    scratch, weighted = torch.empty_like(weights), weights * y
    size = square_root(product_sum(weighted, y, scratch))
    mean = product_sum(weights, y, weighted)
    centred = torch.where(inside, y - mean, 0.0)
    deviation = square_root(product_sum(torch.mul(weights, centred, out=weighted), centred, scratch))
    varies = deviation > CONSTANT_TOLERANCE * size
    scale = torch.where(varies, deviation, torch.where(size > 0, size, 1.0))
    return mean, scale, varies, centred.div_(scale)


def _arnoldi(t: Tensor, weights: Tensor, inside: Tensor, degree: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The basis, its polynomials times the weights, and the Hessenberg matrix."""
    basis, weighted, scratch = [inside.to(t.dtype)], [weights], torch.empty_like(t)
    hessenberg = t.new_zeros(degree + 1, degree, t.shape[1])
    for k in range(degree):
        direction = t * basis[k]
        for _ in range(2):  # twice is enough to be orthogonal to the last bits
            for j, q in enumerate(basis):
                projection = _project_out(direction, q, weighted[j], scratch)
                hessenberg[j, k] += projection
        length = square_root(product_sum(weights * direction, direction, scratch))
        independent = length > RANK_TOLERANCE
        hessenberg[k + 1, k] = torch.where(independent, length, 0.0)
        direction.div_(torch.where(independent, length, 1.0))
        basis.append(torch.where(independent, direction, 0.0))
        weighted.append(weights * basis[-1])
    return basis, weighted, hessenberg


def _projected(z: Tensor, basis: list[Tensor], weighted: list[Tensor]) -> tuple[Tensor, Tensor]:
    """d and c: coordinates of z in the basis, and the mean square of what is left over, which replaces z."""
    scratch = torch.empty_like(z)
    coordinates = [_project_out(z, q, weighted[j], scratch) for j, q in enumerate(basis)]
    return torch.stack(coordinates), product_sum(weighted[0] * z, z, scratch)


def _project_out(direction: Tensor, q: Tensor, weighted: Tensor, scratch: Tensor) -> Tensor:
    """Take the part along the unit vector q out of `direction`; returns its length <q, direction>, (B,)."""
    projection = product_sum(weighted, direction, scratch)
    direction.sub_(torch.mul(projection, q, out=scratch))
    return projection


def _rank(hessenberg: Tensor, used: Tensor) -> Tensor:
    """Number of independent basis polynomials; 0 without points."""
    rank = torch.ones_like(used)
    for k in range(hessenberg.shape[1]):
        rank += hessenberg[k + 1, k] > 0
    return torch.minimum(rank, used)
