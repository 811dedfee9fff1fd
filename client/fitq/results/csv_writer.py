"""CSV: results with a column for each power of x (`c2`, `c1`, `c0`) and each tag (`tag.site`), traces with a row for each
recorded step.

Other lists become JSON text; numbers that are missing or not finite become empty cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from fitq.tags import tag_columns, tag_kinds
from fitq_shared.jobs.columns import list_lengths

Append: TypeAlias = Callable[[pa.RecordBatch], None]

#: List columns with one number for each power of x, highest first, and the prefix of their CSV columns.
_BY_POWER = {"coefficients": "c", "exact_coefficients": "exact_c", "stderr": "stderr_c"}


@contextmanager
def csv_writer(file: BinaryIO, schema: pa.Schema, facts: Mapping[str, object]) -> Iterator[Append]:
    """A function that appends batches of results or traces to `file`.

    The first line of results needs the highest degree and the tags of all, so results wait in a temporary file for the
    end of the block. Traces are written at once.
    """
    if "step" in schema.names:
        with _appending(file, _long(_none_of(schema)).schema) as append:
            yield lambda traces: append(_long(traces))
        return
    with tempfile.TemporaryFile() as waiting:
        powers, tags = dict.fromkeys(_BY_POWER, 0), dict[str, pa.DataType]()
        with pa.ipc.new_stream(waiting, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:

            def keep(results: pa.RecordBatch) -> None:
                nonlocal tags
                stream.write_batch(results)
                for name in powers.keys() & set(schema.names):
                    powers[name] = max(powers[name], int(list_lengths(results[name]).max(initial=0)))
                if "tags" in schema.names:
                    tags = tag_kinds(results["tags"], tags)

            yield keep
        waiting.seek(0)
        with _appending(file, _wide(_none_of(schema), powers, tags).schema) as append:
            for results in pa.ipc.open_stream(waiting):
                append(_wide(results, powers, tags))


@contextmanager
def _appending(file: BinaryIO, schema: pa.Schema) -> Iterator[Append]:
    with csv.CSVWriter(file, schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer:
        yield lambda batch: writer.write_batch(_finite(batch))


def _none_of(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)


def _long(traces: pa.RecordBatch) -> pa.RecordBatch:
    """One row for each recorded step."""
    rows = pc.list_parent_indices(traces["loss"])
    lists = {name: pc.list_flatten(traces[name]) for name in ("step", "loss")}
    return pa.record_batch({"index": traces["index"].take(rows), "id": traces["id"].take(rows), **lists})


def _wide(results: pa.RecordBatch, powers: Mapping[str, int], tags: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """Lists by power as one column for each of `powers` powers, each of `tags` as one, other lists as JSON text."""
    columns: dict[str, pa.Array] = {}
    for field, column in zip(results.schema, results.columns, strict=True):
        if field.name in _BY_POWER:
            columns |= _by_power(column, _BY_POWER[field.name], powers[field.name])
        elif field.name == "tags":
            columns |= {f"tag.{name}": values for name, values in tag_columns(column, tags).items()}
        elif pa.types.is_list(field.type):
            columns[field.name] = pa.array([None if row is None else _json(row) for row in column.to_pylist()], pa.string())
        else:
            columns[field.name] = column
    return pa.record_batch(columns)


def _by_power(lists: pa.ListArray, prefix: str, powers: int) -> dict[str, pa.Array]:
    """Columns from the highest power down to 0; a row of lower degree leaves the higher ones empty."""
    lengths = list_lengths(lists)
    row = np.repeat(np.arange(len(lists)), lengths)  # a null may stand over values, which flattening leaves out
    power = lengths[row] - 1 - (np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row])
    table = np.full((powers, len(lists)), np.nan)
    table[power, row] = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    return {f"{prefix}{number}": pa.array(table[number]) for number in reversed(range(powers))}


def _json(row: list[float | None]) -> str:
    return msgspec.json.encode(row).decode()


def _finite(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Numbers that are not finite become null."""
    columns = [
        pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        if pa.types.is_floating(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
