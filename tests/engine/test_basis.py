"""Every basis at the points is the orthonormal one there times its triangular factor."""

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev, legendre, polynomial

from fitq_worker.engine.optimum.exact import powers
from fitq_worker.engine.samples.basis import FACTORS, to_scaled_powers
from fitq_worker.engine.samples.reduction import reduce, sample_points
from fitq_worker.engine.samples.sets import SampleSets, pad

DEGREE = 3
X = np.geomspace(1, 1000, 20)
#: From the middle of x, and from where most of the weight is.
SAMPLES = {
    place: pad(SampleSets(np.array([0, 20]), X, np.sqrt(X), weights), torch.device("cpu"))
    for place, weights in (("middle", None), ("low", X**-2.0))
}


@pytest.mark.parametrize("place", SAMPLES)
@pytest.mark.parametrize("basis", ["power", "chebyshev", "legendre"])
def test_factors_give_the_polynomials_of_numpy(basis: str, place: str) -> None:
    """At every point; the place from which the reduction sees x is no matter."""
    reduced = reduce(SAMPLES[place], DEGREE)
    orthonormal = torch.stack(sample_points(SAMPLES[place], reduced).basis, dim=-1)[:, 0].numpy()
    u = (X - 500.5) / 499.5
    expected = {
        "power": polynomial.polyvander(X, DEGREE),
        "chebyshev": chebyshev.chebvander(u, DEGREE),
        "legendre": legendre.legvander(u, DEGREE),
    }[basis]

    found = orthonormal @ FACTORS[basis](reduced)[:, :, 0].numpy()

    assert (reduced.centre == 500.5).item() == (place == "middle")
    largest = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=1e-13)


@pytest.mark.parametrize("place", SAMPLES)
def test_powers_are_the_same_polynomial(place: str) -> None:
    """Of x as it is, and of x mapped to [-1, 1], lowest first as numpy.polynomial.Polynomial takes them."""
    reduced = reduce(SAMPLES[place], DEGREE)
    orthonormal = torch.stack(sample_points(SAMPLES[place], reduced).basis, dim=-1)[:, 0]
    coordinate = torch.tensor([[3.0], [-1.0], [0.5], [2.0]], dtype=torch.float64)
    expected = (orthonormal @ coordinate)[:, 0].numpy()

    raw, scaled = (found[:, 0].numpy() for found in powers(coordinate, reduced))

    np.testing.assert_allclose(polynomial.Polynomial(raw)(X), expected, rtol=1e-9)
    np.testing.assert_allclose(polynomial.Polynomial(scaled, domain=[1, 1000])(X), expected, rtol=1e-9)


def test_neighbours_seen_from_elsewhere_change_no_bit() -> None:
    """Scaled powers of a fit that is seen from the middle are its powers of t, whatever is beside it."""
    both = SampleSets(np.array([0, 20, 40]), np.tile(X, 2), np.tile(X, 2), np.concatenate([np.ones(20), X**-2.0]))
    reduced = reduce(pad(both, torch.device("cpu")), DEGREE)
    in_t = torch.tensor([-0.0, 1.0, -0.0, 3.0], dtype=torch.float64)[:, None, None].repeat(1, 1, 2)

    found = to_scaled_powers(in_t, reduced)

    assert (reduced.centre != 500.5).tolist() == [False, True]
    assert found[..., 0].numpy().tobytes() == in_t[..., 0].numpy().tobytes()
