"""Streams: results or traces that are stored already, chunk by chunk, in the order of completion or of the input.

A stream is asked for what is ready, never waits for fits, and holds a few chunks at a time, however many there are.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from fitq.outages import ride_out
from fitq.results.replaced import ReplacedRows
from fitq.results.traces import LABELLED_SCHEMA, label_steps
from fitq_shared.jobs.frames import decode
from fitq_shared.jobs.result_rules import check_results, check_traces
from fitq_shared.jobs.schemas import RESULT_SCHEMA, TRACE_SCHEMA
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.reader import CommittedChunk, IndexedChunk, Reader

#: Batches, each with the cursor behind which a later stream goes on.
Ready: TypeAlias = Iterator[tuple[str, pa.RecordBatch]]

_Chunk = TypeVar("_Chunk", CommittedChunk, IndexedChunk)


class Kind(NamedTuple):
    """What to read of each chunk: how to get its frames, and how to turn a frame into a batch of `schema`.

    `at_once` chunks are fetched together.
    """

    schema: pa.Schema
    at_once: int
    frames: Callable[[Reader, str, Sequence[int]], list[bytes | None]]
    batch: Callable[[bytes], pa.RecordBatch]


RESULTS = Kind(RESULT_SCHEMA, 4, Reader.result_frames, lambda frame: check_results(decode(frame, RESULT_SCHEMA)))
# The planner lets the traces of a chunk have 32 MiB.
TRACES = Kind(LABELLED_SCHEMA, 2, Reader.trace_frames, lambda frame: label_steps(check_traces(decode(frame, TRACE_SCHEMA))))


class _Held(NamedTuple):
    """Rows of a chunk that wait for earlier ones."""

    chunk: int
    rows: pa.RecordBatch


class Stream(Protocol):
    """Gives out each row once."""

    def ready(self) -> Ready:
        """The batches that have become ready since the last call."""


class CompletionOrder:
    """A batch for each chunk in the order of the commits, from the one after the cursor `since`.

    Of a job that was retried, each call of `ready` gives the newest row only; a retry that is committed later is one more
    row, in a later call. A server that comes back without the end of its append-only file has chunks fitted again: these are
    not given twice.
    """

    def __init__(self, store: Reader, submission: str, kind: Kind, since: str | None = None) -> None:
        self._store, self._submission, self._kind, self._cursor = store, submission, kind, since
        self._given: set[int] = set()

    def ready(self) -> Ready:
        commits = deque(_commits(self._store, self._submission, self._cursor))
        replaced = ReplacedRows(self._store, self._submission)
        replaced.note(commits)
        while portion := _portion(commits, self._kind.at_once):
            frames = _frames(self._store, self._submission, self._kind, portion)
            for commit, frame in zip(portion, frames, strict=True):
                self._cursor = commit.cursor
                if frame is None or commit.number in self._given:
                    continue
                self._given.add(commit.number)
                if len(batch := replaced.drop(commit.number, self._kind.batch(frame))):
                    yield commit.cursor, batch


class InputOrder:
    """Rows in the order of the input: chunks by their first row, and rows held back until no chunk can have earlier ones.

    It waits until all jobs are in, then for each chunk in turn, those of the retries that run then included; chunks that
    will never be fitted, because they were cancelled, are left out. With `partial` it gives only what is stored at the first
    call and leaves the other chunks out. Retries that begin later are not its concern. Its cursor is that of the last commit
    it knows of.
    """

    def __init__(self, store: Reader, submission: str, kind: Kind, *, partial: bool = False) -> None:
        self._store, self._submission, self._kind, self._partial = store, submission, kind, partial
        self._cursor: str | None = None
        self._committed: set[int] = set()
        self._turns: deque[IndexedChunk] | None = None
        self._taken: set[int] = set()
        self._replaced = ReplacedRows(store, submission)
        self._held: list[_Held] = []

    def ready(self) -> Ready:
        # Asked for before the log: nothing is committed to a cancelled submission. What is partial needs no state.
        manifest = None if self._partial else ride_out(lambda: self._store.manifest(self._submission))
        commits = self._look_at_log()
        if self._turns is None and (manifest is None or manifest.state != "open"):
            self._turns = self._order()
            self._taken = {chunk.number for chunk in self._turns}
        # A retry that has a turn comes before the last row that it replaces is let go.
        self._replaced.note(commit for commit in commits if commit.number in self._taken)
        if self._turns and manifest is not None:
            self._turns = self._without_cancelled(self._turns, manifest)
            yield from self._release(self._turns)  # rows that waited for what was cancelled
        while self._turns and (portion := _portion(self._turns, self._kind.at_once, self._committed)):
            self._hold(portion)
            yield from self._release(self._turns)

    def _look_at_log(self) -> list[CommittedChunk]:
        commits = _commits(self._store, self._submission, self._cursor)
        self._committed |= {commit.number for commit in commits}
        self._cursor = commits[-1].cursor if commits else self._cursor
        return commits

    def _order(self) -> deque[IndexedChunk]:
        """The chunks by their first row; asked for when no more may come that begin before some of these."""
        chunks = ride_out(lambda: self._store.index(self._submission))
        taken = [chunk for chunk in chunks if not self._partial or chunk.number in self._committed]
        return deque(sorted(taken, key=lambda chunk: chunk.first))

    def _without_cancelled(self, turns: deque[IndexedChunk], manifest: Manifest) -> deque[IndexedChunk]:
        """Without chunks of a cancelled submission that will never be fitted, and retries that were ended."""
        waiting = {chunk.number for chunk in turns} - self._committed
        never = {number for number in waiting if manifest.state == "cancelled" and number < manifest.chunks}
        if retries := {number for number in waiting if number >= manifest.chunks}:  # one that was ended leaves the index
            never |= retries - {chunk.number for chunk in ride_out(lambda: self._store.index(self._submission))}
        return deque(chunk for chunk in turns if chunk.number not in never) if never else turns

    def _hold(self, portion: Sequence[IndexedChunk]) -> None:
        """Take in the rows of these chunks, in place of those that they replace."""
        frames = _frames(self._store, self._submission, self._kind, portion)
        pairs = zip(portion, frames, strict=True)
        read = [_Held(chunk.number, self._kind.batch(frame)) for chunk, frame in pairs if frame is not None]
        self._held = [_Held(chunk, self._replaced.drop(chunk, rows)) for chunk, rows in (*self._held, *read)]

    def _release(self, turns: deque[IndexedChunk]) -> Ready:
        """Let go of the rows before the first one that a chunk in `turns` may have; of all rows where there is none."""
        first = turns[0].first if turns else None
        counts = [rows.num_rows if first is None else _rows_before(rows, first) for _, rows in self._held]
        released = [rows.slice(0, count) for (_, rows), count in zip(self._held, counts, strict=True) if count]
        left = [_Held(chunk, rows.slice(count)) for (chunk, rows), count in zip(self._held, counts, strict=True)]
        self._held = [held for held in left if held.rows.num_rows]
        yield from ((str(self._cursor), batch) for batch in _merge(released))


def _commits(store: Reader, submission: str, since: str | None) -> list[CommittedChunk]:
    """All commits after the cursor, as far as there are any."""
    found: list[CommittedChunk] = []
    while page := ride_out(partial(store.commits, submission, since)):
        found += page
        since = page[-1].cursor
    return found


def _portion(chunks: deque[_Chunk], at_once: int, ready: set[int] | None = None) -> list[_Chunk]:
    """Take at most `at_once` chunks from the front, only such as are `ready`."""
    portion: list[_Chunk] = []
    while chunks and len(portion) < at_once and (ready is None or chunks[0].number in ready):
        portion.append(chunks.popleft())
    return portion


def _frames(
    store: Reader, submission: str, kind: Kind, chunks: Sequence[CommittedChunk | IndexedChunk]
) -> list[bytes | None]:
    numbers = [chunk.number for chunk in chunks]
    return ride_out(lambda: kind.frames(store, submission, numbers))


def _rows_before(batch: pa.RecordBatch, first: int) -> int:
    return int(np.searchsorted(batch["index"].to_numpy(), first))


def _merge(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Sorted batches as one sequence; copied only where one reaches into the next."""
    ends = sorted((batch["index"][0].as_py(), batch["index"][-1].as_py(), place) for place, batch in enumerate(batches))
    if all(last < first for (_, last, _), (first, _, _) in itertools.pairwise(ends)):
        return [batches[place] for *_, place in ends]
    return pa.Table.from_batches(batches).combine_chunks().sort_by("index").to_batches()  # type: ignore[no-any-return]
