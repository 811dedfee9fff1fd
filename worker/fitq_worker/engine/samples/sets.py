"""Sample sets of a batch of jobs, explicit or generated, as padded arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.errors import FrameError
from fitq_shared.jobs.columns import list_lengths
from fitq_shared.jobs.frames import sample_counts
from fitq_shared.jobs.points import MAX_MAGNITUDE
from fitq_shared.jobs.sampling import draw_samples

Floats = NDArray[np.float64]

#: Samples in one tile: bounds its memory, and on the CPU keeps its arrays in the cache of a core.
TILE_SAMPLES = {"cpu": 1 << 18, "cuda": 1 << 25}
#: What a fit takes up apart from its samples, counted in samples.
FIT_SAMPLES = 32
#: Columns of a job that say what its samples are.
_SAMPLE_COLUMNS = ["x", "y", "weights", "polynomial", "count", "spread", "noise", "samples_seed", "missing"]


class SampleSets(NamedTuple):
    """S sample sets, one after the other as they come in a frame; float64 and not checked."""

    offsets: NDArray[np.int64]  # (S + 1,)
    x: Floats
    y: Floats
    weights: Floats | None  # None is all ones


class PaddedSamples(NamedTuple):
    """Sample sets of B fits, padded to N points; float64.

    A point of weight 0 does not count and has x and y 0: padding, or dropped by the job itself. Invalid sample sets hold
    zeros only.
    """

    x: Tensor  # (N, B)
    y: Tensor  # (N, B)
    weights: Tensor  # (N, B)
    invalid: Tensor  # (B,) bool


class Tile(NamedTuple):
    """Some jobs of a batch, their rows in it, and their sample sets."""

    rows: NDArray[np.int64]
    jobs: pa.RecordBatch
    sets: SampleSets
    #: (B,) the set of each job; None where each has its own, in the same order.
    set_of: NDArray[np.int64] | None

    @property
    def given(self) -> NDArray[np.int64]:
        """Number of samples of each job, (B,)."""
        counts = np.diff(self.sets.offsets)
        return counts if self.set_of is None else counts[self.set_of]

    def part(self, rows: slice) -> Tile:
        """Some neighbours among the jobs."""
        set_of = np.arange(len(self.jobs)) if self.set_of is None else self.set_of
        start, stop, _ = rows.indices(len(self.jobs))
        return Tile(self.rows[rows], self.jobs.slice(start, stop - start), self.sets, set_of[rows])


def cut_tiles(jobs: pa.RecordBatch, sets: pa.RecordBatch | None, device: torch.device, *, pads: bool) -> Iterator[Tile]:
    """The jobs in tiles of at most TILE_SAMPLES (or one job), of similar numbers of samples if they get padded."""
    restarts = numbers(jobs["restarts"])
    lengths = sample_counts(jobs, sets) if pads else np.full(len(jobs), FIT_SAMPLES)
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        width = _tile_width(lengths[order[start:]], restarts[order[start:]], TILE_SAMPLES[device.type])
        rows = order[start : start + width]
        neighbours = rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all()  # the usual frame, spared a copy
        chosen = jobs.slice(rows[0], len(rows)) if neighbours else jobs.take(pa.array(rows))
        yield Tile(rows, chosen, *tile_sets(chosen, sets))
        start += width


def _tile_width(lengths: NDArray[np.int64], restarts: NDArray[np.int32], samples: int) -> int:
    """How many of the jobs, sorted by length, fit one tile when padded to the longest of them, once for each restart."""
    size = np.maximum(lengths, 1) * np.cumsum(restarts, dtype=np.int64)
    wasteful = lengths > 2 * np.maximum(lengths[0], 8)
    return max(1, int(np.count_nonzero((size <= samples) & ~wasteful)))


def tile_sets(jobs: pa.RecordBatch, sets: pa.RecordBatch | None) -> tuple[SampleSets, NDArray[np.int64] | None]:
    """The sample sets of the jobs, shared ones once, and the set of each job; None where each has its own."""
    inline = np.asarray(jobs["sample_set"].is_null())
    if sets is None or inline.all():
        return sample_sets(jobs), None
    # One set can be two: with its missing points, and without.
    wanted, drops = numbers(jobs["sample_set"].drop_null()).astype(np.int64), _drops(jobs)[~inline]
    used, index_of_shared = np.unique(2 * wanted + drops, return_inverse=True)
    missing = pa.array(["invalid", "drop"]).take(pa.array(used % 2))
    # Sets that are shared are like jobs with nothing but samples, behind the jobs that have their own.
    alone = pa.Table.from_batches([jobs.filter(pa.array(inline))]).select(_SAMPLE_COLUMNS)
    shared = pa.Table.from_batches([sets.take(pa.array(used // 2))]).append_column("missing", missing)
    (rows,) = pa.concat_tables([alone, shared], promote_options="default").combine_chunks().to_batches()
    set_of = np.empty(len(jobs), dtype=np.int64)
    set_of[inline], set_of[~inline] = np.arange(inline.sum()), inline.sum() + index_of_shared
    return sample_sets(rows), set_of


def sample_sets(jobs: pa.RecordBatch) -> SampleSets:
    """The sample sets of the jobs, one each, generated where the job has a polynomial.

    Raises:
        FrameError: a job has different numbers of x, y and weights.
    """
    counts = sample_counts(jobs)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    inline, weighted = np.asarray(jobs["x"].is_valid()), np.asarray(jobs["weights"].is_valid())
    for name, given in (("x", inline), ("y", inline), ("weights", weighted)):
        if not np.array_equal(list_lengths(jobs[name]), np.where(given, counts, 0)):
            raise FrameError(f"a job of the frame has a number of {name} that is not that of its samples; submit it again")
    x, y, weights = (flat(jobs[name]) for name in ("x", "y", "weights"))
    if weighted.any():
        weights = _fill(np.ones(offsets[-1]), np.repeat(weighted, counts), weights)
    if not inline.all():
        drawn_x, drawn_y = _draw(jobs.filter(pa.array(~inline)), counts[~inline])
        given = np.repeat(inline, counts)
        x, y = (_fill(_fill(np.empty(offsets[-1]), given, a), ~given, b) for a, b in ((x, drawn_x), (y, drawn_y)))
    found = SampleSets(offsets, x, y, weights if weighted.any() else None)
    drops = _drops(jobs)
    return _drop_missing(found, np.repeat(drops, counts)) if drops.any() else found


def _drops(jobs: pa.RecordBatch) -> NDArray[np.bool_]:
    """The jobs, (B,), whose points with a missing value are left out."""
    return np.asarray(pc.equal(jobs["missing"], "drop"))


def _drop_missing(sets: SampleSets, here: NDArray[np.bool_]) -> SampleSets:
    """Give points with a missing value the weight 0, where `here`, (N,), is true."""
    missing = here & (np.isnan(sets.x) | np.isnan(sets.y))
    if sets.weights is not None:
        missing |= here & np.isnan(sets.weights)
    weights = np.ones(len(sets.x)) if sets.weights is None else sets.weights
    return sets._replace(weights=np.where(missing, 0.0, weights)) if missing.any() else sets


def pad(sets: SampleSets, device: torch.device, set_of: NDArray[np.int64] | None = None) -> PaddedSamples:
    """The sample sets side by side, padded to the longest; those that cannot be computed with become zeros.

    `set_of` is the set of each fit, (B,); None is one each.
    """
    counts = np.diff(sets.offsets)
    width = max(1, int(counts.max()))
    inside = np.arange(width) < counts[:, None]
    given = (sets.x, sets.y, np.ones(len(sets.x)) if sets.weights is None else sets.weights)
    x, y, weights = (_fill(np.zeros(inside.shape), inside, values) for values in given)
    if set_of is not None:
        x, y, weights = x[set_of], y[set_of], weights[set_of]
    return _screen(x, y, weights, device)


def _fill(array: Floats, where: NDArray[np.bool_], values: Floats) -> Floats:
    array[where] = values
    return array


def _draw(jobs: pa.RecordBatch, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Generated sample sets, one after the other; jobs of about the same count are drawn together."""
    polynomials = jobs["polynomial"]
    highest_first = ragged(polynomials, int(list_lengths(polynomials).max()), align_right=True).T
    seeds, spread, noise = (numbers(jobs[name]) for name in ("samples_seed", "spread", "noise"))
    x, y = np.empty((2, counts.sum()))
    doublings = np.frexp(counts)[1]
    for size in np.unique(doublings):
        these = doublings == size
        most = int(counts[these].max())
        drawn = draw_samples(highest_first[:, these], seeds[these].astype(np.int64), spread[these], noise[these], most)
        # A job that asks for fewer than another gets the first of them.
        inside, where = np.arange(most) < counts[these, None], np.repeat(these, counts)
        x[where], y[where] = (values.T[inside] for values in drawn)
    return x, y


def ragged(lists: pa.ListArray, width: int, *, align_right: bool = False) -> Floats:
    """A list column as a new array of shape (B, width), padded with zeros; missing values become NaN."""
    lengths, positions = list_lengths(lists)[:, None], np.arange(width)
    inside = positions >= width - lengths if align_right else positions < lengths
    return _fill(np.zeros(inside.shape), inside, flat(lists))


def flat(lists: pa.ListArray) -> Floats:
    """The numbers of a list column, one list after the other; missing values become NaN."""
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)


def numbers(column: pa.Array) -> NDArray[Any]:
    """A numeric column without missing values as an array."""
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _screen(x: Floats, y: Floats, weights: Floats, device: torch.device) -> PaddedSamples:
    """Replace points of weight 0, and sample sets that cannot be computed with, by zeros: no NaN ever enters the batch.

    The arrays are overwritten.
    """
    no_point = weights == 0.0
    x[no_point] = y[no_point] = 0.0
    ranges = ((x, -MAX_MAGNITUDE), (y, -MAX_MAGNITUDE), (weights, 0.0))
    valid = np.ones(len(x), dtype=bool)
    if not all(values.min() >= lowest and values.max() <= MAX_MAGNITUDE for values, lowest in ranges):
        for values, lowest in ranges:
            valid &= ((values >= lowest) & (values <= MAX_MAGNITUDE)).all(axis=1)
        for values, _ in ranges:
            values[~valid] = 0.0
    by_point = [torch.from_numpy(values).to(device).T for values in (x, y, weights)]
    return PaddedSamples(by_point[0], by_point[1], by_point[2], torch.from_numpy(~valid).to(device))
