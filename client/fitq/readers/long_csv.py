"""Long CSV: one sample a row; the rows that agree in the group column are one job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq.readers.columnar import from_tables
from fitq.readers.csv_table import Columns, csv_table, lines_of_rows
from fitq.readers.files import empty_file
from fitq.readers.instructions import NO_INSTRUCTIONS, Instructions
from fitq.tags import typed
from fitq_shared.errors import JobError


class _Groups(NamedTuple):
    """Which rows of a table are one job, in the order of their first rows."""

    names: pa.StringArray  # (G,)
    of: NDArray[np.int32]  # (rows,) the group of each row
    order: NDArray[np.int64]  # (rows,) the rows of the first group, of the second one and so on
    offsets: NDArray[np.int64]  # (G + 1,) where in `order` each group begins

    def row(self, group: int, sample: int = 0) -> int:
        """The row of a sample of a group, both from 0."""
        return int(self.order[self.offsets[group] + sample])

    def lists(self, column: pa.ChunkedArray) -> pa.ListArray:
        """The cells of each group as a list."""
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), column.take(self.order).combine_chunks())

    def firsts(self) -> NDArray[np.int64]:
        """The first row of each group, (G,)."""
        return self.order[self.offsets[:-1]]


def from_csv(
    path: str | Path,
    columns: Columns,
    defaults: Mapping[str, object] | None = None,
    instructions: Instructions = NO_INSTRUCTIONS,
) -> Iterator[pa.RecordBatch]:
    """One job for each group, in the order of their first rows; its id is the group's value.

    An empty cell, or one of the usual words for it (NA, null, none, -), is a missing value, which makes that fit `invalid`.
    A tag is the same in all rows of a group.

    Raises:
        FileError: missing, unreadable, without a row, or no CSV.
        InputError: the header lacks a column, or has it twice.
        JobError: a cell holds text where a number is expected, a row has too few or too many cells, a tag differs within a
            group, or a group is no valid job, as `file:line`.
    """
    table = csv_table(path, columns, instructions)
    if table.num_rows == 0:
        raise empty_file(path, "a header line and one sample a row")
    groups, lines = _group(table[columns.group]), cache(lambda: lines_of_rows(path, table.num_rows))

    def place(row: int) -> str:
        return f"{path}:{lines()[row]}"

    def point(group: int, sample: int = 0) -> str:
        return place(groups.row(group, sample))

    if (nameless := pc.index(groups.names, "").as_py()) >= 0:
        raise JobError("every row needs a group", field=columns.group, value="", place=point(nameless))
    lists = {field: groups.lists(table[column]) for field, column in columns.samples.items()}
    names = instructions.tag_columns(table.column_names, columns)
    tags = [typed(_of_groups(name, table[name], groups, place)) for name in names]
    found = {"tags": pa.StructArray.from_arrays(tags, names)} if tags else {}
    jobs = pa.RecordBatch.from_pydict({"id": groups.names, **lists, **found})
    return from_tables([jobs], point, defaults, instructions._replace(tags=(), all_tags=False), point)


def _group(cells: pa.ChunkedArray) -> _Groups:
    groups = cells.combine_chunks().dictionary_encode()
    of = groups.indices.to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(of))])
    return _Groups(groups.dictionary, of, np.argsort(of, kind="stable"), offsets)


def _of_groups(name: str, column: pa.ChunkedArray, groups: _Groups, place: Callable[[int], str]) -> pa.StringArray:
    """The cells of a column in the first row of each group, which all its rows repeat."""
    cells, firsts = column.combine_chunks().cast(pa.string()), groups.firsts()
    words = cells.dictionary_encode(null_encoding="encode").indices.to_numpy()
    differ = words != words[firsts][groups.of]
    if differ.any():
        row = int(np.argmax(differ))
        group = int(groups.of[row])
        rule = f"a tag is the same in all rows of a group, and {cells[groups.row(group)].as_py()!r} came before"
        job = groups.names[group].as_py()
        raise JobError(rule, field=name, value=cells[row].as_py(), job=job, place=place(row))
    return cells.take(pa.array(firsts))
