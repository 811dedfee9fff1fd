"""Writers: results and traces -> Parquet, JSONL, JSON or CSV, in a file or on standard output, batch by batch.

Text formats have no NaN: a number that is missing or not finite is null in JSON and an empty cell in CSV.
`fitq.results.csv_writer` says what CSV makes of lists.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeAlias

import msgspec
import pyarrow as pa
from pyarrow import parquet

from fitq.results.csv_writer import csv_writer
from fitq.results.json_rows import JSON_SCHEMA, rows_of
from fitq.results.targets import format_of, is_standard_output
from fitq_shared.errors import FileError

#: Batches are written in pieces of this size in Arrow's memory: in other forms they take many times as much.
_PIECE_BYTES = 4 * 2**20
#: A Parquet row group takes up this much before it is packed; small ones would make files that are slow to read.
_ROW_GROUP_BYTES = 32 * 2**20
#: Columns with few different values. A dictionary of any other column costs four times what its bytes do.
_DICTIONARY_COLUMNS = ["status", "message", "basis", "loss_function", "optimizer", "device"]

Write: TypeAlias = Callable[[pa.RecordBatch], None]
Format: TypeAlias = Callable[[BinaryIO, pa.Schema, Mapping[str, object]], AbstractContextManager[Write]]


@contextmanager
def writing(
    target: str | Path,
    schema: pa.Schema,
    format: str | None = None,
    facts: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[Write]:
    """A function that writes record batches of `schema` to `target` for as long as the `with` block lasts.

    A file appears at the end of the block, whole, or not at all when the block is left by an error; `-` is standard
    output, to which each batch goes at once. `format` is one of FORMATS; by default the suffix of the file says it,
    and JSONL is written to standard output. `facts` are looked at when the block ends: more fields of a JSON document.

    Raises:
        FileError: the format is not known or the file cannot be written.
        BrokenPipeError: nobody reads standard output any more.
    """
    begin = FORMATS[format or format_of(target)]
    with _opened(target) as file, begin(file, schema, facts) as append:

        def write(batch: pa.RecordBatch) -> None:
            for piece in _pieces(batch):
                append(piece)
                file.flush()

        yield write


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in parts of rows, none of them empty."""
    rows = max(batch.num_rows * _PIECE_BYTES // max(batch.nbytes, 1), 1)
    return (batch.slice(first, rows) for first in range(0, batch.num_rows, rows))


@contextmanager
def _parquet(file: BinaryIO, schema: pa.Schema, facts: Mapping[str, object]) -> Iterator[Write]:
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    with parquet.ParquetWriter(file, schema, **_parquet_options(schema)) as writer:

        def append(batch: pa.RecordBatch) -> None:
            nonlocal waiting_bytes
            waiting.append(batch)
            waiting_bytes += batch.nbytes
            if waiting_bytes >= _ROW_GROUP_BYTES:
                pack()

        def pack() -> None:
            nonlocal waiting_bytes
            writer.write_table(pa.Table.from_batches(waiting, schema))
            waiting.clear()
            waiting_bytes = 0

        yield append
        if waiting:
            pack()


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """What makes files small at little cost; floats compress a third better with their bytes sorted by significance."""
    flat = [field.name for field in schema if not pa.types.is_list(field.type)]
    return {
        "compression": "zstd",
        "compression_level": -3,
        "use_dictionary": [name for name in _DICTIONARY_COLUMNS if name in schema.names],
        "column_encoding": {path: "BYTE_STREAM_SPLIT" for field in schema if (path := _path_of_floats(field))},
        "write_statistics": flat,
    }


def _path_of_floats(field: pa.Field) -> str | None:
    if pa.types.is_list(field.type):
        return f"{field.name}.list.element" if pa.types.is_floating(field.type.value_type) else None
    return field.name if pa.types.is_floating(field.type) else None


@contextmanager
def _jsonl(file: BinaryIO, schema: pa.Schema, facts: Mapping[str, object]) -> Iterator[Write]:
    encoder = msgspec.json.Encoder()  # which writes NaN and infinity as null

    def append(batch: pa.RecordBatch) -> None:
        file.write(encoder.encode_lines(rows_of(batch)))

    yield append


@contextmanager
def _json(file: BinaryIO, schema: pa.Schema, facts: Mapping[str, object]) -> Iterator[Write]:
    encoder, separator = msgspec.json.Encoder(), b""

    def append(batch: pa.RecordBatch) -> None:
        nonlocal separator
        file.write(separator + encoder.encode(rows_of(batch))[1:-1])
        separator = b","

    file.write(b'{"schema":%d,"rows":[' % JSON_SCHEMA)
    yield append
    fields = [encoder.encode(name) + b":" + encoder.encode(value) for name, value in facts.items()]
    file.write(b",".join([b"]", *fields]) + b"}\n")


FORMATS: dict[str, Format] = {"parquet": _parquet, "jsonl": _jsonl, "json": _json, "csv": csv_writer}


def _opened(target: str | Path) -> AbstractContextManager[BinaryIO]:
    return _standard_output() if is_standard_output(target) else _replacing(Path(target))


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its place at the end, so that nobody reads half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}; check the folder and its permissions") from None
    finally:
        temporary.unlink(missing_ok=True)
