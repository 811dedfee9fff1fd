"""Which points cannot be fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fitq_shared.jobs.points import MAX_MAGNITUDE, find_unfit

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1.1 * MAX_MAGNITUDE, -1.1 * MAX_MAGNITUDE])
def test_a_number_that_is_missing_or_too_large_spoils_its_point(bad: float) -> None:
    """In x and in y, unless the point has weight 0."""
    x, y = np.array([bad, 1.0, 1.0, bad, -MAX_MAGNITUDE]), np.array([1.0, bad, 1.0, bad, MAX_MAGNITUDE])
    assert find_unfit(x, y, None).tolist() == [True, True, False, True, False]
    assert find_unfit(x, y, np.array([1.0, 2.0, 1.0, 0.0, MAX_MAGNITUDE])).tolist() == [True, True, False, False, False]
    assert find_unfit(x, y, np.array([0.0, -0.0, 0.0, 1e-300, 1.0])).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("bad", [NAN, INF, -INF, -1.0, -1e-300, 1.1 * MAX_MAGNITUDE])
def test_a_weight_that_is_none_spoils_its_point(bad: float) -> None:
    """Whatever x and y are."""
    x = np.array([1.0, NAN, 1.0])
    assert find_unfit(x, x, np.array([bad, bad, 1.0])).tolist() == [True, True, False]


def test_no_points_are_none() -> None:
    """An empty sample set has nothing wrong."""
    empty = np.zeros(0)
    assert find_unfit(empty, empty, empty).tolist() == find_unfit(empty, empty, None).tolist() == []
