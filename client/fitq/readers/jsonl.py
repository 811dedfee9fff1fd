"""JSONL: one job a line; blank lines are skipped."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, cast, get_type_hints

import msgspec
import pyarrow as pa

from fitq.readers.batches import in_batches
from fitq.readers.columnar import doubted
from fitq.readers.completed import completed
from fitq.readers.files import empty, opened
from fitq.readers.unique import unique
from fitq_shared.frames import JOB_SCHEMA
from fitq_shared.jobs import FitJob, defaults_from_mapping, job_from_json

#: Lines are read in blocks of about this size; its at most a million numbers take some 50 MB as Python objects.
_BLOCK_BYTES = 2 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(FitJob)}

Decoder = Callable[[bytes], FitJob]


def from_jsonl(path: str | Path, defaults: Mapping[str, object] | None = None) -> Iterator[pa.RecordBatch]:
    """Jobs of a JSONL file, or of standard input when `path` is `-`; `defaults` fill the fields a job does not give.

    Raises:
        FileError: missing, unreadable or without a job.
        JobError: the first line that is no job, as `file:line`.
    """
    blank = array("q")

    def place(position: int) -> str:
        return f"{'stdin' if str(path) == '-' else path}:{position + 1 + bisect_right(blank, position)}"

    batch = None
    for batch in unique(_jobs(_blocks(path, blank), place, defaults or {}), place):
        yield batch
    if batch is None:
        raise empty(path, 'one JSON object a line, such as {"x": [0, 1, 2], "y": [1, 3, 5], "degree": 1}')


def _blocks(path: str | Path, blank: array[int]) -> Iterator[list[bytes]]:
    """The lines that are not blank, block by block; `blank` gets the position of the job after each that is."""
    position = 0
    with opened(path) as file:
        while lines := file.readlines(_BLOCK_BYTES):
            if position == 0:
                lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
            jobs: list[bytes] = []
            for line in lines:
                if line.isspace() or not line:
                    blank.append(position + len(jobs))
                else:
                    jobs.append(line)
            if jobs:
                yield jobs
            position += len(jobs)


def _jobs(
    blocks: Iterator[list[bytes]], place: Callable[[int], str], defaults: Mapping[str, object]
) -> Iterator[pa.RecordBatch]:
    decode = _decoder(defaults)
    first = 0
    for lines in blocks:
        yield from _converted(lines, first, decode, place, defaults)
        first += len(lines)


def _converted(
    lines: list[bytes], first: int, decode: Decoder, place: Callable[[int], str], defaults: Mapping[str, object]
) -> Iterator[pa.RecordBatch]:
    def by_row(row: int) -> FitJob:
        return job_from_json(lines[row], place(first + row), defaults)

    try:
        jobs = completed(_columns([decode(line) for line in lines]), first, FitJob())
    except (msgspec.DecodeError, ValueError):  # no job, or what no column can hold: the line will say which
        return in_batches(map(by_row, range(len(lines))), first)
    return doubted(jobs, by_row)


def _decoder(defaults: Mapping[str, object]) -> Decoder:
    """Reads a line as a FitJob whose fields have other defaults."""
    if not defaults:
        return msgspec.json.Decoder(FitJob).decode
    values, types = defaults_from_mapping(defaults), get_type_hints(FitJob, include_extras=True)
    fields = [(name, types[name], _as_default(getattr(values, name))) for name in defaults]
    job = msgspec.defstruct("FitJob", fields, bases=(FitJob,), frozen=True, kw_only=True, forbid_unknown_fields=True)
    return cast(Decoder, msgspec.json.Decoder(job).decode)


def _as_default(value: object) -> object:
    """msgspec takes lists as defaults only from a function that makes them."""
    return msgspec.field(default_factory=value.copy) if isinstance(value, list) else value


def _columns(jobs: Sequence[FitJob]) -> pa.RecordBatch:
    """The fields of `jobs` as columns; those in which all have the default are left out."""
    columns = {}
    for name in FitJob.__struct_fields__:
        values = list(map(attrgetter(name), jobs))
        if name == "id" or values.count(_DEFAULTS[name]) < len(values):
            columns[name] = _column(name, values)
    return pa.RecordBatch.from_pydict(columns)


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    if name == "samples":
        return pa.array([value and msgspec.structs.asdict(value) for value in values])
    # Of init, both lists and text, only the values tell the type.
    return pa.array(values, JOB_SCHEMA.field(name).type if name != "init" else None)
