"""What is said of sample sets that cannot be computed with."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.points import find_unfit
from fitq_worker.engine.outcome.invalid import messages
from fitq_worker.engine.samples.sets import SampleSets, pad, sample_sets, tile_sets

NAN, INFINITE = float("nan"), float("inf")
GOOD = {"x": [0.0, 1.0, 2.0, 3.0], "y": [5.0, 6.0, 7.0, 8.0], "weights": [1.0, 1.0, 1.0, 1.0]}


def sets_of(*fields: dict[str, Any]) -> SampleSets:
    """The sample sets of jobs with these fields in place of good ones."""
    return sample_sets(jobs_batch([FitJob(**{**GOOD, **own}) for own in fields]))


CASES = [
    ({"y": [5.0, 6.0, None, 8.0]}, "y[2] is missing; mend it, give the point weight 0, or set missing to drop"),
    ({"x": [0.0, NAN, 2.0, NAN]}, "x[1] is missing; mend it, give the point weight 0, or set missing to drop"),
    (
        {"weights": [None, 1.0, 1.0, 1.0]},
        "weights[0] is missing; mend it, give the point weight 0, or set missing to drop",
    ),
    ({"x": [INFINITE, 1.0, 2.0, 3.0]}, "x[0] = inf is not finite; mend it or give the point weight 0"),
    ({"y": [5.0, 1e300, 7.0, NAN]}, "y[1] = 1e+300 is beyond 1e150; mend it or give the point weight 0"),
    ({"x": [0.0, 1.0, -1e200, 3.0]}, "x[2] = -1e+200 is beyond 1e150; mend it or give the point weight 0"),
    ({"weights": [1.0, 1.0, 1.0, -1.0]}, "weights[3] = -1 is negative; mend it or give the point weight 0"),
    ({"weights": [0.0, 1.0, -INFINITE, 1.0], "x": [NAN, 1.0, 2.0, 3.0]}, "weights[2] = -inf is not finite; mend it"),
    ({"missing": "drop", "y": [None, 6.0, INFINITE, 8.0]}, "y[2] = inf is not finite; mend it or give the point weight 0"),
]


@pytest.mark.parametrize(("fields", "expected"), CASES)
def test_the_first_bad_point_is_named(fields: dict[str, Any], expected: str) -> None:
    """By column and position among the points given, wherever the set stands; who can drop it is told so."""
    sets = sets_of({}, fields, {})

    (message,) = messages(sets, np.array([1]), [None])

    assert message.startswith(expected)


def test_each_invalid_set_has_its_own_message_and_place() -> None:
    """One that jobs share is named for each of them, where its reader knew a place."""
    sets = sets_of({"weights": None}, {"weights": None, "y": [5.0, NAN, 7.0, 8.0]}, {"weights": None, "x": [INFINITE] * 4})

    found = messages(sets, np.array([1, 2, 1]), ["life.csv:17", None, "jobs.jsonl:2"])

    assert [message.split(";")[0] for message in found] == [
        "y[1] is missing (life.csv:17)",
        "x[0] = inf is not finite",
        "y[1] is missing (jobs.jsonl:2)",
    ]


@settings(max_examples=50)
@given(
    points=st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, -1.0, NAN, INFINITE, 1e151])] * 3), min_size=1, max_size=12),
    weighted=st.booleans(),
)
def test_a_set_is_invalid_exactly_where_a_point_is_unfit(points: list[tuple[float, ...]], weighted: bool) -> None:
    """The engine and whoever names the place of the bad point agree."""
    x, y, weights = np.array(points).T.copy()
    sets = SampleSets(np.array([0, len(x)]), x, y, weights if weighted else None)

    invalid = pad(sets, torch.device("cpu")).invalid.item()

    assert invalid == find_unfit(x, y, sets.weights).any()
    assert not invalid or messages(sets, np.array([0]), [None])


def test_shared_sets_are_invalid_for_jobs_that_do_not_drop() -> None:
    """`set_of` of a tile leads from such a job to the set that its message is about."""
    shared = jobs_batch([FitJob(x=[0.0, 1.0], y=[5.0, None])]).select(["x", "y", "weights"])
    jobs = jobs_batch([FitJob(missing="drop"), FitJob()])
    jobs = replace_columns(jobs, {"sample_set": pa.array([0, 0], pa.int32())})

    sets, set_of = tile_sets(jobs, shared)

    assert set_of is not None
    assert pad(sets, torch.device("cpu"), set_of).invalid.tolist() == [False, True]
    assert messages(sets, set_of[1:], [None])[0].startswith("y[1] is missing")
