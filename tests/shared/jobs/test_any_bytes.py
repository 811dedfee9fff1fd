"""Whatever the bytes of a frame are, they are rows that hold together or a FrameError, and never anything else."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitq_shared.errors import FrameError
from fitq_shared.jobs.frame_rules import check_jobs
from fitq_shared.jobs.frames import decode, encode
from fitq_shared.jobs.ids import chunks_in
from fitq_shared.jobs.result_rules import check_results, check_traces
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import FRAME_VERSION, JOB_SCHEMA, RESULT_SCHEMA, SETS_SCHEMA, TRACE_SCHEMA

DATA = Path(__file__).parents[2] / "data"
CASES = DATA / "fuzz" / "frames"
SCHEMAS = {"jobs": JOB_SCHEMA, "sets": SETS_SCHEMA, "results": RESULT_SCHEMA, "traces": TRACE_SCHEMA}


class Edit(NamedTuple):
    """Bytes to put in place of others."""

    place: int
    removed: int
    piece: bytes

    def __call__(self, frame: bytes) -> bytes:
        start = self.place % (len(frame) + 1)
        return frame[:start] + self.piece + frame[start + self.removed :]


#: Lengths, offsets and counts of a header are little-endian numbers.
numbers = st.sampled_from([0, 1, -1, 8, 2**31 - 1, -(2**31)]).map(lambda number: number.to_bytes(4, "little", signed=True))
replacements = st.builds(
    lambda place, piece: Edit(place, len(piece), piece), st.integers(0, 10_000), st.binary(max_size=4) | numbers
)
edits = st.builds(Edit, st.integers(0, 10_000), st.integers(0, 9), st.binary(max_size=9))


@cache
def stored(kind: str) -> bytes:
    return (DATA / "frames" / f"{kind}-{FRAME_VERSION}.arrow").read_bytes()


def read(kind: str, frame: bytes) -> None:
    """Decode a frame as who needs it does, and look at all of it."""
    with contextlib.suppress(FrameError):
        batch = decode(frame, SCHEMAS[kind])
        batch.validate(full=True)
        batch.to_pylist()
        encode(batch)
        if kind == "jobs" and len(batch):
            check_jobs(Rows(batch))
        if kind == "results":
            check_results(batch)
        if kind == "traces":
            check_traces(batch)


@pytest.mark.parametrize("kind", SCHEMAS)
@settings(max_examples=300)
@given(changes=st.lists(replacements | edits, min_size=1, max_size=4), length=st.none() | st.integers(0, 10_000))
def test_a_frame_that_is_changed_anywhere_gives_rows_or_an_error(kind: str, changes: list[Edit], length: int | None) -> None:
    """Numbers of the header, packed values, lengths; and the end cut off."""
    frame = stored(kind)
    for change in changes:
        frame = change(frame)
    read(kind, frame if length is None else frame[: length % (len(frame) + 1)])


@pytest.mark.parametrize("kind", SCHEMAS)
@given(frame=st.binary(max_size=200))
def test_any_bytes_give_an_error(kind: str, frame: bytes) -> None:
    """Random ones, as they are and behind a right header."""
    read(kind, frame)
    read(kind, stored(kind)[:1000] + frame)


@given(st.binary(max_size=64), st.text(max_size=9))
def test_any_entries_of_the_index_of_ids_give_chunks_or_are_refused(bucket: bytes, name: str) -> None:
    """They are eight bytes each."""
    if len(bucket) % 8:
        with pytest.raises(ValueError, match="multiple of element size"):
            chunks_in(bucket, name)
    else:
        assert len(chunks_in(bucket, name)) <= len(bucket) // 8


@pytest.mark.parametrize("path", sorted(CASES.glob("*")), ids=lambda path: path.name)
def test_what_fuzzing_has_found_stays_mended(path: Path) -> None:
    """Each of these once gave neither rows nor a FrameError."""
    found = path.read_bytes()
    for kind in SCHEMAS:
        read(kind, found)
        read(kind, found[1:])  # `make fuzz` puts the kind before it


def test_a_frame_of_no_rows_is_one() -> None:
    """Whether none may be is for its reader to say."""
    for kind, schema in SCHEMAS.items():
        read(kind, encode(pa.RecordBatch.from_pylist([], schema)))
