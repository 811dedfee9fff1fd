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
    return np.asarray(pc.fill_null(pc.list_value_length(lists), missing), dtype=np.int64)


def replace_columns(batch: pa.RecordBatch, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """A batch of the same schema with some of its columns exchanged."""
    arrays = [columns.get(name, batch[name]) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
