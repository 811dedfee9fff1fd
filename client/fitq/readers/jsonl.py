"""JSONL: one job a line; blank lines are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from fitq.readers.batches import in_batches
from fitq.readers.files import empty, opened
from fitq_shared.jobs import FitJob, job_from_json

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def from_jsonl(path: str | Path, defaults: Mapping[str, object] | None = None) -> Iterator[pa.RecordBatch]:
    """Jobs of a JSONL file, or of standard input when `path` is `-`; `defaults` fill the fields a job does not give.

    Raises:
        FileError: missing, unreadable or without a job.
        JobError: the first line that is no job, as `file:line`.
    """

    def place(line: int) -> str:
        return f"{'stdin' if str(path) == '-' else path}:{line}"

    def jobs() -> Iterator[tuple[int, FitJob]]:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if not text.isspace() and text:
                    yield number, job_from_json(text, place(number), defaults)

    batch = None
    for batch in in_batches(jobs(), place):
        yield batch
    if batch is None:
        raise empty(path, 'one JSON object a line, such as {"x": [0, 1, 2], "y": [1, 3, 5], "degree": 1}')
