"""What is submitted: the notebook's jobs as Parquet, as JSONL and as a recipe, written as columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from fitq.cli import options
from fitq.cli.submit import command

SAMPLES, DEGREE = 20, 2
_ROWS_AT_ONCE = 50_000


class Source(NamedTuple):
    """Jobs as a user hands them in."""

    name: str
    jobs: int
    #: Of `fitq submit`.
    arguments: tuple[str, ...]
    #: What is followed: results, traces.
    outputs: tuple[str, ...] = ("results", "traces")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The jobs as `fitq submit` reads them."""
        return options.jobs_from(command.make_context("submit", list(self.arguments)).params).jobs


def sources(jobs: int, folder: Path) -> list[Source]:
    """So many of the notebook's jobs (20 samples, degree 2, NAdam, 1000 steps, 100-point trace), one way after the other.

    The files are written to `folder`, once for each number of jobs.
    """
    rows, lines = folder / f"jobs-{jobs}.parquet", folder / f"jobs-{jobs}.jsonl"
    _write_parquet(rows, jobs)
    _write_jsonl(lines, jobs)
    recipe = ("--polynomial", "1,2,3", "--samples", str(SAMPLES), "--count", str(jobs))
    return [
        Source("Parquet", jobs, (str(rows),)),
        Source("Parquet, exact", jobs, (str(rows), "--optimizer", "exact"), ("results",)),
        Source("JSONL", jobs, (str(lines),)),
        Source("generated", jobs, recipe),
    ]


def samples_of(degree: int, samples: int, fits: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x ~ 5 N(0, 1) and the notebook's kind of polynomial of it, both (fits, samples)."""
    x = np.random.default_rng(seed).normal(size=(fits, samples)) * 5
    return x, np.polyval(np.arange(1.0, degree + 2), x)


def lists(values: NDArray[np.float64]) -> pa.ListArray:
    """The rows of a matrix as a list column."""
    rows, width = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), pa.array(values.ravel()))


def _columns(jobs: int) -> Iterator[pa.RecordBatch]:
    for first in range(0, jobs, _ROWS_AT_ONCE):
        numbers = np.arange(first, min(first + _ROWS_AT_ONCE, jobs))
        x, y = samples_of(DEGREE, SAMPLES, len(numbers), seed=first)
        ids = pa.array(np.char.add("job-", numbers.astype(str)))
        yield pa.RecordBatch.from_pydict({"id": ids, "x": lists(x), "y": lists(y), "seed": numbers})


def _write_parquet(path: Path, jobs: int) -> None:
    batches = _columns(jobs)
    first = next(batches)
    with parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _write_jsonl(path: Path, jobs: int) -> None:
    with path.open("wb") as file:
        for batch in _columns(jobs):
            x, y = (_json_lists(batch[name]) for name in ("x", "y"))
            seeds = batch["seed"].cast(pa.string())
            parts = ['{"id":"', batch["id"], '","x":[', x, '],"y":[', y, '],"seed":', seeds, "}\n"]
            # The text of a string column lies in one piece: the lines are there as a file has them.
            file.write(pc.binary_join_element_wise(*parts, "").buffers()[2])


def _json_lists(column: pa.ListArray) -> pa.StringArray:
    texts = pa.ListArray.from_arrays(column.offsets, column.flatten().cast(pa.string()))
    return pc.binary_join(texts, ",")
