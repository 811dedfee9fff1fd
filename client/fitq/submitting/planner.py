"""The planner: a stream of job batches becomes chunks, each of jobs that one tensor program can fit together.

Jobs are sorted into groups that agree in SHAPE_COLUMNS and in whether their samples are given or generated. A group is
cut into chunks by four loads, each a share of what a chunk may hold. The first chunks of a submission are small, so
that a first result comes early. A group is cut when two chunks wait in it; at the end each chunk is half of all the work
that is left, so that several workers end together. What waits is bounded. The same batches give the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitq.submitting.budgets import JOBS, SECONDS, Loads, loads
from fitq.submitting.sample_sets import shared
from fitq_shared.jobs.frames import SHAPE_COLUMNS
from fitq_shared.jobs.rows import Rows, joined

#: The first chunk has at most this share of the jobs of a full one, each further one four times as many.
FIRST_CHUNK_SHARE, GROWTH = 1 / 32, 4
#: No chunk is made smaller than this share of a full one for the sake of an even end.
LAST_CHUNK_SHARE = 1 / 8
#: Jobs that wait in groups hold at most this many chunks' worth of any load.
MAX_WAITING_CHUNKS = 8.0

Shape: TypeAlias = tuple[object, ...]


class Chunk(NamedTuple):
    """The jobs of one message, of JOB_SCHEMA, and the sample sets that they share, of SETS_SCHEMA."""

    number: int
    frame: pa.RecordBatch
    jobs: int
    sets: pa.RecordBatch | None


def plan(batches: Iterable[pa.RecordBatch]) -> Iterator[Chunk]:
    """Cut batches of JOB_SCHEMA into numbered chunks; every job is in exactly one, in the order of the input."""
    return (Chunk(number, frame, len(frame), sets) for number, (frame, sets) in enumerate(_cut(batches)))


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
        part = _Part(rows, loads(rows))
        self.parts.insert(0 if first else len(self.parts), part)
        self.load = self.load + part.loads.sum(axis=1)

    def take(self, limits: Loads) -> Rows | None:
        """Rows from the front up to `limits`, or one; None when they share sample sets, so that more rows fit in.

        Rows that give nothing wait again, with every set once.
        """
        front = self._front(limits)
        rows = shared(front.rows)
        if rows is not front.rows:
            before, after = ((load.sum(axis=1) / limits).max() for load in (front.loads, loads(rows)))
            if after <= before / 2:
                self.add(rows, first=True)
                return None
        return rows

    def compact(self) -> None:
        """Let all rows wait as one part, with every sample set once."""
        rows = shared(joined([part.rows for part in self.parts]))
        self.parts, self.load = [], np.zeros(4)
        self.add(rows)

    def _front(self, limits: Loads) -> _Part:
        taken: list[_Part] = []
        load = np.zeros(4)
        while self.parts:
            fitting = _fitting(self.parts[0].loads, load, limits)
            if fitting == 0 and taken:
                break
            head, rest = _split(self.parts.pop(0), max(fitting, 1))
            taken.append(head)
            load = load + head.loads.sum(axis=1)
            if rest is not None:
                self.parts.insert(0, rest)
                break
        self.load = np.sum([part.loads.sum(axis=1) for part in self.parts], axis=0) if self.parts else np.zeros(4)
        return _Part(joined([part.rows for part in taken]), np.concatenate([part.loads for part in taken], axis=1))


def _cut(batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
    groups: dict[Shape, _Group] = {}
    chunks = 0
    for batch in batches:
        for shape, rows in _by_shape(batch):
            groups.setdefault(shape, _Group()).add(Rows(rows))
        while (due := _due(groups, _limits(chunks))) is not None:
            if (rows := _taken(groups, due, _limits(chunks))) is not None:
                yield rows
                chunks += 1
    for group in groups.values():
        group.compact()
    while groups:
        left = float(_waiting(groups)[[JOBS, SECONDS]].max())
        limits = _limits(chunks, min(max(left / 2, LAST_CHUNK_SHARE), 1.0))
        if (rows := _taken(groups, _fullest(groups, limits), limits)) is not None:
            yield rows
            chunks += 1


def _limits(chunks: int, share: float = 1.0) -> Loads:
    """What the next chunk may hold after so many: a share of the work, less of the jobs at the beginning, any payload."""
    limits = np.ones(4)
    limits[JOBS] = min(FIRST_CHUNK_SHARE * GROWTH ** min(chunks, 16), share)
    limits[SECONDS] = share
    return limits


def _due(groups: dict[Shape, _Group], limits: Loads) -> Shape | None:
    """The group that is to be cut now: it holds two chunks, or all of them together hold too much."""
    if not groups:
        return None
    fullest = _fullest(groups, limits)
    full = (groups[fullest].load / limits).max() > 2 or _waiting(groups).max() > MAX_WAITING_CHUNKS
    return fullest if full else None


def _fullest(groups: dict[Shape, _Group], limits: Loads) -> Shape:
    return max(groups, key=lambda shape: float((groups[shape].load / limits).max()))


def _waiting(groups: dict[Shape, _Group]) -> Loads:
    return np.asarray(np.sum([group.load for group in groups.values()], axis=0))


def _taken(groups: dict[Shape, _Group], shape: Shape, limits: Loads) -> Rows | None:
    rows = groups[shape].take(limits)
    if not groups[shape].parts:
        del groups[shape]
    return rows


def _fitting(part: Loads, load: Loads, limits: Loads) -> int:
    """How many rows of a part still fit, when so much is taken already."""
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
    return _Part(head, loads(head)), _Part(rest, loads(rest))


def _by_shape(batch: pa.RecordBatch) -> Iterator[tuple[Shape, pa.RecordBatch]]:
    """The rows of `batch` by shape, in their order."""
    columns = [*(batch[name] for name in SHAPE_COLUMNS), pc.is_valid(batch["polynomial"])]
    coded = [column.dictionary_encode() for column in columns]
    codes = np.zeros(len(batch), dtype=np.int64)
    for column in (column for column in coded if len(column.dictionary) > 1):
        # Numbered anew each time, so that the product of all dictionaries does not matter.
        codes = np.unique(codes * len(column.dictionary) + column.indices.to_numpy(), return_inverse=True)[1]
    shapes = np.unique(codes, return_index=True)[1] if codes.any() else [0]
    for number, row in enumerate(shapes):
        rows = batch if len(shapes) == 1 else batch.take(pa.array(np.flatnonzero(codes == number)))
        yield tuple(column[int(row)].as_py() for column in columns), rows
