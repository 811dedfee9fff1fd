"""Opening input files: the operating system's refusals become FileErrors that name the file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fitq_shared.errors import FileError


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
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


def empty(path: str | Path, expected: str) -> FileError:
    """The error of a file without a single job."""
    return FileError(f"{path} is empty: no job in it; expected {expected}")
