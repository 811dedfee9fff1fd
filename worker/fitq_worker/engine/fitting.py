"""`fit`: a batch of jobs in, batches of results and traces out. It knows nothing of queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from fitq_worker.engine.native.kernels import CodePath
from fitq_worker.engine.outcome.framing import make_frames
from fitq_worker.engine.plan import make_plan
from fitq_worker.engine.samples.sets import cut_tiles, numbers
from fitq_worker.engine.tile import fit_tile


class Fitted(NamedTuple):
    """Record batches of RESULT_SCHEMA and TRACE_SCHEMA, rows in the order of the jobs; `chunk` is left null."""

    results: pa.RecordBatch
    traces: pa.RecordBatch


def fit(
    jobs: pa.RecordBatch,
    device: str = "cpu",
    *,
    sets: pa.RecordBatch | None = None,
    path: CodePath = "auto",
    on_block: Callable[[], None] | None = None,
) -> Fitted:
    """Fit all jobs of a batch as one tensor program.

    Args:
        jobs: a record batch of JOB_SCHEMA whose rows agree in its SHAPE_COLUMNS.
        device: "cpu" or "cuda:N".
        sets: a record batch of SETS_SCHEMA, the sample sets that jobs refer to by `sample_set`; each is reduced once.
        path: "compiled" uses native code and builds it first where it is missing, about a second for each kernel; "eager"
            never does; "auto" uses what is there, and has what is missing built in the background when the work is large.
            The results are the same to the last bit.
        on_block: called between blocks of steps; what it raises ends the fit.

    A fit that fails is a row with its status and message; nothing is raised for it.
    """
    torch_device = torch.device(device)
    name = "cpu" if torch_device.type == "cpu" else f"{torch_device} {torch.cuda.get_device_name(torch_device)}"
    rows, results, traces = [], [], []
    for group in _by_penalty(jobs):
        some = jobs if len(group) == len(jobs) else jobs.take(pa.array(group))
        plan = make_plan(some, torch_device, path, on_block or _do_nothing)
        for tile in cut_tiles(some, sets, torch_device, pads=plan.pads):
            rows.append(group[tile.rows])
            tile_results, tile_traces = make_frames(*fit_tile(tile, plan), name)
            results.append(tile_results)
            traces.append(tile_traces)
    back = np.argsort(np.concatenate(rows))
    return Fitted(_in_order(results, back), _in_order(traces, back))


def _by_penalty(jobs: pa.RecordBatch) -> list[NDArray[np.int64]]:
    """Rows of the jobs without and with a ridge: a ridge makes the least-squares system triangular."""
    has_ridge = numbers(jobs["ridge"]) > 0
    return [rows for rows in (np.flatnonzero(~has_ridge), np.flatnonzero(has_ridge)) if len(rows)]


def _in_order(batches: list[pa.RecordBatch], back: NDArray[np.int64]) -> pa.RecordBatch:
    """The batches of all tiles as one, rows in the order of the jobs; without any rows it stays so."""
    whole = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    ordered = not len(whole) or (np.diff(back) > 0).all()
    return whole if ordered else whole.take(pa.array(back))


def _do_nothing() -> None:
    """Default of `on_block`."""
