"""The planner: a stream of job batches becomes chunks, each of jobs that one tensor program can fit together.

Jobs are sorted into groups that agree in SHAPE_COLUMNS and in whether their samples are given or generated. A group is
cut into chunks by four loads, each a share of what a chunk may hold. Groups that are not full wait for more jobs, so
that shapes in random order still make large chunks; what waits in all of them is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq_shared.frames import SHAPE_COLUMNS, sample_counts
from fitq_shared.trace import recorded_counts

#: What a chunk holds at most (a single job may exceed it and then is a chunk of its own).
MAX_CHUNK_JOBS = 8192
MAX_CHUNK_SAMPLES_BYTES = 8 * 2**20
MAX_CHUNK_TRACES_BYTES = 32 * 2**20
MAX_CHUNK_SECONDS = 5.0
#: Predicted time of one step of one fit for each of its coefficients, on one core.
SECONDS_PER_COEFFICIENT_STEP = 1e-8
#: Jobs that wait in groups that are not full hold at most this many chunks' worth of any load.
MAX_WAITING_CHUNKS = 32.0

_BYTES_PER_SAMPLE = 24  # x, y and a weight, float64
_BYTES_PER_LOSS = 4  # float32

Loads: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = tuple[object, ...]


class Chunk(NamedTuple):
    """The jobs of one message."""

    number: int
    frame: pa.RecordBatch
    jobs: int


def plan(batches: Iterable[pa.RecordBatch]) -> Iterator[Chunk]:
    """Cut batches of JOB_SCHEMA into numbered chunks; every job is in exactly one, in the order of the input."""
    return (Chunk(number, frame, frame.num_rows) for number, frame in enumerate(_frames(batches)))


class _Group:
    """Jobs of one shape that wait to become a chunk."""

    def __init__(self) -> None:
        self.rows: list[pa.RecordBatch] = []
        self.load = np.zeros(4)

    def add(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Take in the rows of `batch`; yield a chunk whenever one is full."""
        loads = _loads(batch)
        while batch.num_rows:
            fitting = int(np.searchsorted((self.load + loads.cumsum(axis=0)).max(axis=1), 1.0, side="right"))
            if fitting == 0 and not self.rows:
                fitting = 1
            self._append(batch.slice(0, fitting), loads[:fitting])
            batch, loads = batch.slice(fitting), loads[fitting:]
            if batch.num_rows or self.load.max() >= 1.0:
                yield self.taken()

    def taken(self) -> pa.RecordBatch:
        """All waiting rows as one batch; none wait afterwards."""
        rows, self.rows, self.load = self.rows, [], np.zeros(4)
        return pa.concat_batches(rows)

    def _append(self, batch: pa.RecordBatch, loads: Loads) -> None:
        if batch.num_rows:
            self.rows.append(batch)
            self.load = self.load + loads.sum(axis=0)


def _frames(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    groups: dict[Shape, _Group] = {}
    for batch in batches:
        for shape, rows in _by_shape(batch):
            yield from groups.setdefault(shape, _Group()).add(rows)
        while np.sum([group.load for group in groups.values()], axis=0).max() > MAX_WAITING_CHUNKS:
            fullest = max(groups, key=lambda shape: groups[shape].load.max())
            yield groups.pop(fullest).taken()
    yield from (group.taken() for group in groups.values() if group.rows)


def _by_shape(batch: pa.RecordBatch) -> Iterator[tuple[Shape, pa.RecordBatch]]:
    """The rows of `batch` by shape, in their order."""
    columns = [*(batch[name] for name in SHAPE_COLUMNS), pc.is_valid(batch["polynomial"])]
    coded = [column.dictionary_encode() for column in columns]
    codes = np.stack([column.indices.to_numpy() for column in coded], axis=1)
    shapes, first, inverse = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    for number, row in enumerate(first.tolist()):
        rows = batch if len(shapes) == 1 else batch.take(np.flatnonzero(inverse == number))
        yield tuple(column[row].as_py() for column in columns), rows


def _loads(batch: pa.RecordBatch) -> Loads:
    """What each job takes of a chunk: shares of its jobs, sample bytes, trace bytes and seconds; shape (jobs, 4)."""
    samples = sample_counts(batch)
    steps = batch["steps"].to_numpy()
    losses = recorded_counts(batch["trace"][0].as_py(), steps)
    coefficients = batch["degree"].to_numpy() + 1
    shares = [
        np.full(len(steps), 1 / MAX_CHUNK_JOBS),
        samples * (_BYTES_PER_SAMPLE / MAX_CHUNK_SAMPLES_BYTES),
        losses * (_BYTES_PER_LOSS / MAX_CHUNK_TRACES_BYTES),
        steps * batch["restarts"].to_numpy() * (coefficients * (SECONDS_PER_COEFFICIENT_STEP / MAX_CHUNK_SECONDS)),
    ]
    return np.stack(shares, axis=1)
