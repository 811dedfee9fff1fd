"""The frames of a tile, whatever a single fit in it does: what cannot be put into a row costs that row alone."""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa

from fitq_shared.jobs.schemas import RESULT_SCHEMA, TRACE_SCHEMA, Status
from fitq_worker.engine.descent.traces import Traces
from fitq_worker.engine.outcome.results import Outcome, build_frames
from fitq_worker.engine.trees import take

log = logging.getLogger(__name__)


def make_frames(outcome: Outcome, traces: Traces, device: str) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Results and traces of a tile. Where that raises, the guilty fits are found by halving and become `error`."""
    try:
        return build_frames(outcome, traces, device)
    except Exception as error:
        jobs = outcome.tile.jobs
        if len(jobs) == 1:
            log.exception("job %s: its result could not be put together", jobs["id"][0])
            message = f"its result could not be put together: {type(error).__name__}: {error}"
            return error_results(jobs, message, device), empty_traces(jobs if len(traces.losses) else jobs.slice(0, 0))
    middle = len(jobs) // 2
    halves = [make_frames(*_part(outcome, traces, part), device) for part in (slice(middle), slice(middle, None))]
    results, kept = (pa.concat_batches(both) for both in zip(*halves, strict=True))
    return results, kept


def error_results(jobs: pa.RecordBatch, message: str, device: str) -> pa.RecordBatch:
    """Results that say `message` of every job."""
    known: dict[str, Any] = {
        "index": jobs["index"],
        "id": jobs["id"],
        "status": [Status.ERROR] * len(jobs),
        "message": [message] * len(jobs),
        "seed": jobs["seed"],
        "tags": jobs["tags"],
        "device": [device] * len(jobs),
    }
    columns = [pa.array(known.get(field.name, [None] * len(jobs)), field.type) for field in RESULT_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=RESULT_SCHEMA)


def empty_traces(jobs: pa.RecordBatch) -> pa.RecordBatch:
    """Traces without losses."""
    nothing = {"made": [0] * len(jobs), "loss": [None] * len(jobs), "exponent": [0] * len(jobs)}
    columns = [
        pa.array(nothing[field.name], field.type) if field.name in nothing else jobs[field.name] for field in TRACE_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TRACE_SCHEMA)


def _part(outcome: Outcome, traces: Traces, rows: slice) -> tuple[Outcome, Traces]:
    reduced, objective, ended = take((outcome.reduced, outcome.objective, outcome.ended), rows)
    return Outcome(outcome.tile.part(rows), reduced, objective, ended, outcome.path), Traces(
        traces.losses[:, rows], traces.exponent[rows]
    )
