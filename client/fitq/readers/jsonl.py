"""JSONL: one job a line; blank lines are skipped."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fitq.readers.batches import in_batches
from fitq.readers.columnar import doubted
from fitq.readers.completed import completed
from fitq.readers.files import empty, opened
from fitq.readers.lines import Fields, decoded, doubtful, given_fields
from fitq.readers.places import placed
from fitq.readers.unique import unique
from fitq_shared.frames import JOB_SCHEMA
from fitq_shared.jobs import FitJob, defaults_from_mapping, job_from_json
from fitq_shared.rules import certain

#: Lines are read in blocks of about this size; its at most a million numbers take some 50 MB as Python objects.
_BLOCK_BYTES = 2 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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
    jobs = unique(_jobs(_blocks(path, blank), place, defaults or {}), place)
    for batch in placed(jobs, lambda position, _: place(position)):
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
    values = defaults_from_mapping(defaults)
    first = 0
    for lines in blocks:

        def by_row(row: int, lines: list[bytes] = lines, first: int = first) -> FitJob:
            return job_from_json(lines[row], place(first + row), defaults)

        yield from _converted(lines, first, values, by_row)
        first += len(lines)


def _converted(
    lines: list[bytes], first: int, defaults: FitJob, by_row: Callable[[int], FitJob]
) -> Iterator[pa.RecordBatch]:
    jobs, refused = decoded(lines)
    fields, keys = given_fields(jobs)
    doubts = doubtful(lines, fields, keys)
    doubts[refused] = True
    try:
        batch = completed(_table(fields, len(lines)), first, defaults)
    except (pa.ArrowException, ValueError):  # what no column can hold: the line will say which
        return in_batches(map(by_row, range(len(lines))), first)
    return doubted(batch, certain(batch) & ~doubts, by_row)


def _table(fields: Fields, rows: int) -> pa.RecordBatch:
    """The fields as columns, null where a line does not give one."""
    columns = {name: _column(name, values) for name, values in fields.items()}
    return pa.RecordBatch.from_pydict(columns or {"id": pa.nulls(rows)})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    if name == "id" and int in map(type, values):
        values = [str(value) if isinstance(value, int) else value for value in values]
    # Of init, both lists and text, and of samples only the values tell the type.
    return pa.array(values, None if name in ("init", "samples") else JOB_SCHEMA.field(name).type)
