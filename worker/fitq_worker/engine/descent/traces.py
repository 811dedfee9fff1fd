"""Traces: which losses a batch records, in which units they are kept, and the frame they go into."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.jobs.schemas import TRACE_SCHEMA
from fitq_shared.jobs.trace import recorded_counts, recorded_steps
from fitq_worker.engine.samples.sets import numbers


class Traces(NamedTuple):
    """The losses that B fits recorded, T of them at most; a loss in units of y is losses * 2^exponent."""

    losses: Tensor  # (T, B) float32
    exponent: NDArray[np.int16]  # (B,)

    def take(self, fits: NDArray[np.int64]) -> Traces:
        """The traces of some fits."""
        return Traces(self.losses[:, torch.from_numpy(fits).to(self.losses.device)], self.exponent[fits])


def scale(losses: Tensor, unit: Tensor) -> Traces:
    """The losses (T, B) of a descent, times `unit`, (B,) float64, so that the first of each fit is about 1; in place."""
    units = unit.cpu().numpy()
    first = losses[0].double().cpu().numpy() * units if len(losses) else units
    usual = np.isfinite(first) & (first > 0)
    _, exponent = np.frexp(np.where(usual, first, units))
    factor = torch.from_numpy(np.ldexp(units, -exponent)).to(losses)
    return Traces(losses.mul_(factor).float(), exponent.astype(np.int16))


def join_traces(parts: list[Traces]) -> Traces:
    """Traces of tiles next to each other, padded with NaN to the longest."""
    longest = max(len(part.losses) for part in parts)
    losses = [part.losses for part in parts]
    if any(len(part) < longest for part in losses):
        losses = [torch.nn.functional.pad(part, (0, 0, 0, longest - len(part)), value=torch.nan) for part in losses]
    return Traces(torch.cat(losses, dim=1), np.concatenate([part.exponent for part in parts]))


def no_traces(jobs: int) -> Traces:
    """The traces of fits that were not descended."""
    return Traces(torch.empty(0, jobs), np.zeros(jobs, dtype=np.int16))


def find_recorded(trace: str, steps: NDArray[np.int32]) -> tuple[list[int], NDArray[np.int64] | None]:
    """The steps that any fit records and, unless all record the same, the index of each fit's own among them, (T, B).

    Fits with shorter traces repeat their last entry.
    """
    limits, fit_limit = np.unique(steps, return_inverse=True)
    schedules = [recorded_steps(trace, int(limit)) for limit in limits]
    union = np.unique(np.concatenate(schedules))
    if len(schedules) == 1 or not len(union):
        return union.tolist(), None
    longest = max(map(len, schedules))
    table = np.stack([np.pad(schedule, (0, longest - len(schedule)), mode="edge") for schedule in schedules], axis=1)
    return union.tolist(), np.searchsorted(union, table)[:, fit_limit]


def trace_frame(
    jobs: pa.RecordBatch,
    traces: Traces,
    made: NDArray[np.int32],
    final: NDArray[np.float64],
    descended: NDArray[np.bool_],
) -> pa.RecordBatch:
    """The traces, a record batch of TRACE_SCHEMA, no rows when none are kept.

    `made` are the steps of each fit, and `final`, (B,), its loss in units of y at the end, with which its trace ends. A fit
    that is not `descended`, (B,) bool, has a null in place of losses.
    """
    jobs = jobs if len(traces.losses) else jobs.slice(0, 0)
    rows = len(jobs)
    made, final, descended, exponent = made[:rows], final[:rows], descended[:rows], traces.exponent[:rows]
    # torch's transposition is five times as fast as numpy's
    by_fit = traces.losses.T[:rows].contiguous().cpu().numpy()
    lengths = recorded_counts(jobs["trace"][0].as_py(), numbers(jobs["steps"]), made) if rows else np.empty(0, np.int64)
    with np.errstate(over="ignore"):  # a loss that has diverged beyond float32 is null
        by_fit[np.arange(rows), lengths - 1] = np.ldexp(final, -exponent.astype(np.int32))
    lengths = np.where(descended, lengths, 0)
    full = (lengths == by_fit.shape[1]).all()
    values = by_fit.ravel() if full else by_fit[np.arange(by_fit.shape[1]) < lengths[:, None]]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, _nullable(values), mask=pa.array(~descended))
    columns = [jobs["index"], jobs["id"], jobs["trace"], jobs["steps"], pa.array(made), lists, pa.array(exponent)]
    return pa.RecordBatch.from_arrays(columns, schema=TRACE_SCHEMA)


def _nullable(values: NDArray[np.floating]) -> pa.Array:
    finite = np.isfinite(values)
    return pa.array(values) if finite.all() else pa.array(values, mask=~finite)
