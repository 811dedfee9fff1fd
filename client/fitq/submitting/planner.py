"""The planner: a stream of job batches becomes chunks, each of jobs that one tensor program can fit together.

Jobs are sorted into groups that agree in SHAPE_COLUMNS and in whether their samples are given or generated. A group is
cut into chunks by four loads, each a share of what a chunk may hold. The first chunks of a submission are small, so
that the first results come early. A group is cut when it holds two chunks; at the end each chunk is half of all the work
that remains, so that several workers end together. What waits is bounded. The same batches give the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitq.submitting.budgets import JOBS, SECONDS, Loads, measure_loads
from fitq.submitting.sample_sets import share_sets
from fitq_shared.jobs.rows import Rows, join
from fitq_shared.jobs.schemas import SHAPE_COLUMNS

#: The first chunk has at most this share of the jobs of a full one, each further one four times as many.
FIRST_CHUNK_SHARE, GROWTH = 1 / 32, 4
#: No chunk is made smaller than this share of a full one for the sake of an even end.
LAST_CHUNK_SHARE = 1 / 8
#: Jobs that wait in groups hold at most this many chunks' worth of any load.
MAX_WAITING_CHUNKS = 8.0

Shape: TypeAlias = tuple[object, ...]


def plan(batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
    """Cut batches of JOB_SCHEMA into chunks; every job is in exactly one. Jobs of one shape keep their order."""
    groups: dict[Shape, _Group] = {}
    chunk_count = 0
    for batch in batches:
        for shape, jobs in _split_by_shape(batch):
            groups.setdefault(shape, _Group()).add(Rows(jobs))
        while (shape_due := _due_shape(groups, _limits(chunk_count))) is not None:
            if (rows := _take(groups, shape_due, _limits(chunk_count))) is not None:
                yield rows
                chunk_count += 1
    for group in groups.values():
        group.compact()
    while groups:
        work = float(_total_load(groups)[[JOBS, SECONDS]].max())
        limits = _limits(chunk_count, min(max(work / 2, LAST_CHUNK_SHARE), 1.0))
        if (rows := _take(groups, _fullest_shape(groups, limits), limits)) is not None:
            yield rows
            chunk_count += 1


class _Part(NamedTuple):
    rows: Rows
    loads: Loads


class _Group:
    """Jobs of one shape that wait to become a chunk."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.load = np.zeros(4)

    def add(self, rows: Rows, *, first: bool = False) -> None:
        """Let rows wait behind all others, or before them."""
        part = _Part(rows, measure_loads(rows))
        self.parts.insert(0 if first else len(self.parts), part)
        self.load = self.load + part.loads.sum(axis=1)

    def take(self, limits: Loads) -> Rows | None:
        """Rows from the front up to `limits`, at least one; None where they turn out to share sample sets.

        Such rows take less than half of the room: they wait again, with every set once, and more rows fit in beside them.
        """
        front = self._take_front(limits)
        rows = share_sets(front.rows)
        if rows is not front.rows:
            before, after = ((load.sum(axis=1) / limits).max() for load in (front.loads, measure_loads(rows)))
            if after <= before / 2:
                self.add(rows, first=True)
                return None
        return rows

    def compact(self) -> None:
        """Let all rows wait as one part, with every sample set once."""
        rows = share_sets(join([part.rows for part in self.parts]))
        self.parts, self.load = [], np.zeros(4)
        self.add(rows)

    def _take_front(self, limits: Loads) -> _Part:
        taken: list[_Part] = []
        load = np.zeros(4)
        while self.parts:
            count = _count_fitting(self.parts[0].loads, load, limits)
            if count == 0 and taken:
                break
            head, rest = _split(self.parts.pop(0), max(count, 1))
            taken.append(head)
            load = load + head.loads.sum(axis=1)
            if rest is not None:
                self.parts.insert(0, rest)
                break
        self.load = np.sum([part.loads.sum(axis=1) for part in self.parts], axis=0) if self.parts else np.zeros(4)
        return _Part(join([part.rows for part in taken]), np.concatenate([part.loads for part in taken], axis=1))


def _limits(chunk_count: int, share: float = 1.0) -> Loads:
    """What the next chunk may hold: this share of the work, fewer jobs while there are few chunks, any payload."""
    limits = np.ones(4)
    limits[JOBS] = min(FIRST_CHUNK_SHARE * GROWTH ** min(chunk_count, 16), share)
    limits[SECONDS] = share
    return limits


def _due_shape(groups: dict[Shape, _Group], limits: Loads) -> Shape | None:
    """The shape whose group is to be cut now: it holds two chunks, or all groups together hold too much."""
    if not groups:
        return None
    fullest = _fullest_shape(groups, limits)
    is_due = (groups[fullest].load / limits).max() > 2 or _total_load(groups).max() > MAX_WAITING_CHUNKS
    return fullest if is_due else None


def _fullest_shape(groups: dict[Shape, _Group], limits: Loads) -> Shape:
    return max(groups, key=lambda shape: float((groups[shape].load / limits).max()))


def _total_load(groups: dict[Shape, _Group]) -> Loads:
    return np.asarray(np.sum([group.load for group in groups.values()], axis=0))


def _take(groups: dict[Shape, _Group], shape: Shape, limits: Loads) -> Rows | None:
    rows = groups[shape].take(limits)
    if not groups[shape].parts:
        del groups[shape]
    return rows


def _count_fitting(part: Loads, load: Loads, limits: Loads) -> int:
    """How many rows of a part fit in beside what is taken already."""
    if ((load + part.sum(axis=1)) / limits).max() <= 1:
        return int(part.shape[1])
    shares = (load[:, None] + part.cumsum(axis=1)) / limits[:, None]
    return int(np.count_nonzero(shares.max(axis=0) <= 1))


def _split(part: _Part, count: int) -> tuple[_Part, _Part | None]:
    if count >= part.loads.shape[1]:
        return part, None
    head, rest = part.rows.slice(0, count), part.rows.slice(count)
    if part.rows.sets is None:
        return _Part(head, part.loads[:, :count]), _Part(rest, part.loads[:, count:])
    return _Part(head, measure_loads(head)), _Part(rest, measure_loads(rest))


def _split_by_shape(batch: pa.RecordBatch) -> Iterator[tuple[Shape, pa.RecordBatch]]:
    """The rows of `batch` by shape, in their order."""
    columns = [*(batch[name] for name in SHAPE_COLUMNS), pc.is_valid(batch["polynomial"])]
    coded = [column.dictionary_encode() for column in columns]
    codes = np.zeros(len(batch), dtype=np.int64)
    for column in (column for column in coded if len(column.dictionary) > 1):
        # Numbered anew each time: a product of all dictionaries could overflow.
        codes = np.unique(codes * len(column.dictionary) + column.indices.to_numpy(), return_inverse=True)[1]
    shapes = np.unique(codes, return_index=True)[1] if codes.any() else [0]
    for number, row in enumerate(shapes):
        rows = batch if len(shapes) == 1 else batch.take(pa.array(np.flatnonzero(codes == number)))
        yield tuple(column[int(row)].as_py() for column in columns), rows
