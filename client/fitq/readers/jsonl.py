"""JSONL: one job a line; blank lines are skipped."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq.readers.batches import batch_jobs
from fitq.readers.columnar import check_doubtful_rows
from fitq.readers.defaults import fill_defaults
from fitq.readers.files import empty_file, open_input
from fitq.readers.instructions import NO_INSTRUCTIONS, Instructions
from fitq.readers.lines import Fields, decode_lines, find_doubtful, given_fields, line_type
from fitq.readers.places import add_places
from fitq.readers.unique import unique
from fitq.tags import text_of
from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs import json_text
from fitq_shared.jobs.column_rules import obey_rules
from fitq_shared.jobs.job import FitJob, defaults_from_mapping, job_from_json
from fitq_shared.jobs.plain_values import drop_missing
from fitq_shared.jobs.schemas import JOB_SCHEMA

#: Lines are read in blocks of about this size; its at most a million numbers take some 50 MB as Python objects.
_BLOCK_BYTES = 2 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def from_jsonl(
    path: str | Path, defaults: Mapping[str, object] | None = None, instructions: Instructions = NO_INSTRUCTIONS
) -> Iterator[pa.RecordBatch]:
    """Jobs of a JSONL file, or of standard input when `path` is `-`; `defaults` fill the fields a job does not give.

    Raises:
        FileError: missing, unreadable or without a job.
        InputError: tags are asked for.
        JobError: the first line that is no job, as `file:line`.
    """
    if instructions.tags or instructions.all_tags:
        raise InputError(f'{path}: --tag and --tags name columns; a line has its tags itself: "tags": {{"site": "A"}}')
    blank = array("q")

    def place(position: int) -> str:
        return f"{'stdin' if str(path) == '-' else path}:{position + 1 + bisect_right(blank, position)}"

    batch = None
    jobs = unique(_jobs(_blocks(path, blank), place, defaults or {}, instructions), place)
    for batch in add_places(jobs, lambda position, _: place(position)):
        yield batch
    if batch is None:
        raise empty_file(path, 'one JSON object a line, such as {"x": [0, 1, 2], "y": [1, 3, 5], "degree": 1}')


def _blocks(path: str | Path, blank: array[int]) -> Iterator[list[bytes]]:
    """The lines that are not blank, block by block; `blank` gets the position of the job after each that is."""
    position = 0
    with open_input(path) as file:
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
    blocks: Iterator[list[bytes]], place: Callable[[int], str], defaults: Mapping[str, object], instructions: Instructions
) -> Iterator[pa.RecordBatch]:
    kind, values = (
        line_type(frozenset(instructions.overrides)),
        defaults_from_mapping({**defaults, **instructions.overrides}),
    )
    counted = () if instructions.given is None else defaults.keys() - instructions.overrides.keys()
    first = 0
    for lines in blocks:

        def by_row(row: int, lines: list[bytes] = lines, first: int = first) -> FitJob:
            return job_from_json(lines[row], place(first + row), defaults, instructions.overrides)

        found = decode_lines(lines, kind)
        fields, keys = given_fields(found.jobs)
        doubts = find_doubtful(lines, fields, keys)
        doubts[found.refused] = True
        instructions.note(_counts(fields, [lines[row] for row in found.refused], counted))
        own = {name: values for name, values in fields.items() if name not in instructions.overrides}
        yield from _convert(own, doubts, first, values, by_row)
        first += len(lines)


def _convert(
    fields: Fields, doubts: NDArray[np.bool_], first: int, defaults: FitJob, by_row: Callable[[int], FitJob]
) -> Iterator[pa.RecordBatch]:
    try:
        batch = fill_defaults(_table(fields, len(doubts)), first, defaults)
    except (pa.ArrowException, ValueError):  # what no column can hold: the line will say which
        return batch_jobs(map(by_row, range(len(doubts))), first)
    return check_doubtful_rows(batch, obey_rules(batch) & ~doubts, by_row)


def _counts(fields: Fields, refused: list[bytes], names: Collection[str]) -> Counter[str]:
    """How many lines give each of the fields `names`, of those in `fields` and of those that are `refused` there."""
    counts = Counter({name: len(fields[name]) - fields[name].count(None) for name in names if name in fields})
    if names:
        counts.update(name for line in refused for name in _given_in(line) if name in names)
    return counts


def _given_in(line: bytes) -> Collection[str]:
    try:
        fields = json_text.decode_json(line)
    except JobError:  # which reading it as a job says
        return ()
    return drop_missing(fields).keys() if isinstance(fields, dict) else ()


def _table(fields: Fields, rows: int) -> pa.RecordBatch:
    """The fields as columns, null where a line does not give one."""
    columns = {name: _column(name, values) for name, values in fields.items()}
    return pa.RecordBatch.from_pydict(columns or {"id": pa.nulls(rows)})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    if name == "id" and int in map(type, values):
        values = [str(value) if isinstance(value, int) else value for value in values]
    if name == "tags":
        values = list(map(text_of, values))
    # Of init, both lists and text, and of samples only the values tell the type.
    return pa.array(values, None if name in ("init", "samples") else JOB_SCHEMA.field(name).type)
