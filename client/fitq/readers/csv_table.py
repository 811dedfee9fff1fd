"""The columns of a CSV that are asked for, as a table; rows that cannot be read are named by their line."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from fitq.readers.files import empty_file, open_input, translate_errors
from fitq.readers.instructions import Instructions
from fitq_shared.errors import FileError, InputError, JobError

#: What stands for a missing number, in small letters; text besides these is refused.
_MISSING = (
    "", "na", "n/a", "nan", "-nan", "null", "none", "-", "<na>", "#na", "#n/a", "#n/a n/a",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
)  # fmt: skip
#: The same in the spellings that are common, which Arrow looks for as they are.
_SPELLINGS = [spelling for word in _MISSING for spelling in (word, word.upper(), word.capitalize())] + ["NaN"]
_PIECE_BYTES = 2**20


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


def csv_table(path: str | Path, columns: Columns, instructions: Instructions) -> pa.Table:
    """The group and the tags as text, the others as float64, null where one of the words for missing stands.

    A tag that is also a column of numbers is one here too.

    Raises:
        FileError: missing, unreadable, empty, or no CSV.
        InputError: the header lacks a column, or has it twice.
        JobError: a cell holds text where a number is expected, or a row has too few or too many cells, as `file:line`.
    """
    with open_input(path) as file:
        tags = instructions.tag_columns(_check_header(path, file.readline(), columns, instructions), columns)
    read = functools.partial(_read, path, [*tags, columns.group], list(columns.samples.values()))
    try:
        return read(pa.float64())
    except pa.ArrowInvalid as error:
        if (fault := _fault(path, columns)) is not None:
            raise fault from None
        refusal = error
    try:
        texts = read(pa.string())  # words for missing in any spelling
        numbers = {column: _numbers(texts[column]) for column in columns.samples.values()}
    except pa.ArrowInvalid:
        raise FileError(f"{path} is no CSV that can be read: {refusal}") from None
    return pa.table({name: texts[name] for name in texts.column_names} | numbers)


def lines_of_rows(path: str | Path, rows: int) -> NDArray[np.int64]:
    """Line in the file of each row of the table; blank lines and quoted line ends make them differ."""
    lines, last = 0, b""
    with open_input(path) as file:
        while piece := file.read(_PIECE_BYTES):
            lines, last = lines + piece.count(b"\n"), piece
    if lines + (not last.endswith(b"\n")) == rows + 1:  # one each, and the header's
        return np.arange(2, rows + 2)
    return np.array([line for line, _ in _rows(path)][1:])


def _read(path: str | Path, texts: list[str], numbers: list[str], kind: pa.DataType) -> pa.Table:
    """The columns `texts` as text and `numbers` as `kind`."""
    types = dict.fromkeys(texts, pa.string()) | dict.fromkeys(numbers, kind)
    convert = arrow_csv.ConvertOptions(include_columns=list(types), column_types=types, null_values=_SPELLINGS)
    return arrow_csv.read_csv(path, parse_options=arrow_csv.ParseOptions(newlines_in_values=True), convert_options=convert)


def _numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = pc.utf8_trim_whitespace(texts)
    is_missing = pc.is_in(pc.utf8_lower(texts), pa.array(_MISSING))
    return pc.if_else(is_missing, pa.scalar(None, pa.string()), texts).cast(pa.float64())


def _check_header(path: str | Path, header: bytes, columns: Columns, instructions: Instructions) -> list[str]:
    with translate_errors(path, "CSV", csv.Error):
        found = next(csv.reader([header.decode("utf-8-sig", errors="replace")]), [])
    if not found:
        raise empty_file(path, "a header line and one sample a row")
    wanted = zip(("--group", "--x", "--y", "--weights"), columns, strict=True)
    options = {column: option for option, column in wanted if column is not None}
    for column, option in options.items():
        if column not in found:
            raise InputError(f"{path}: no column {column!r} ({option}); the header has {', '.join(found)}")
    instructions.check_tags(str(path), found)
    for column in (*options, *instructions.tag_columns(found, columns)):
        if found.count(column) > 1:
            option = options.get(column, "a tag")
            raise InputError(f"{path}: the header has {column!r} ({option}) more than once; rename or drop the others")
    return found


def _fault(path: str | Path, columns: Columns) -> JobError | None:
    """The first row that Arrow could not read, found by reading again row by row."""
    rows = _rows(path)
    _, header = next(rows)
    for line, cells in rows:
        row = dict(zip(header, cells, strict=False))
        if (fault := _fault_of_cells(header, cells) or _fault_of_numbers(row, columns)) is not None:
            return fault.with_place(f"{path}:{line}", row.get(columns.group))
    return None


def _fault_of_cells(header: Sequence[str], cells: Sequence[str]) -> JobError | None:
    if len(cells) == len(header):
        return None
    found = f"this row has {len(cells)} cells and the header {len(header)}"
    if len(cells) > len(header):
        return JobError(
            f"{found}; text with a comma needs quotes", field=header[-1], value=",".join(cells[len(header) - 1 :])
        )
    return JobError(f"{found}; a missing value is an empty cell", field=header[len(cells)], value="")


def _fault_of_numbers(row: Mapping[str, str], columns: Columns) -> JobError | None:
    rule = "expected a number; where it is missing, an empty cell or NA"
    wrong = (column for column in columns.samples.values() if not _is_number(row[column]))
    return next((JobError(rule, field=column, value=row[column]) for column in wrong), None)


def _is_number(cell: str) -> bool:
    if cell.strip().lower() in _MISSING:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # which only Python takes


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows, each with its line; of a row with quoted line ends that is its last."""
    with open_input(path) as file, translate_errors(path, "CSV", csv.Error):
        reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""))
        yield from ((reader.line_num, cells) for cells in reader if cells)
