"""JSONL: one job a line; blank lines are skipped."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, cast, get_type_hints

import msgspec
import pyarrow as pa

from fitq.readers.asked import NOTHING, Asked
from fitq.readers.batches import in_batches
from fitq.readers.columnar import doubted
from fitq.readers.completed import completed
from fitq.readers.files import empty, opened
from fitq.readers.unique import unique
from fitq.tags import text_of
from fitq_shared.errors import InputError
from fitq_shared.frames import JOB_SCHEMA
from fitq_shared.jobs import FitJob, defaults_from_mapping, job_from_json

#: Lines are read in blocks of about this size; its at most a million numbers take some 50 MB as Python objects.
_BLOCK_BYTES = 2 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(FitJob)}

Decoder = Callable[[bytes], FitJob]


def from_jsonl(
    path: str | Path, defaults: Mapping[str, object] | None = None, asked: Asked = NOTHING
) -> Iterator[pa.RecordBatch]:
    """Jobs of a JSONL file, or of standard input when `path` is `-`; `defaults` fill the fields a job does not give.

    Raises:
        FileError: missing, unreadable or without a job.
        InputError: tags are asked for.
        JobError: the first line that is no job, as `file:line`.
    """
    if asked.tags or asked.all_tags:
        raise InputError(f'{path}: --tag and --tags name columns; a line has its tags itself: "tags": {{"site": "A"}}')
    blank = array("q")

    def place(position: int) -> str:
        return f"{'stdin' if str(path) == '-' else path}:{position + 1 + bisect_right(blank, position)}"

    batch = None
    for batch in unique(_jobs(_blocks(path, blank), place, defaults or {}, asked), place):
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
    blocks: Iterator[list[bytes]], place: Callable[[int], str], defaults: Mapping[str, object], asked: Asked
) -> Iterator[pa.RecordBatch]:
    decode, count = _decoder(defaults, asked.overrides), _counter(defaults.keys() - asked.overrides.keys())
    first = 0
    for lines in blocks:
        if asked.given is not None:
            asked.note(count(lines))
        yield from _converted(lines, first, decode, place, defaults, asked.overrides)
        first += len(lines)


def _converted(
    lines: list[bytes],
    first: int,
    decode: Decoder,
    place: Callable[[int], str],
    defaults: Mapping[str, object],
    overrides: Mapping[str, object],
) -> Iterator[pa.RecordBatch]:
    def by_row(row: int) -> FitJob:
        return job_from_json(lines[row], place(first + row), defaults, overrides)

    try:
        jobs = completed(_columns([decode(line) for line in lines], overrides), first, FitJob())
    except (
        msgspec.DecodeError,
        ValueError,
        pa.ArrowException,
    ):  # no job, or what no column can hold: the line will say which
        return in_batches(map(by_row, range(len(lines))), first)
    return doubted(jobs, by_row)


def _decoder(defaults: Mapping[str, object], overrides: Mapping[str, object]) -> Decoder:
    """Reads a line as a FitJob whose fields have other defaults, and takes anything in those that are overridden."""
    if not defaults and not overrides:
        return msgspec.json.Decoder(FitJob).decode
    values, types = defaults_from_mapping({**defaults, **overrides}), get_type_hints(FitJob, include_extras=True)
    types |= dict.fromkeys(overrides, Any)
    fields = [(name, types[name], _as_default(getattr(values, name))) for name in {**defaults, **overrides}]
    job = msgspec.defstruct("FitJob", fields, bases=(FitJob,), frozen=True, kw_only=True, forbid_unknown_fields=True)
    return cast(Decoder, msgspec.json.Decoder(job).decode)


def _as_default(value: object) -> object:
    """msgspec takes lists as defaults only from a function that makes them."""
    return msgspec.field(default_factory=value.copy) if isinstance(value, list) else value


def _counter(names: Collection[str]) -> Callable[[list[bytes]], dict[str, int]]:
    """Counts in how many lines each of these fields is."""
    fields = [(name, Any, msgspec.UNSET) for name in names]
    decode = msgspec.json.Decoder(msgspec.defstruct("Given", fields, gc=False)).decode

    def count(lines: list[bytes]) -> dict[str, int]:
        try:
            found = [decode(line) for line in lines]
        except (msgspec.DecodeError, ValueError):  # no object: reading it as a job says which line
            return {}
        return {name: sum(getattr(line, name) is not msgspec.UNSET for line in found) for name in names}

    return count if names else lambda _: {}


def _columns(jobs: Sequence[FitJob], overrides: Mapping[str, object]) -> pa.RecordBatch:
    """The fields of `jobs` as columns; those in which all have the default are left out."""
    columns = {}
    for name in FitJob.__struct_fields__:
        values = [overrides[name]] * len(jobs) if name in overrides else list(map(attrgetter(name), jobs))
        if name == "id" or values.count(_DEFAULTS[name]) < len(values):
            columns[name] = _column(name, values)
    return pa.RecordBatch.from_pydict(columns)


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    if name == "samples":
        return pa.array([value and msgspec.structs.asdict(value) for value in values])
    if name == "tags":
        return pa.array(map(text_of, values), pa.string())
    # Of init, both lists and text, only the values tell the type.
    return pa.array(values, JOB_SCHEMA.field(name).type if name != "init" else None)
