"""Long CSV: one sample a row; the rows that agree in the group column are one job."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from fitq.readers.asked import NOTHING, Asked
from fitq.readers.columnar import from_tables
from fitq.readers.files import empty, opened
from fitq.tags import typed
from fitq_shared.errors import FileError, InputError, JobError


class Columns(NamedTuple):
    """Names of the columns of a long CSV."""

    group: str
    x: str
    y: str
    weights: str | None = None

    @property
    def samples(self) -> dict[str, str]:
        """Field of FitJob -> the column that fills it."""
        given = {"x": self.x, "y": self.y, "weights": self.weights}
        return {field: column for field, column in given.items() if column is not None}


def from_csv(
    path: str | Path, columns: Columns, defaults: Mapping[str, object] | None = None, asked: Asked = NOTHING
) -> Iterator[pa.RecordBatch]:
    """One job for each group, in the order of their first rows; its id is the group's value.

    An empty cell is a missing sample value, which makes that fit `invalid`. A tag is the same in all rows of a group.

    Raises:
        FileError: missing, unreadable, without a row, or no CSV.
        JobError: a cell holds text where a number is expected, a tag differs within a group, or a group is no valid job,
            as `file:line`.
    """
    table = _table(path, columns, asked)
    if table.num_rows == 0:
        raise empty(path, "a header line and one sample a row")
    groups = table[columns.group].combine_chunks().dictionary_encode()
    codes = groups.indices.to_numpy()
    if (nameless := pc.index(groups.dictionary, "").as_py()) >= 0:
        place = f"{path}:{_line_of_row(path, int(np.argmax(codes == nameless)))}"
        raise JobError("every row needs a group", field=columns.group, value="", place=place)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    lists = {
        field: pa.ListArray.from_arrays(offsets, table[column].take(order).combine_chunks())
        for field, column in columns.samples.items()
    }
    firsts = order[offsets.to_numpy()[:-1]]
    names = asked.tag_columns(table.column_names, columns)
    tags = [typed(_of_groups(path, table, name, codes, firsts, groups.dictionary)) for name in names]
    found = {"tags": pa.StructArray.from_arrays(tags, names)} if tags else {}
    jobs = pa.RecordBatch.from_pydict({"id": groups.dictionary, **lists, **found})
    asked = asked._replace(tags=(), all_tags=False)
    return from_tables([jobs], lambda group: f"{path}:{_line_of_row(path, int(firsts[group]))}", defaults, asked)


def _of_groups(
    path: str | Path, table: pa.Table, name: str, codes: NDArray[np.int32], firsts: NDArray[np.int64], groups: pa.Array
) -> pa.StringArray:
    """The cells of a column in the first row of each group, which all its rows repeat."""
    cells = table[name].combine_chunks().cast(pa.string())
    words = cells.dictionary_encode(null_encoding="encode").indices.to_numpy()
    differ = words != words[firsts][codes]
    if differ.any():
        row = int(np.argmax(differ))
        group, first = groups[codes[row]].as_py(), cells[firsts[codes[row]]].as_py()
        rule = f"a tag is the same in all rows of a group, and {first!r} came before"
        raise JobError(rule, field=name, value=cells[row].as_py(), job=group, place=f"{path}:{_line_of_row(path, row)}")
    return cells.take(pa.array(firsts))


def _table(path: str | Path, columns: Columns, asked: Asked) -> pa.Table:
    """The named columns: the group and tags as text, the others as float64 with null for an empty cell."""
    with opened(path) as file:
        header = _checked_header(path, file.readline(), columns, asked)
    types = dict.fromkeys(asked.tag_columns(header, columns), pa.string())
    types |= {column: pa.float64() for column in columns.samples.values()} | {columns.group: pa.string()}
    convert = arrow_csv.ConvertOptions(include_columns=list(types), column_types=types)
    try:
        parse = arrow_csv.ParseOptions(newlines_in_values=True)
        return arrow_csv.read_csv(path, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise _text_cell(path, columns) or FileError(f"{path} is no CSV that can be read: {error}") from None


def _checked_header(path: str | Path, header: bytes, columns: Columns, asked: Asked) -> list[str]:
    found = next(csv.reader([header.decode("utf-8-sig", errors="replace")]), [])
    if not found:
        raise empty(path, "a header line and one sample a row")
    for option, column in zip(("--group", "--x", "--y", "--weights"), columns, strict=True):
        if column is not None and column not in found:
            raise InputError(f"{path}: no column {column!r} ({option}); the header has {', '.join(found)}")
    asked.check_tags(str(path), found)
    return found


def _text_cell(path: str | Path, columns: Columns) -> JobError | None:
    """The first cell that Arrow could not read as a number, found by reading again row by row."""
    for line, row in _rows(path):
        for column in columns.samples.values():
            cell = row.get(column) or "nan"
            try:
                float(cell)
            except ValueError:
                rule = "expected a number, or an empty cell where it is missing"
                return JobError(rule, field=column, value=cell, job=row.get(columns.group), place=f"{path}:{line}")
    return None


def _line_of_row(path: str | Path, row: int) -> int:
    """Line in the file of a row of the table; blank lines and quoted line ends make them differ."""
    return next((line for number, (line, _) in enumerate(_rows(path)) if number == row), row + 2)


def _rows(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    with opened(path) as file:
        reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""))
        yield from ((reader.line_num, row) for row in reader)
