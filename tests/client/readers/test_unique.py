"""Two jobs with one id are found wherever they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq.readers.unique import SeenHashes, unique
from fitq_shared.errors import JobError
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob


def first_pair(hashes: list[int]) -> tuple[int, int] | None:
    """What SeenHashes promises, with a dictionary."""
    places: dict[int, int] = {}
    for number, value in enumerate(hashes):
        if (earlier := places.setdefault(value, number)) != number:
            return earlier, number
    return None


@given(st.lists(st.lists(st.integers(0, 60) | st.integers(2**64 - 60, 2**64 - 1), min_size=1, max_size=12), max_size=12))
def test_the_first_pair_of_equal_hashes_is_found(batches: list[list[int]]) -> None:
    """In one batch or in two, however the runs were merged in between."""
    seen = SeenHashes()
    found = (seen.add(np.array(batch, np.uint64)) for batch in batches)
    assert next((pair for pair in found if pair), None) == first_pair(list(itertools.chain(*batches)))


@pytest.mark.parametrize("position", [0, 5000, 99_999])
def test_a_hash_is_found_among_a_hundred_thousand(position: int) -> None:
    """The first, one in the middle, the last."""
    hashes = np.random.default_rng(0).permutation(100_000).astype(np.uint64)
    seen = SeenHashes()
    assert all(seen.add(part) is None for part in np.split(hashes, 50))
    assert seen.add(hashes[position : position + 1]) == (position, 100_000)


def test_both_places_and_the_id_are_named() -> None:
    """Positions count over all batches."""
    batches = [jobs_batch([FitJob(polynomial=[1.0], id=f"{first + row}") for row in range(3)], first) for first in (0, 3)]
    again = jobs_batch([FitJob(polynomial=[1.0], id=name) for name in ("new", "4")], 6)
    with pytest.raises(JobError, match=r"^place 7: id = '4': already used at place 4; ids must differ$"):
        list(unique([*batches, again], lambda position: f"place {position}"))
