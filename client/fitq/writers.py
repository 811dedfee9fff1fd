"""Writers: tables of results and traces -> Parquet, JSONL, JSON or CSV, in a file or on standard output.

Text formats have no NaN: a number that is missing or not finite is null in JSON and an empty cell in CSV. In CSV the
coefficients become one column for each power (`c2`, `c1`, `c0`), other lists become JSON text, and traces become one
row for each recorded step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from fitq_shared.errors import FileError

#: Version of the layout of JSON documents.
JSON_SCHEMA = 1

_ROWS_AT_ONCE = 4096
#: List columns with one number for each power of x, highest first, and the prefix of their CSV columns.
_BY_POWER = {"coefficients": "c", "exact_coefficients": "exact_c", "stderr": "stderr_c"}


def write(table: pa.Table, target: str | Path, format: str | None = None) -> None:
    """Write a table to the file `target`, whole or not at all; `-` is standard output.

    `format` is one of FORMATS; by default the suffix of the file says it, and JSONL is written to standard output.

    Raises:
        FileError: the format is not known or the file cannot be written.
    """
    writer = FORMATS[format or format_of(target)]
    if str(target) == "-":
        writer(table, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with _replacing(Path(target)) as file:
        writer(table, file)


def format_of(target: str | Path) -> str:
    """The format that the suffix of a file stands for; JSONL for standard output.

    Raises:
        FileError: no format has this suffix.
    """
    suffix = "jsonl" if str(target) == "-" else Path(target).suffix.lower().removeprefix(".").replace("ndjson", "jsonl")
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise FileError(f"{target}: unknown format {suffix!r}; known are {known}, or say --format")
    return suffix


def targets(output: str | Path | None, source: str | Path | None) -> tuple[Path, Path]:
    """Where a run puts its results and traces; the folder is made.

    `output` with a suffix of FORMATS is the results file, the traces go beside it; otherwise it is a folder, by default
    one named after the file `source`.

    Raises:
        FileError: the folder cannot be made.
    """
    path = Path(output) if output is not None else Path(_folder_name(source))
    if path.suffix.removeprefix(".") in FORMATS:
        folder, files = path.parent, (path, path.with_stem(f"{path.stem}-traces"))
    else:
        folder, files = path, (path / "results.parquet", path / "traces.parquet")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror}; name another one with -o") from None
    return files


def _folder_name(source: str | Path | None) -> str:
    return "fitq-results" if source is None or str(source) == "-" else f"{Path(source).stem}-results"


def _write_parquet(table: pa.Table, file: BinaryIO) -> None:
    parquet.write_table(table, file, compression="zstd")


def _write_jsonl(table: pa.Table, file: BinaryIO) -> None:
    for batch in table.to_batches(_ROWS_AT_ONCE):
        file.write(msgspec.json.Encoder().encode_lines(batch.to_pylist()))  # msgspec writes NaN and infinity as null


def _write_json(table: pa.Table, file: BinaryIO) -> None:
    file.write(msgspec.json.encode({"schema": JSON_SCHEMA, "rows": table.to_pylist()}) + b"\n")


def _write_csv(table: pa.Table, file: BinaryIO) -> None:
    flat = _long(table) if "step" in table.column_names else _wide(table)
    columns = {name: _finite(flat[name]) for name in flat.column_names}
    csv.write_csv(pa.table(columns), file, csv.WriteOptions(quoting_style="needed"))


FORMATS: dict[str, Callable[[pa.Table, BinaryIO], None]] = {
    "parquet": _write_parquet,
    "jsonl": _write_jsonl,
    "json": _write_json,
    "csv": _write_csv,
}


def _long(traces: pa.Table) -> pa.Table:
    """One row for each recorded step."""
    rows = pc.list_parent_indices(traces["loss"])
    lists = {name: pc.list_flatten(traces[name]) for name in ("step", "loss")}
    return pa.table({"index": traces["index"].take(rows), "id": traces["id"].take(rows), **lists})


def _wide(results: pa.Table) -> pa.Table:
    """Lists by power as one column for each power, other lists as JSON text."""
    columns: dict[str, pa.ChunkedArray] = {}
    for name in results.column_names:
        if name in _BY_POWER:
            columns |= _by_power(results[name], _BY_POWER[name])
        elif pa.types.is_list(results.schema.field(name).type):
            columns[name] = pa.array([row and msgspec.json.encode(row).decode() for row in results[name].to_pylist()])
        else:
            columns[name] = results[name]
    return pa.table(columns)


def _by_power(lists: pa.ChunkedArray, prefix: str) -> dict[str, pa.Array]:
    """Columns from the highest power among all rows down to 0; a row of lower degree leaves the higher ones empty."""
    lists = lists.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    row = pc.list_parent_indices(lists).to_numpy()
    power = lengths[row] - 1 - (np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row])
    values = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    table = np.full((lengths.max(initial=0), len(lists)), np.nan)
    table[power, row] = values
    return {f"{prefix}{number}": pa.array(table[number]) for number in reversed(range(len(table)))}


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers that are not finite become null."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its place at the end, so that nobody reads half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror}; check the folder and its permissions") from None
    finally:
        temporary.unlink(missing_ok=True)
