"""Arrow IPC, files and streams (Feather is one): one job a row, the columns named like the fields of FitJob."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from fitq.readers.columnar import field_names, from_tables
from fitq.readers.files import empty_file, open_input, row_of, translate_errors
from fitq.readers.instructions import NO_INSTRUCTIONS, Instructions

_FILE_MAGIC = b"ARROW1"


def from_arrow(
    path: str | Path, defaults: Mapping[str, object] | None = None, instructions: Instructions = NO_INSTRUCTIONS
) -> Iterator[pa.RecordBatch]:
    """Jobs of an Arrow IPC file or stream; `defaults` fill the fields a row does not give (null).

    Raises:
        FileError: missing, unreadable, without a row, or no Arrow IPC.
        InputError: a column is no field of FitJob and no tag.
        JobError: the first row that is no job, as `file:row N`, from 1.
    """
    return from_tables(_batches(path, instructions), row_of(path), defaults, instructions)


def _batches(path: str | Path, instructions: Instructions) -> Iterator[pa.RecordBatch]:
    with open_input(path) as file:
        is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    rows = 0
    # Mapped, because a batch may be the whole file.
    with translate_errors(path, "Arrow IPC file"), pa.memory_map(str(path)) as mapped:
        for batch in _file(mapped) if is_file else pa.ipc.open_stream(mapped):
            batch = batch.select(field_names(str(path), batch.schema.names, instructions))
            batch.validate(full=True)
            rows += batch.num_rows
            yield batch
    if rows == 0:
        raise empty_file(path, "one job a row")


def _file(mapped: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    batches = pa.ipc.open_file(mapped)
    for number in range(batches.num_record_batches):
        yield batches.get_batch(number)
