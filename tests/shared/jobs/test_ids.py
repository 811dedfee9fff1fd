"""Hashes of ids: equal for equal ids only, wherever they stand."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.jobs.ids import id_hashes


@given(st.lists(st.text(max_size=40), max_size=40), st.integers(0, 10))
def test_ids_have_the_same_hash_where_they_are_equal_and_only_there(ids: list[str], first: int) -> None:
    """Alone, in a column, and in a slice of one."""
    hashes = id_hashes(pa.array(ids, pa.string()))
    alone = [int(id_hashes(pa.array([name], pa.string()))[0]) for name in ids]
    assert hashes.tolist() == alone
    assert id_hashes(pa.array(ids, pa.string()).slice(first)).tolist() == alone[first:]
    assert len(set(alone)) == len(set(ids))


@pytest.mark.parametrize("pattern", ["{}", "job-{}", "a-long-prefix-of-an-experiment/{}/run", "{:020d}"])
def test_a_million_similar_ids_have_different_hashes(pattern: str) -> None:
    """Numbers in a row are what people use for ids."""
    ids = pa.array([pattern.format(number) for number in range(1_000_000)])
    assert len(np.unique(id_hashes(ids))) == len(ids)
