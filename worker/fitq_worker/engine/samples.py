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

from fitq_shared.frames import sample_counts
from fitq_shared.sampling import draw_samples

Floats = NDArray[np.float64]

#: Samples in one tile: bounds its memory, and on the CPU keeps its arrays in the cache of a core.
TILE_SAMPLES = {"cpu": 1 << 18, "cuda": 1 << 25}
#: Beyond this magnitude the squares that the loss sums may leave the range of float64.
MAX_MAGNITUDE = 1e150


class Samples(NamedTuple):
    """Sample sets of B jobs, padded to N points; float64.

    A point of weight 0 does not count: padding, or dropped by the job itself. Invalid sample sets hold zeros only.
    """

    x: Tensor  # (N, B)
    y: Tensor  # (N, B)
    weights: Tensor  # (N, B)
    invalid: Tensor  # (B,) bool


class Tile(NamedTuple):
    """Some jobs of a frame, where they stand in it, and their sample sets."""

    rows: NDArray[np.int64]
    jobs: pa.RecordBatch
    samples: Samples


def sample_tiles(jobs: pa.RecordBatch, device: torch.device) -> Iterator[Tile]:
    """The jobs in tiles of similar numbers of samples, each at most TILE_SAMPLES (or one job)."""
    lengths, restarts = sample_counts(jobs), numbers(jobs["restarts"])
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        width = _tile_width(lengths[order[start:]], restarts[order[start:]], TILE_SAMPLES[device.type])
        rows = order[start : start + width]
        neighbours = rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all()  # the usual frame, spared a copy
        taken = jobs.slice(rows[0], len(rows)) if neighbours else jobs.take(pa.array(rows))
        yield Tile(rows, taken, _screened(*_padded(taken, lengths[rows]), device))
        start += width


def _tile_width(lengths: NDArray[np.int64], restarts: NDArray[np.int32], samples: int) -> int:
    """How many of the jobs, sorted by length, fit one tile when padded to the longest of them, once for each restart."""
    size = np.maximum(lengths, 1) * np.cumsum(restarts, dtype=np.int64)
    wasteful = lengths > 2 * np.maximum(lengths[0], 8)
    return max(1, int(np.count_nonzero((size <= samples) & ~wasteful)))


def _padded(jobs: pa.RecordBatch, lengths: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """x, y and weights of shape (B, N); generated where the job has a polynomial."""
    width = max(1, int(lengths.max()))
    inside = np.arange(width) < lengths[:, None]
    x, y, weights = (ragged(jobs[name], width) for name in ("x", "y", "weights"))
    np.copyto(weights, inside, where=np.asarray(jobs["weights"].is_null())[:, None])
    generated = np.flatnonzero(np.asarray(jobs["x"].is_null()))
    if len(generated):
        drawn_x, drawn_y = _drawn(jobs.take(pa.array(generated)), width)
        x[generated], y[generated] = drawn_x * inside[generated], drawn_y * inside[generated]
    return x, y, weights


def _drawn(jobs: pa.RecordBatch, count: int) -> tuple[Floats, Floats]:
    """Generated samples of shape (B, count); a job that asks for fewer gets the first of them."""
    polynomials = jobs["polynomial"]
    length = int(pc.max(pc.list_value_length(polynomials)).as_py())
    highest_first = ragged(polynomials, length, align_right=True).T
    seeds, spread, noise = (numbers(jobs[name]) for name in ("samples_seed", "spread", "noise"))
    x, y = draw_samples(highest_first, seeds.astype(np.int64), spread, noise, count)
    return x.T, y.T


def ragged(lists: pa.ListArray, width: int, *, align_right: bool = False) -> Floats:
    """A list column as a new array of shape (B, width), padded with zeros; missing values become NaN."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if (lengths == width).all():  # the usual frame
        return np.array(values, dtype=np.float64).reshape(-1, width)
    padded = np.zeros((len(lists), width))
    if len(values):
        positions = np.arange(width)
        padded[positions >= width - lengths[:, None] if align_right else positions < lengths[:, None]] = values
    return padded


def numbers(column: pa.Array) -> NDArray[Any]:
    """A numeric column without missing values as an array."""
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _screened(x: Floats, y: Floats, weights: Floats, device: torch.device) -> Samples:
    """Replace sample sets that cannot be computed with by zeros, so that no NaN ever enters the batch."""
    ranges = ((x, -MAX_MAGNITUDE), (y, -MAX_MAGNITUDE), (weights, 0.0))
    valid = np.ones(len(x), dtype=bool)
    if not all(values.min() >= lowest and values.max() <= MAX_MAGNITUDE for values, lowest in ranges):
        for values, lowest in ranges:
            valid &= ((values >= lowest) & (values <= MAX_MAGNITUDE)).all(axis=1)
        for values, _ in ranges:
            values[~valid] = 0.0
    by_point = [torch.from_numpy(values).to(device).T for values in (x, y, weights)]
    return Samples(by_point[0], by_point[1], by_point[2], torch.from_numpy(~valid).to(device))
