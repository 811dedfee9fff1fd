"""Rows of a record batch as objects that msgspec encodes."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pyarrow as pa

#: Version of the layout of JSON documents.
JSON_SCHEMA = 1


def rows_of(batch: pa.RecordBatch) -> list[msgspec.Struct]:
    """The rows of a batch, with its columns as fields; tags, which are JSON text, go into the JSON as they are."""
    # Rows hold no cycles, and the garbage collector would spend more time looking for some than all else takes.
    row = msgspec.defstruct("Row", batch.schema.names, gc=False)
    columns = [_raw(batch[name]) if name == "tags" else _values(batch[name]) for name in batch.schema.names]
    return list(map(row, *columns))


def _raw(texts: pa.StringArray) -> list[msgspec.Raw | None]:
    if texts.null_count == len(texts):
        return [None] * len(texts)
    return [None if text is None else msgspec.Raw(text) for text in texts.to_pylist()]


def _values(column: pa.Array) -> list[Any]:
    """The same as `to_pylist`, without an Arrow scalar for each number."""
    if pa.types.is_list(column.type):
        ends = column.offsets.to_numpy()
        numbers = _values(column.values.slice(ends[0], ends[-1] - ends[0]))
        rows = [numbers[start:end] for start, end in itertools.pairwise((ends - ends[0]).tolist())]
        return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]
    if pa.types.is_dictionary(column.type):
        words = [*column.dictionary.to_pylist(), None]
        places = column.indices.cast(pa.int64()).fill_null(len(words) - 1)
        return list(map(words.__getitem__, _values(places)))
    if column.null_count or not pa.types.is_primitive(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    return column.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
