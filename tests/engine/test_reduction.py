"""The reduction: an orthonormal basis, and the same bits from reduction.cpp as from torch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fitq_worker.compiler import cxx_compiler
from fitq_worker.engine.samples.fused_reduction import Reduction, find_reduction
from fitq_worker.engine.samples.reduction import Reduced, reduce, sample_points
from fitq_worker.engine.samples.sets import SampleSets, pad

CPU = torch.device("cpu")
#: What a point of weight 0 may have for x and y.
NO_NUMBERS = [np.nan, np.inf, -np.inf, 1e300]


@pytest.fixture(scope="module")
def fused() -> Reduction:
    if cxx_compiler() is None:
        pytest.skip("no C++ compiler: reduction.cpp cannot be built here")
    reduction = find_reduction("compiled")
    assert reduction is not None
    return reduction


def sets_of(lengths: list[int], *, weighted: bool, seed: int = 0) -> SampleSets:
    """Random sample sets, some with repeated x, constant y, points of weight 0, and values that cannot be computed with.

    Some have most of their weight at one place, by weights of 1 / x^2 over decades or by one point far from the others.
    Half of the points of weight 0 have an x that is no number, half of them such a y.
    """
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    x, y, weights = random.normal(size=(3, offsets[-1]))
    x, weights = np.round(x * 5, 1), np.where(weights > 1.0, 0.0, np.abs(weights))
    for start, end in itertools.pairwise(offsets):
        sickness = random.integers(0, 10)
        if sickness == 0 and end > start:
            x[random.integers(start, end)] = random.choice([np.nan, np.inf, -1e200])
        elif sickness == 1:
            y[start:end] = 3.25
        elif sickness == 2:
            x[start:end] = -0.0
        elif sickness == 3:
            weights[start:end] = 0.0
        elif sickness == 4:
            x[start:end] = random.choice([1, -1]) * 10.0 ** np.round(x[start:end] * 0.4)
            weights[start:end] /= x[start:end] ** 2
            weights[start:end] *= 10.0 ** random.integers(-150, 100, end - start) if random.random() < 0.3 else 1.0
        elif sickness == 5:
            x[start:end] = np.where(np.arange(start, end) == end - 1, -1e9, x[start:end])
    if weighted:
        for values in (x, y):
            nothing = (weights == 0.0) & (random.random(len(x)) < 0.5)
            values[nothing] = random.choice(NO_NUMBERS, nothing.sum())
    return SampleSets(offsets, x, y, weights if weighted else None)


def assert_same_bits(one: Reduced, other: Reduced) -> None:
    for name, left, right in zip(Reduced._fields, one, other, strict=True):
        assert left.shape == right.shape
        assert left.numpy().tobytes() == right.contiguous().numpy().tobytes(), name


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 100), min_size=1, max_size=12),
    degree=st.integers(0, 12),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_fused_reduction_gives_the_bits_of_torch(
    fused: Reduction, lengths: list[int], degree: int, weighted: bool, seed: int
) -> None:
    """Sample sets of any length, sick ones among them: every number of the reduction is the same, to the last bit."""
    sets = sets_of(lengths, weighted=weighted, seed=seed)
    assert_same_bits(fused(sets, degree), reduce(pad(sets, CPU), degree))


@pytest.mark.parametrize("degree", [0, 2, 30])
def test_fused_reduction_gives_the_bits_of_torch_for_many_samples(fused: Reduction, degree: int) -> None:
    sets = sets_of([2000, 1, 5000, 33], weighted=False)
    assert_same_bits(fused(sets, degree), reduce(pad(sets, CPU), degree))


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_points_of_weight_0_are_as_good_as_left_out(fused: Reduction, degree: int) -> None:
    """Whatever stands there: the reduction of zeros in their place is the same, and no set is invalid for them."""
    sets = sets_of([40] * 50, weighted=True, seed=4)
    assert sets.weights is not None
    mended = sets._replace(x=np.where(sets.weights == 0, 0.0, sets.x), y=np.where(sets.weights == 0, 0.0, sets.y))
    assert not np.array_equal(mended.x, sets.x)
    assert not np.array_equal(mended.y, sets.y)

    for reduction in (fused, lambda given, degree: reduce(pad(given, CPU), degree)):
        assert_same_bits(reduction(sets, degree), reduction(mended, degree))


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(0, 100), min_size=1, max_size=12), degree=st.integers(0, 6), seed=st.integers(0, 1000))
def test_weights_of_one_are_no_weights(fused: Reduction, lengths: list[int], degree: int, seed: int) -> None:
    """To the last bit, since a job without weights gets ones where another one in its batch has some."""
    sets = sets_of(lengths, weighted=False, seed=seed)
    weighted = sets._replace(weights=np.ones(len(sets.x)))

    assert_same_bits(fused(weighted, degree), fused(sets, degree))
    assert_same_bits(reduce(pad(weighted, CPU), degree), fused(sets, degree))


def test_sets_with_weight_at_one_place_are_seen_from_there(fused: Reduction) -> None:
    """Among those that the bits above are compared on are many of both kinds."""
    sets = sets_of([60] * 400, weighted=True, seed=5)

    reduced = fused(sets, 3)

    moved = (reduced.centre != (reduced.low + reduced.high) * 0.5).double().mean().item()
    assert 0.05 < moved < 0.5
    assert_same_bits(reduced, reduce(pad(sets, CPU), 3))


def test_basis_is_orthonormal_on_the_samples() -> None:
    """To the last bits, also where the powers of x are as good as dependent: degree 20 on 30 points."""
    x = np.sort(np.random.default_rng(0).uniform(100.0, 101.0, 30))
    samples = pad(SampleSets(np.array([0, 30]), x, np.sin(x), None), CPU)
    basis: NDArray[np.float64] = torch.stack(sample_points(samples, reduce(samples, 20)).basis)[:, :, 0].numpy()
    assert np.abs(basis @ basis.T / 30 - np.eye(21)).max() < 1e-14
