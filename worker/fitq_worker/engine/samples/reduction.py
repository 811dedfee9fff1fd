"""The sample set becomes sufficient statistics: an orthonormal basis on the points and the targets' place in it.

With the weighted mean <u, v> = sum(w u v) / sum(w) over a sample set, polynomials q_0 = 1, q_1, ... with
<q_i, q_j> = [i = j] are built by Arnoldi's method on multiplication by t, the points mapped to an interval of length 2
around 0, [-1, 1] as a rule: "Vandermonde with Arnoldi" (Brubeck, Nakatsukasa and Trefethen, SIAM Review 63, 2021), by
classical Gram-Schmidt, twice (Giraud, Langou and Rozloznik, Computers & Mathematics with Applications 50, 2005). It is the
QR factorisation of the design matrix without ever forming the ill-conditioned matrix. What the descent and the diagnostics
need of the samples is then of the size of the polynomial, not of the sample set:

    mean((sum_k a_k q_k - z)^2) = |a - d|^2 + c,    d_k = <q_k, z>,    c = mean((z - sum_k d_k q_k)^2)

where z = (y - mean) / scale are the standardised targets. All arrays are float64 with the batch as last axis.

reduction.cpp does the same, to the last bit, for a core of a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.samples.sets import PaddedSamples

#: PaddedSamples in one part: on the CPU its dozen arrays of float64 stay in the caches of a core.
PART_SAMPLES = {"cpu": 1 << 16, "cuda": 1 << 25}
#: A new direction shorter than this, relative to what it shares with the others, is rounding: the points do not tell it.
RANK_TOLERANCE = 1e-12
#: Points whose mean lies more than this many of their standard deviations from the centre are mapped again. Each doubling
#: costs the low powers a bit.
FAR_DEVIATIONS = 4.0
#: Targets that vary by less than this, relative to their size, are constant up to rounding.
CONSTANT_TOLERANCE = 1e-15


class Reduced(NamedTuple):
    """Sufficient statistics of B sample sets for polynomials with P coefficients; float64."""

    low: Tensor  # (B,) the interval of x that u = (x - low + x - high) / (high - low) maps to [-1, 1]: the smallest x,
    high: Tensor  # (B,) and the largest; one unit away from both where they are the same
    half_width: Tensor  # (B,)
    centre: Tensor  # (B,) t = (x - centre) / half_width; the middle, or a point of x where most of the weight is
    mean: Tensor  # (B,) of y
    scale: Tensor  # (B,) standard deviation of y; the root mean square of y, or 1, where y is constant
    varies: Tensor  # (B,) bool, y is not constant
    hessenberg: Tensor  # (P, P - 1, B) t q_k = sum_j hessenberg[j, k] q_j
    target: Tensor  # (P, B) d, in units of the scale
    floor: Tensor  # (B,) c, in units of the scale squared: the least-squares optimum
    rank: Tensor  # (B,) int64
    used: Tensor  # (B,) int64, points of positive weight
    total: Tensor  # (B,) sum of the weights as given
    invalid: Tensor  # (B,) bool, as in PaddedSamples

    @property
    def determined(self) -> Tensor:
        """The points determine all coefficients, (B,) bool."""
        return self.rank == len(self.target)


class _Interval(NamedTuple):
    """The interval of the points, (B,) each: around 0 without points, of half width 1 without spread."""

    low: Tensor
    high: Tensor
    half_width: Tensor
    middle: Tensor


class Points(NamedTuple):
    """The samples as the other losses need them; float64."""

    basis: list[Tensor]  # P of (N, B), the orthonormal polynomials at the points
    y: Tensor  # (N, B)
    weights: Tensor  # (N, B), their sum is 1


def reduce(samples: PaddedSamples, degree: int) -> Reduced:
    """Reduce each sample set for polynomials of `degree` (P = degree + 1), a part of the batch at a time."""
    width = max(1, PART_SAMPLES[samples.x.device.type] // len(samples.x))
    parts = [_reduce_part(part, degree) for part in _cut(samples, width)]
    return parts[0] if len(parts) == 1 else Reduced(*(torch.cat(fields, dim=-1) for fields in zip(*parts, strict=True)))


def sample_points(samples: PaddedSamples, reduced: Reduced) -> Points:
    """The same reduction's polynomials at the points, for losses that go through the points in every step."""
    x, y, weights = (field.contiguous() for field in samples[:3])
    weights, inside, _ = _normalise(weights)
    t = _map(x, inside, reduced.centre, reduced.half_width)
    return Points(_arnoldi(t, weights, inside, len(reduced.target) - 1)[0], y, weights)


def coordinates(reduced: Reduced) -> Tensor:
    """The optimum in the orthonormal basis, in units of y: (P, B)."""
    coordinate = reduced.target * reduced.scale
    return torch.cat([coordinate[:1] + reduced.mean, coordinate[1:]])


def _cut(samples: PaddedSamples, width: int) -> Iterator[PaddedSamples]:
    """Parts of the batch; sums go over the first axis, neighbours in memory are the same point of different fits."""
    for start in range(0, samples.x.shape[1], width):
        yield PaddedSamples(*(field[..., start : start + width].contiguous() for field in samples))


def _reduce_part(samples: PaddedSamples, degree: int) -> Reduced:
    """Reduce around the middle of x, or around where most of the weight is if that is far away.

    Far from 0 floating point is too coarse for a t that differs little, and where the weights favour one place of x by
    orders of magnitude all that counts is there. The point of x nearest to the weighted mean is never more than a standard
    deviation from it: seen from there, points differ as they do in x itself.
    """
    interval = _interval(samples)
    reduced = _reduce_around(interval.middle, samples, interval, degree)
    far = _is_far(reduced)
    if far.any():
        those = PaddedSamples(*(field[..., far].contiguous() for field in samples))
        nearer = _reduce_around(_find_weight(those), those, _Interval(*(field[far] for field in interval)), degree)
        for field, found in zip(reduced, nearer, strict=True):
            field[..., far] = found
    return reduced


def _is_far(reduced: Reduced) -> Tensor:
    """Which points have so little spread around a mean so far from the centre that t loses what tells them apart, (B,)."""
    if not reduced.hessenberg.shape[1]:
        return torch.zeros_like(reduced.varies)
    mean, deviation = reduced.hessenberg[:2, 0].unbind(0)
    return mean.abs() > FAR_DEVIATIONS * deviation


def _reduce_around(centre: Tensor, samples: PaddedSamples, interval: _Interval, degree: int) -> Reduced:
    weights, inside, total = _normalise(samples.weights)
    t = _map(samples.x, inside, centre, interval.half_width)
    mean, scale, varies, z = _standardise(samples.y, weights, inside)
    basis, hessenberg = _arnoldi(t, weights, inside, degree)
    target = _projections(basis, weights * z)
    floor = _mean_square(_remove(z, target, basis), weights)
    used = (samples.weights > 0).sum(0)
    rank = _rank(hessenberg, used)
    found = (centre, mean, scale, varies, hessenberg, target, floor, rank, used, total, samples.invalid)
    return Reduced(interval.low, interval.high, interval.half_width, *found)


def _normalise(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights whose sum is 1, at which points they are positive, and the sum of the weights as given."""
    total = tree_sum(weights)
    shares = weights / torch.where(total > 0, total, 1.0)
    return shares, shares > 0, total  # one lost to underflow changes no sum


def _interval(samples: PaddedSamples) -> _Interval:
    inside = samples.weights > 0
    low = torch.where(inside, samples.x, torch.inf).amin(0)
    high = torch.where(inside, samples.x, -torch.inf).amax(0)
    empty = low > high
    low, high = torch.where(empty, 0.0, low) + 0.0, torch.where(empty, 0.0, high) + 0.0  # -0.0 becomes 0.0
    half_width, middle = (high - low) * 0.5, (low + high) * 0.5
    aside = torch.where(half_width > 0, 0.0, 1.0)
    return _Interval(low - aside, high + aside, torch.where(half_width > 0, half_width, 1.0), middle)


def _map(x: Tensor, inside: Tensor, centre: Tensor, half_width: Tensor) -> Tensor:
    """x mapped to t, 0 at what is no point."""
    return torch.where(inside, (x - centre) / half_width, 0.0)


def _find_weight(samples: PaddedSamples) -> Tensor:
    """The x nearest to the weighted mean of x, (B,); of two, the lower one."""
    x, (weights, inside, _) = samples.x, _normalise(samples.weights)
    distance = torch.where(inside, (x - tree_sum(weights * x)).abs(), torch.inf)
    return torch.where(distance == distance.amin(0), x, torch.inf).amin(0) + 0.0  # -0.0 becomes 0.0


def _standardise(y: Tensor, weights: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, scale, whether y varies, and z = (y - mean) / scale."""
    size, mean = square_root(_mean_square(y, weights)), tree_sum(weights * y)
    centred = torch.where(inside, y - mean, 0.0)
    deviation = square_root(_mean_square(centred, weights))
    varies = deviation > CONSTANT_TOLERANCE * size
    scale = torch.where(varies, deviation, torch.where(size > 0, size, 1.0))
    return mean, scale, varies, centred / scale


def _arnoldi(t: Tensor, weights: Tensor, inside: Tensor, degree: int) -> tuple[list[Tensor], Tensor]:
    """The basis and the Hessenberg matrix."""
    basis = [inside.to(t.dtype)]
    hessenberg = t.new_zeros(degree + 1, degree, t.shape[1])
    for k in range(degree):
        direction = t * basis[k]
        for _ in range(2):  # twice is enough to be orthogonal to the last bits
            along = _projections(basis, weights * direction)
            direction = _remove(direction, along, basis)
            hessenberg[: k + 1, k] += along
        length = square_root(_mean_square(direction, weights))
        independent = length > RANK_TOLERANCE * hessenberg[: k + 1, k].abs().amax(0)
        hessenberg[k + 1, k] = torch.where(independent, length, 0.0)
        basis.append(direction * torch.where(independent, 1.0 / length, 0.0))
    return basis, hessenberg


def _mean_square(values: Tensor, weights: Tensor) -> Tensor:
    return tree_sum(weights * values * values)


def _projections(basis: list[Tensor], weighted: Tensor) -> Tensor:
    """Lengths along the basis of a direction, given times the weights, (P, B)."""
    return torch.stack([tree_sum(q * weighted) for q in basis])


def _remove(direction: Tensor, along: Tensor, basis: list[Tensor]) -> Tensor:
    """What is left of `direction` when these lengths along the basis are taken out."""
    for length, q in zip(along, basis, strict=True):
        direction = direction - length * q
    return direction


def _rank(hessenberg: Tensor, used: Tensor) -> Tensor:
    """Number of independent basis polynomials; 0 without points."""
    rank = torch.ones_like(used)
    for k in range(hessenberg.shape[1]):
        rank += hessenberg[k + 1, k] > 0
    return torch.minimum(rank, used)
