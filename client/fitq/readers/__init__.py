"""Readers: what a user has (a file, standard input, a recipe) -> record batches of checked jobs in JOB_SCHEMA.

Every reader is an iterator of `pa.RecordBatch`, its rows numbered from 0 in the order of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from fitq.readers.arrow_ipc import from_arrow
from fitq.readers.batches import from_jobs
from fitq.readers.csv_table import Columns
from fitq.readers.instructions import NO_INSTRUCTIONS, Instructions
from fitq.readers.jsonl import from_jsonl
from fitq.readers.long_csv import from_csv
from fitq.readers.npz import from_npz
from fitq.readers.parquet import from_parquet
from fitq.readers.recipe import from_recipe
from fitq_shared.errors import FileError, InputError

__all__ = [
    "Columns",
    "Instructions",
    "from_arrow",
    "from_csv",
    "from_file",
    "from_jobs",
    "from_jsonl",
    "from_npz",
    "from_parquet",
    "from_recipe",
]

#: Suffix of a file that holds one job a row or line -> its reader.
_READERS = {
    ".jsonl": from_jsonl,
    ".ndjson": from_jsonl,
    ".parquet": from_parquet,
    ".arrow": from_arrow,
    ".feather": from_arrow,
    ".npz": from_npz,
}
#: Suffixes of the files that hold jobs.
SUFFIXES = (*_READERS, ".csv")


def from_file(
    path: str | Path,
    columns: Columns | None = None,
    defaults: Mapping[str, object] | None = None,
    instructions: Instructions = NO_INSTRUCTIONS,
) -> Iterator[pa.RecordBatch]:
    """Jobs of a file by its suffix; `-` is JSONL on standard input.

    `columns` name the columns of a CSV. `defaults` are values of FitJob's fields for the jobs that do not give them;
    `instructions` have values that override what jobs give, and name the columns that are tags.

    Raises:
        FileError: missing, empty, unreadable or of an unknown format.
        JobError: the first job that breaks a rule.
    """
    suffix = ".jsonl" if str(path) == "-" else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError(f"{path}: unknown format {suffix!r}; known are {', '.join(SUFFIXES)}, and - for JSONL on stdin")
    if suffix == ".csv":
        if columns is None:
            raise InputError(f"{path}: which columns? a CSV needs --group, --x and --y (from Python: Columns)")
        return from_csv(path, columns, defaults, instructions)
    if columns is not None:
        raise InputError(f"{path}: --group, --x, --y and --weights name the columns of a CSV, and this is none")
    return _READERS[suffix](path, defaults, instructions)
