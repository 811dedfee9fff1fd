"""Opening input files: what the operating system or a library refuses becomes a FileError that names the file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from fitq_shared.errors import FileError


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """The file for reading bytes; `-` is standard input.

    Raises:
        FileError: missing, a directory, or not readable.
    """
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115  # closed below; only opening may be translated
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from None
    with file:
        yield file


@contextmanager
def translate_errors(path: str | Path, kind: str, *others: type[Exception]) -> Iterator[None]:
    """What a library says while it reads, one of Arrow's errors or of `others`, becomes a FileError: no `kind`."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, *others) as error:
        raise FileError(f"{path} is no {kind} that can be read: {error}") from None


def empty_file(path: str | Path, expected: str) -> FileError:
    """The error of a file without a single job."""
    return FileError(f"{path} is empty: no job in it; expected {expected}")


def row_of(path: str | Path) -> Callable[[int], str]:
    """Names of positions in a table of jobs: rows, from 1."""
    return lambda position: f"{path}:row {position + 1}"
