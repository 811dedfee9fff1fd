"""Writes a frame of each kind as this version of fitq makes it: python tests/data/frames/write.py

Run it when FRAME_VERSION rises, and keep the files of the version before: `decode` reads both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from fitq_shared.jobs.frames import encode, jobs_batch
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.schemas import FRAME_VERSION, RESULT_SCHEMA, SETS_SCHEMA, TRACE_SCHEMA

FOLDER = Path(__file__).parent
JOBS = [
    FitJob(id="line", x=[0.0, 1.0, 2.0], y=[1.0, 3.0, 5.5], weights=[1.0, 2.0, 1.0], degree=1, tags={"site": "A"}),
    FitJob(polynomial=[1.0, 2.0, 3.0], samples=Samples(count=7, noise=0.5), degree=2, loss="huber", seed=11),
]
RESULT: dict[str, Any] = {
    "index": 0,
    "id": "line",
    "status": "converged",
    "message": "a word to it",
    "coefficients": [2.25, 0.875],
    "domain": [0.0, 2.0],
    "loss": 0.03125,
    "steps": 1000,
    "optimizer": "nadam",
    "device": "cpu",
    "chunk": 3,
}
TRACE: dict[str, Any] = {
    "index": 0,
    "id": "line",
    "trace": "points:2",
    "steps": 1000,
    "made": 1000,
    "loss": [1.5, 1.0],
    "exponent": -5,
}


def batches() -> dict[str, pa.RecordBatch]:
    """The record batch of each kind."""
    return {
        "jobs": jobs_batch([job.checked() for job in JOBS]),
        "sets": pa.RecordBatch.from_pylist([{"x": [0.0, 1.0], "y": [1.0, 3.0], "weights": None}], SETS_SCHEMA),
        "results": pa.RecordBatch.from_pylist([RESULT], RESULT_SCHEMA),
        "traces": pa.RecordBatch.from_pylist([TRACE], TRACE_SCHEMA),
    }


if __name__ == "__main__":
    for kind, batch in batches().items():
        (FOLDER / f"{kind}-{FRAME_VERSION}.arrow").write_bytes(encode(batch))
