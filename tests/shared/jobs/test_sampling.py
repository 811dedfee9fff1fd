"""Random numbers that are normal, and depend on nothing but seed, stream and place."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.sampling import NOISE, START, X, _normal_quantile, draw_samples, normals

SEEDS = np.array([0, 1, 2, 3, 2**62, 2**63 - 1])


def test_quantiles_are_those_of_the_normal_distribution() -> None:
    """Compared with the standard library's, from the centre to the last representable tail."""
    lower = [0, 1, 2**10, 2**30, 2**45, 2**48, 2**50, 2**51 - 1]
    fractions = [*lower, *(2**52 - 1 - k for k in lower)]
    words = np.array([fraction << 12 for fraction in fractions], dtype=np.uint64)
    # Near 1 a float64 cannot hold the probability that the code keeps as a distance from 1/2: use the symmetry.
    expected = [
        NormalDist().inv_cdf((k + 0.5) / 2**52) if k < 2**51 else -NormalDist().inv_cdf((2**52 - k - 0.5) / 2**52)
        for k in fractions
    ]
    np.testing.assert_allclose(_normal_quantile(words), expected, rtol=2e-15, atol=1e-15)


def test_numbers_are_distributed_normally() -> None:
    """Mean, variance, tails and the largest distance of the distribution functions, over a million numbers."""
    numbers = np.sort(normals(np.arange(1000), X, 1000).ravel())
    assert abs(numbers.mean()) < 4e-3
    assert abs(numbers.var() - 1) < 6e-3
    assert 3.9 < numbers[-1] < 6.5
    at = numbers[::1000]
    distance = np.abs(np.array([NormalDist().cdf(value) for value in at]) - np.arange(0, 1, 1e-3))
    assert distance.max() < 2e-3


def test_neighbouring_seeds_streams_and_places_are_uncorrelated() -> None:
    """Jobs numbered from 0 are the usual case."""
    seeds = np.arange(2000)
    x, noise = normals(seeds, X, 50), normals(seeds, NOISE, 50)
    pairs = [(x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x, noise), (x, normals(seeds, START, 50))]
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_a_job_draws_the_same_alone_and_in_any_batch() -> None:
    """Bit for bit, whatever stands beside it and however many numbers are drawn."""
    batch = normals(SEEDS, X, 30)
    for place, seed in enumerate(SEEDS):
        assert (normals(np.array([seed]), X, 10)[:, 0] == batch[:10, place]).all()
    assert (normals(SEEDS[::-1], X, 30) == batch[:, ::-1]).all()


def test_numbers_are_the_same_on_every_machine_and_in_every_release() -> None:
    """A seed in somebody's file keeps its meaning."""
    numbers = normals(np.array([0, 7]), START, 2)
    assert [float(number).hex() for number in numbers.ravel()] == [
        "0x1.7a59f94b7fa80p+0",
        "0x1.a3179b5e681ecp-2",
        "0x1.c8d5cb3639981p-1",
        "0x1.056bb59b1d091p+1",
    ]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_job_draws_what_the_worker_draws_in_a_batch(noise: float) -> None:
    """`FitJob.draw` gives a script the worker's samples."""
    polynomials = np.array([[1.0, -2.0], [0.5, 3.0], [2.0, 0.0]])
    seeds, spread, noises = np.array([3, 4]), np.array([5.0, 0.1]), np.array([noise, noise])
    x, y = draw_samples(polynomials, seeds, spread, noises, 20)
    for place in range(2):
        samples = Samples(count=20, spread=float(spread[place]), noise=noise)
        job = FitJob(polynomial=polynomials[:, place].tolist(), samples=samples, seed=int(seeds[place]))
        alone = job.draw()
        assert (alone[0] == x[:, place]).all()
        assert (alone[1] == y[:, place]).all()


def test_noise_has_its_standard_deviation() -> None:
    """In units of y."""
    x, y = FitJob(polynomial=[1, 0], samples=Samples(count=20000, noise=0.5)).draw()
    assert abs((y - x).std() - 0.5) < 0.01
