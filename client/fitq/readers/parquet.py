"""Parquet: one job a row, the columns named like the fields of FitJob (`samples` is a struct); null means not given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from fitq.readers.batches import BATCH_SAMPLES
from fitq.readers.columnar import BATCH_ROWS, field_names, from_tables
from fitq.readers.files import empty_file, open_input, row_of, translate_errors
from fitq.readers.instructions import NO_INSTRUCTIONS, Instructions

#: Columns are read in pieces of this size instead of whole, for row groups may be of any size.
_BUFFER_BYTES = 2**18


def from_parquet(
    path: str | Path, defaults: Mapping[str, object] | None = None, instructions: Instructions = NO_INSTRUCTIONS
) -> Iterator[pa.RecordBatch]:
    """Jobs of a Parquet file, which is never held whole; `defaults` fill the fields a row does not give.

    Raises:
        FileError: missing, unreadable, without a row, or no Parquet.
        InputError: a column is no field of FitJob and no tag.
        JobError: the first row that is no job, as `file:row N`, from 1.
    """
    return from_tables(_batches(path, instructions), row_of(path), defaults, instructions)


def _batches(path: str | Path, instructions: Instructions) -> Iterator[pa.RecordBatch]:
    with open_input(path) as file, translate_errors(path, "Parquet file"):
        table = parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        if table.metadata.num_rows == 0:
            raise empty_file(path, "one job a row")
        names = field_names(str(path), table.schema_arrow.names, instructions)
        for group in range(table.num_row_groups):
            # Raises where what is said of a column is damaged; to ask for it would end the process.
            next(table.iter_batches(1, row_groups=[group]), None)
            rows = _rows_at_once(table.metadata.row_group(group))
            for batch in table.iter_batches(rows, row_groups=[group], columns=names):
                batch.validate(full=True)  # text may be no UTF-8
                yield batch


def _rows_at_once(group: parquet.RowGroupMetaData) -> int:
    """How many rows of a row group make a batch, by its number of samples."""
    values = max((group.column(number).num_values for number in range(group.num_columns)), default=0)
    return max(1, min(BATCH_ROWS, BATCH_SAMPLES * int(group.num_rows) // max(values, 1)))
