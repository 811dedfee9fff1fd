"""Targets: what the path of an output means, a file, a folder or standard output, and which format a file has."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fitq_shared.errors import FileError

#: What looks like the suffix of a file, known or not.
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,8}")
#: Formats by the suffix of a file.
_FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv"}


def is_standard_output(output: str | Path) -> bool:
    """Whether the output is `-`."""
    return str(output) == "-"


def is_folder(output: str | Path) -> bool:
    """Whether the output is a folder: one that exists, or a path that ends in `/` or without the suffix of a file.

    `run.2` and `life.csv-fits` are folders: no format is called `2` or `csv-fits`.
    """
    if is_standard_output(output):
        return False
    path = Path(output)
    return str(output).endswith(("/", os.sep)) or path.is_dir() or not _SUFFIX.fullmatch(path.suffix)


def format_of(output: str | Path) -> str:
    """The format that the suffix of a file stands for; JSONL for standard output.

    Raises:
        FileError: no format has this suffix.
    """
    if is_standard_output(output):
        return "jsonl"
    suffix = Path(output).suffix.lower()
    if suffix not in _FORMATS:
        raise FileError(f"{output}: unknown format {suffix!r}; known are {', '.join(_FORMATS)}; a folder ends in /")
    return _FORMATS[suffix]


def choose_files(output: str | Path | None, source: str | Path | None) -> tuple[Path, Path]:
    """The files of the results and of the traces; their folder is made.

    `output` is a folder, by default one named after the file `source`, or the file of the results; the file of the traces
    lies beside it.

    Raises:
        FileError: it is standard output, which cannot take both; a file of an unknown format; a folder that cannot be made.
    """
    path = Path(_folder_name(source)) if output is None else Path(output)
    if is_standard_output(path):
        raise FileError("standard output (-) cannot take both results and traces; name a folder or a file")
    if is_folder(path if output is None else output):
        folder, files = path, (path / "results.parquet", path / "traces.parquet")
    else:
        format_of(path)
        folder, files = path.parent, (path, path.with_stem(f"{path.stem}-traces"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror}; name another one") from None
    return files


def _folder_name(source: str | Path | None) -> str:
    return "fitq-results" if source is None or is_standard_output(source) else f"{Path(source).stem}-results"
