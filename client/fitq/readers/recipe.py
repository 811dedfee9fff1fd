"""Jobs from a recipe: the same polynomial under consecutive seeds, drawn by the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq.readers.batches import BATCH_JOBS
from fitq_shared.errors import JobError
from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import Samples, job_from_mapping

#: Points that the jobs of one recipe have together.
MAX_GENERATED_POINTS = 10**10
_LARGEST_SEED = 2**63 - 1


def from_recipe(
    polynomial: Sequence[float],
    count: int,
    samples: Samples | None = None,
    seed: int = 0,
    defaults: Mapping[str, object] | None = None,
) -> Iterator[pa.RecordBatch]:
    """`count` jobs on sample sets of `polynomial` (highest power first); job i has seed `seed` + i.

    Raises:
        JobError: a value breaks a rule of FitJob.
    """
    recipe = {"polynomial": list(polynomial), "samples": msgspec.to_builtins(samples or Samples()), "seed": seed}
    template = jobs_batch([job_from_mapping({**(defaults or {}), **recipe}, "generated jobs")])
    points = count * template["count"][0].as_py()
    if points > MAX_GENERATED_POINTS:
        rule = (
            f"{points:,} points in all; at most {MAX_GENERATED_POINTS:,} in one submission: lower the count or the samples"
        )
        raise JobError(rule, field="count", value=count)
    if count < 1 or seed > _LARGEST_SEED - count:
        raise JobError("expected a count of at least 1 and seeds below 2^63", field="count", value=count)
    return (
        _number(template, np.arange(first, min(first + BATCH_JOBS, count)), seed) for first in range(0, count, BATCH_JOBS)
    )


def _number(template: pa.RecordBatch, positions: NDArray[np.int64], seed: int) -> pa.RecordBatch:
    """Copies of the one job in `template`, one for each position."""
    batch = template.take(np.zeros(len(positions), dtype=np.int64))
    columns = {"index": pa.array(positions), "id": pa.array(positions.astype(str)), "seed": pa.array(positions + seed)}
    if template["samples_seed"].to_pylist() == template["seed"].to_pylist():
        columns["samples_seed"] = columns["seed"]
    return replace_columns(batch, columns)
