"""Columns of record batches: what several modules ask of them and do to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Lengths: TypeAlias = NDArray[np.int64]


def list_lengths(lists: pa.Array, missing: int = 0) -> Lengths:
    """Number of values of each list, `missing` where there is none; (rows,)."""
    if lists.null_count == len(lists):
        return np.full(len(lists), missing, dtype=np.int64)
    lengths = pc.list_value_length(lists)
    return np.asarray(pc.fill_null(lengths, missing) if lists.null_count else lengths, dtype=np.int64)


def replace_columns(batch: pa.RecordBatch, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """A batch of the same schema with some of its columns exchanged."""
    arrays = [columns.get(name, batch[name]) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def repeats_one_word(column: pa.Array) -> bool:
    """Whether a column of text says the same ASCII word in every row: a look at its bytes, a tenth of the work of Arrow's.

    False may also mean that it is not known.
    """
    if not pa.types.is_string(column.type) or not len(column) or column.null_count:
        return False
    _, offsets, text = column.buffers()
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset)
    length = int(ends[1]) - int(ends[0])
    if length < 1 or not (np.diff(ends) == length).all():
        return False
    words = memoryview(text)[ends[0] : ends[-1]].tobytes()
    return words[:length].isascii() and words == words[:length] * len(column)
