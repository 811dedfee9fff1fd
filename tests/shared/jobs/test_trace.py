"""Which steps a trace holds."""

from __future__ import annotations

import numpy as np
import pytest

from fitq_shared.jobs.trace import recorded_steps


@pytest.mark.parametrize(
    ("trace", "steps", "expected"),
    [
        ("none", 10, []),
        ("full", 3, [0, 1, 2, 3]),
        ("every:4", 10, [0, 4, 8, 10]),
        ("every:5", 10, [0, 5, 10]),
        ("every:100", 10, [0, 10]),
        ("points:2", 10, [0, 10]),
        ("points:5", 8, [0, 2, 4, 6, 8]),
        ("points:100", 3, [0, 1, 2, 3]),
    ],
)
def test_steps_are_those_the_rule_names(trace: str, steps: int, expected: list[int]) -> None:
    """The first and the last step are always among them."""
    assert recorded_steps(trace, steps).tolist() == expected


@pytest.mark.parametrize("trace", ["full", "every:7", "points:100"])
def test_steps_increase_and_are_whole_numbers(trace: str) -> None:
    """One loss for each, none twice."""
    for steps in (1, 2, 99, 100, 1000, 123457):
        recorded = recorded_steps(trace, steps)
        assert recorded.dtype == np.int64
        assert (np.diff(recorded) > 0).all()
        assert (recorded[0], recorded[-1]) == (0, steps)
