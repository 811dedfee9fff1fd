"""Parquet: one job a row, the columns named like the fields of FitJob (`samples` is a struct); null means not given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from fitq.readers.batches import BATCH_JOBS, in_batches
from fitq.readers.files import empty, opened
from fitq_shared.errors import FileError, InputError
from fitq_shared.jobs import FitJob, job_from_mapping


def from_parquet(path: str | Path, defaults: Mapping[str, object] | None = None) -> Iterator[pa.RecordBatch]:
    """Jobs of a Parquet file; `defaults` fill the fields a row does not give.

    Raises:
        FileError: missing, unreadable, without a row, or no Parquet.
        InputError: a column is no field of FitJob.
        JobError: the first row that is no job, as `file:row N`, from 1.
    """

    def place(row: int) -> str:
        return f"{path}:row {row}"

    def jobs() -> Iterator[tuple[int, FitJob]]:
        with opened(path) as file:
            table = _opened_parquet(path, file)
            rows = (row for batch in table.iter_batches(BATCH_JOBS) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield number, job_from_mapping({**(defaults or {}), **_given(row)}, place(number))

    return in_batches(jobs(), place)


def _opened_parquet(path: str | Path, file: object) -> parquet.ParquetFile:
    try:
        table = parquet.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise FileError(f"{path} is no Parquet file that can be read: {error}") from None
    if table.metadata.num_rows == 0:
        raise empty(path, "one job a row")
    known = FitJob.__struct_fields__
    if unknown := [name for name in table.schema_arrow.names if name not in known]:
        raise InputError(f"{path}: {', '.join(unknown)}: no such field; known are {', '.join(known)}")
    return table


def _given(row: dict[str, object]) -> dict[str, object]:
    """The fields that are not null, inside the struct of `samples` too."""
    fields = {name: _given(value) if isinstance(value, dict) else value for name, value in row.items()}
    return {name: value for name, value in fields.items() if value is not None and value != {}}
