"""NPZ, numpy's archive of arrays named like the fields of FitJob.

A field with a value for each job has the jobs along the first axis: `y` is (jobs, samples), `degree` (jobs,). Without
that axis the value is that of all jobs: `x` of shape (samples,), `degree` of shape ().
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from fitq.readers.batches import BATCH_SAMPLES
from fitq.readers.columnar import BATCH_ROWS, field_names, from_tables
from fitq.readers.files import empty_file, open_input, row_of, translate_errors
from fitq.readers.instructions import NO_INSTRUCTIONS, Instructions
from fitq_shared.errors import FileError

_LIST_FIELDS = ("x", "y", "weights", "polynomial", "init")
#: What zipfile and numpy say of bytes that they cannot read, besides OSError and ValueError; RuntimeError stands for
#: encrypted members and those of other versions.
_REFUSALS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, RuntimeError, OverflowError)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def from_npz(
    path: str | Path, defaults: Mapping[str, object] | None = None, instructions: Instructions = NO_INSTRUCTIONS
) -> Iterator[pa.RecordBatch]:
    """Jobs of an NPZ file, of which a batch is read at a time; `defaults` fill the fields that have no array.

    Raises:
        FileError: missing, unreadable, without a job, no NPZ, or arrays whose shapes do not go together.
        InputError: an array is named like no field of FitJob and is no tag.
        JobError: the first row that is no job, as `file:row N`, from 1.
    """
    return from_tables(_batches(path, instructions), row_of(path), defaults, instructions)


def _batches(path: str | Path, instructions: Instructions) -> Iterator[pa.RecordBatch]:
    with open_input(path) as file, translate_errors(path, "NPZ file", *_REFUSALS), zipfile.ZipFile(file) as archive:
        names = field_names(str(path), [_field(member) for member in archive.namelist()], instructions)
        arrays = {_field(member): _Array(archive, member) for member in archive.namelist() if _field(member) in names}
        jobs = _number_of_jobs(path, arrays)
        at_once = max(1, min(BATCH_ROWS, BATCH_SAMPLES // max(array.width for array in arrays.values())))
        for first in range(0, jobs, at_once):
            count = min(at_once, jobs - first)
            yield pa.RecordBatch.from_pydict({name: array.next_rows(count) for name, array in arrays.items()})


def _field(member: str) -> str:
    return member.removesuffix(".npy")


def _number_of_jobs(path: str | Path, arrays: Mapping[str, _Array]) -> int:
    lengths = {name: array.rows for name, array in arrays.items() if array.rows is not None}
    if not arrays or 0 in lengths.values():
        raise empty_file(path, "arrays named like the fields of a job, such as x, y and degree")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise FileError(f"{path}: the arrays must agree in the number of jobs, their first axis; found {found}")
    return next(iter(lengths.values()), 1)


class _Array:
    """An array in the archive, read from the first row to the last."""

    def __init__(self, archive: zipfile.ZipFile, member: str) -> None:
        self._stream = archive.open(member)
        shape, in_columns, self._dtype = _HEADERS[npy.read_magic(self._stream)](self._stream)
        is_list = _field(member) in _LIST_FIELDS and self._dtype.kind not in "US"
        if self._dtype.hasobject or not is_list <= len(shape) <= is_list + 1:
            raise ValueError(f"{_field(member)} has shape {shape} and holds {self._dtype}")
        #: Number of jobs; None where the value is that of all jobs.
        self.rows = shape[0] if len(shape) > is_list else None
        #: Numbers for each job.
        self.width = max(shape[-1], 1) if is_list else 1
        self._shape = shape[-1:] if is_list else ()
        # Rows in Fortran's order are scattered over the whole array.
        self._rest = self._read(shape, "F") if in_columns or self.rows is None else None

    def next_rows(self, count: int) -> pa.Array:
        """The values of the next `count` jobs."""
        if self._rest is None:
            return _column(self._read((count, *self._shape), "C"))
        if self.rows is None:
            return _column(np.broadcast_to(self._rest, (count, *self._shape)))
        rows, self._rest = self._rest[:count], self._rest[count:]
        return _column(rows)

    def _read(self, shape: tuple[int, ...], order: Literal["C", "F"]) -> NDArray[Any]:
        data = self._stream.read(math.prod(shape) * self._dtype.itemsize)
        values = np.frombuffer(data, self._dtype).astype(self._dtype.newbyteorder("="), copy=False)
        return values.reshape(shape, order=order)


def _column(values: NDArray[Any]) -> pa.Array:
    """An array of shape (jobs,) as numbers, one of shape (jobs, length) as lists."""
    flat = pa.array(values.reshape(-1))
    if values.ndim == 1:
        return flat
    rows, length = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * length, pa.int32()), flat)
