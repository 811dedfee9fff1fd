"""Equal sample sets are kept once, and nothing that differs in a bit is taken for equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fitq.submitting.sample_sets import share_sets
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows, join
from fitq_shared.jobs.schemas import JOB_SCHEMA, SETS_SCHEMA

Set = tuple[list[float], list[float], list[float] | None]


def jobs_on(sets: list[Set]) -> Rows:
    """One job on each of the sets, which stand in their own rows."""
    template = jobs_batch([FitJob(x=[], y=[], id=str(number)) for number in range(len(sets))])
    own = {
        name: pa.array(values, pa.list_(pa.float64())) for name, values in zip("xyw", zip(*sets, strict=True), strict=True)
    }
    columns = {"x": own["x"], "y": own["y"], "weights": own["w"]}
    return Rows(
        pa.RecordBatch.from_arrays([columns.get(name, template[name]) for name in JOB_SCHEMA.names], schema=JOB_SCHEMA)
    )


def set_of(points: list[tuple[float, float, float]], *, weighted: bool) -> Set:
    """Points (x, y, weight) as x, y and weights."""
    x, y, weights = ([point[place] for point in points] for place in range(3))
    return x, y, weights if weighted else None


def sets_of(rows: Rows) -> list[str]:
    """The sample set of each job as text, which tells -0.0 from 0.0 and null from NaN."""
    found: list[dict[str, Any]] = rows.jobs.to_pylist()
    sets = [] if rows.sets is None else rows.sets.to_pylist()
    own = [row if row["sample_set"] is None else sets[row["sample_set"]] for row in found]
    return [str([entry[name] for name in SETS_SCHEMA.names]) for entry in own]


values = st.sampled_from([0.0, -0.0, 1.0, float("nan")])
points = st.lists(st.tuples(values, values, values), max_size=3)
sets = st.builds(lambda points, weighted: set_of(points, weighted=weighted), points, st.booleans())


@given(st.lists(st.lists(sets, min_size=1, max_size=12), min_size=1, max_size=4), st.integers(0, 12))
def test_every_job_keeps_its_samples_to_the_bit(batches: list[list[Set]], start: int) -> None:
    """However often rows are shared, joined and cut."""
    given_rows = [jobs_on(batch) for batch in batches]
    expected = [text for rows in given_rows for text in sets_of(rows)]
    rows = share_sets(join([share_sets(rows) for rows in given_rows]))
    assert sets_of(rows) == expected
    start = min(start, len(expected) - 1)
    assert sets_of(rows.slice(start)) == expected[start:]
    assert sets_of(join([rows.slice(0, start + 1), rows.slice(start + 1)])) == expected


def test_sets_are_shared_when_at_most_half_of_them_differ() -> None:
    """Otherwise the rows stay as they are."""
    some: list[Set] = [([1.0, 2.0], [float(number), 5.0], None) for number in range(4)]
    rows = share_sets(jobs_on(some * 2))
    assert rows.sets is not None
    assert len(rows.sets) == 4
    assert rows.jobs["sample_set"].to_pylist() == [0, 1, 2, 3] * 2
    assert [rows.jobs[name].null_count for name in SETS_SCHEMA.names] == [8, 8, 8]
    mostly_different = jobs_on([*some, some[0]])
    assert share_sets(mostly_different) is mostly_different


def test_sets_that_differ_in_one_value_that_no_probe_sees_are_told_apart() -> None:
    """Equality is looked at value by value, the hash only finds candidates."""
    x = np.linspace(0, 1, 1000).tolist()
    other = [*x]
    other[1] = np.nextafter(other[1], 2)
    rows = share_sets(jobs_on([(x, x, None)] * 5 + [(other, x, None)]))
    assert rows.sets is not None
    assert rows.jobs["sample_set"].to_pylist() == [0] * 5 + [1]


def test_a_set_that_comes_again_later_is_recognised() -> None:
    """Joining shared rows and sharing them again leaves each set once."""
    one: Set = ([1.0, 2.0], [3.0, 4.0], [1.0, 0.5])
    rows = share_sets(join([share_sets(jobs_on([one] * 3)), share_sets(jobs_on([one] * 2))]))
    assert rows.sets is not None
    assert rows.sets.to_pylist() == [{"x": one[0], "y": one[1], "weights": one[2]}]


def test_a_part_takes_only_the_sets_it_refers_to() -> None:
    """What is not needed is not shipped."""
    some: list[Set] = [([float(number)], [0.0], None) for number in range(3)]
    part = share_sets(jobs_on([set_ for set_ in some for _ in range(2)])).slice(3, 3)
    assert part.sets is not None
    assert part.sets["x"].to_pylist() == [[1.0], [2.0]]
    assert part.jobs["sample_set"].to_pylist() == [0, 1, 1]
