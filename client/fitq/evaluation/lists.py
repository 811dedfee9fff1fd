"""List columns as flat arrays and back, so that numpy works on the numbers of all rows at once."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq_shared.jobs.columns import list_lengths

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

_floats = pa.list_(pa.float64())


class Lists(NamedTuple):
    """A list of numbers for each of R rows; a row that has none is not `present` and counts as empty."""

    values: Floats  # (V,) of all rows one after the other, NaN where a number is missing
    lengths: Counts  # (R,)
    present: Mask  # (R,)

    @property
    def rows(self) -> Counts:
        """The row of each value, (V,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def places(self) -> Counts:
        """The place of each value in its list, from 0, (V,)."""
        return np.arange(len(self.values)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)

    def only(self, wanted: Mask) -> Lists:
        """The same with lists only in the rows that are `wanted`, (R,)."""
        return Lists(self.values[wanted[self.rows]], np.where(wanted, self.lengths, 0), self.present & wanted)

    def by_place(self) -> Floats:
        """The first number of each list, the second one and so on, (longest, R); 0 behind the end of a list."""
        table = np.zeros((self.lengths.max(initial=0), len(self.lengths)))
        table[self.places, self.rows] = self.values
        return table

    def column(self) -> pa.ListArray:
        """A column of lists of float64; a number that is not finite is null."""
        offsets = pa.array(np.concatenate([[0], np.cumsum(self.lengths)]), pa.int32())
        numbers = pa.array(self.values, mask=~np.isfinite(self.values))
        return pa.ListArray.from_arrays(offsets, numbers, type=_floats, mask=pa.array(~self.present))


def lists_of(column: pa.Array) -> Lists:
    """The lists of a column.

    Raises:
        pa.ArrowException: Arrow cannot cast it to lists of float64.
    """
    lists = column.cast(_floats, safe=False)  # which rounds whole numbers beyond 2^53
    lengths = list_lengths(lists)
    return Lists(numbers_of(lists.flatten()), lengths, np.asarray(lists.is_valid()))


def repeated(numbers: pa.Array, rows: int) -> Lists:
    """The same list in each of `rows` rows.

    Raises:
        pa.ArrowException: Arrow cannot cast `numbers` to float64.
    """
    values = numbers_of(numbers)
    return Lists(np.tile(values, rows), np.full(rows, len(values)), np.ones(rows, dtype=bool))


def numbers_of(column: pa.Array) -> Floats:
    """The numbers of a column, NaN where one is missing.

    Raises:
        pa.ArrowException: Arrow cannot cast it to float64.
    """
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column of a table or of a batch in one piece."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
