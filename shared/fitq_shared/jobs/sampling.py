"""Random numbers that depend on nothing but a job's seed: samples and starting coefficients.

The generator is counter based: number n of stream s under seed k is a pure function of (k, s, n), so a whole batch is
drawn in a few array operations and a job gets the same numbers alone, in any batch and on any machine. Words come
from SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014); a word becomes
a normal number through the inverse of the normal distribution, algorithm AS 241 PPND16 (Wichura, Applied Statistics
37, 1988). Only +, -, *, / and square roots of float64 are used, which IEEE 754 defines to the last bit; that is why
the logarithm below is written out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

#: Streams: independent sequences under the same seed. Restart r draws its start from stream START + r.
X, NOISE, START = 1, 2, 3

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_LN2 = 0.6931471805599453

# AS 241, coefficients of P and Q from the highest power down, for the centre, the tail and the far tail.
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
     3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580, 5.46378491116411436990, 6.65790464350110377720),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip


def normals(seeds: Integers, stream: int | Integers, count: int) -> Floats:
    """Standard normal numbers 0..count-1 of `stream`, one or one each, for each seed: float64, (count, len(seeds))."""
    offset = np.atleast_1d(stream).astype(np.uint64) * _GOLDEN_GAMMA  # an array: only arrays wrap around silently
    keys = mix(mix(seeds.astype(np.uint64) * _GOLDEN_GAMMA) + offset)
    counters = np.arange(1, count + 1, dtype=np.uint64)[:, None] * _GOLDEN_GAMMA
    return _normal_quantile(mix(keys + counters))


def draw_samples(polynomials: Floats, seeds: Integers, spread: Floats, noise: Floats, count: int) -> tuple[Floats, Floats]:
    """Sample sets of a batch of polynomials: x = spread * N(0, 1), y = p(x) + noise * N(0, 1).

    `polynomials` has shape (degree + 1, B), highest power first; `seeds`, `spread` and `noise` have shape (B,). Returns
    x and y, float64 of shape (count, B).
    """
    x = spread * normals(seeds, X, count)
    y = np.broadcast_to(polynomials[0], x.shape)
    for coefficient in polynomials[1:]:
        y = y * x + coefficient
    if noise.any():
        y = y + noise * normals(seeds, NOISE, count)
    return x, np.array(y)


def mix(words: Words) -> Words:
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _normal_quantile(words: Words) -> Floats:
    """Map words to probabilities (k + 1/2) / 2^52 and those to quantiles of the standard normal distribution."""
    # 52 bits, because k + 1/2 with 53 would be rounded in the upper half, up to a probability of 1.
    q = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52 - 0.5
    r = 0.180625 - q * q
    quantile = q * _ratio(_CENTRE, r)
    tail = np.nonzero(r < 0)
    quantile[tail] = np.copysign(_tail_quantile(0.5 - np.abs(q[tail])), q[tail])
    return quantile


def _tail_quantile(probability: Floats) -> Floats:
    """Quantile of the upper tail of the given probability (at most 0.075)."""
    r = np.sqrt(-_log(probability))
    return np.where(r <= 5.0, _ratio(_TAIL, r - 1.6), _ratio(_FAR_TAIL, r - 5.0))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], r: Floats) -> Floats:
    numerator, denominator = (np.full_like(r, polynomial[0]) for polynomial in coefficients)
    for p, q in zip(coefficients[0][1:], coefficients[1][1:], strict=True):
        numerator = numerator * r + p
        denominator = denominator * r + q
    return numerator / denominator


def _log(values: Floats) -> Floats:
    """Natural logarithm from IEEE operations alone: 2 artanh((m - 1) / (m + 1)) of the mantissa m, within 2e-16."""
    mantissa, exponent = np.frexp(values)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.zeros_like(s)
    for power in range(41, 0, -2):
        series = series * square + 1.0 / power
    return 2.0 * s * series + exponent * _LN2
