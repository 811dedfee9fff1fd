"""Frames: Arrow record batches of jobs, results and traces, in IPC form, compressed with zstd.

The schema of a frame carries its kind and the version of its layout as metadata. A frame of a version that is not known
is refused instead of guessed at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq_shared.errors import FrameError
from fitq_shared.jobs.columns import repeats_one_word
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.schemas import JOB_SCHEMA, READABLE_VERSIONS, SHAPE_COLUMNS
from fitq_shared.jobs.unpacked_size import check_unpacked_size

#: zstd's fast end: losses hardly compress, and a higher level costs three times the time for a tenth fewer bytes.
ZSTD_LEVEL = -7


def jobs_batch(jobs: Sequence[FitJob], first_index: int = 0) -> pa.RecordBatch:
    """Checked jobs as a record batch of JOB_SCHEMA, numbered from `first_index`; an empty id becomes that number."""
    samples = [job.samples or (Samples() if job.polynomial is not None else None) for job in jobs]
    columns: dict[str, Iterable[Any]] = {
        "index": range(first_index, first_index + len(jobs)),
        "id": [job.id or str(index) for index, job in enumerate(jobs, first_index)],
        "count": [spec and spec.count for spec in samples],
        "spread": [spec and spec.spread for spec in samples],
        "noise": [None if spec is None else spec.noise for spec in samples],
        "lr": [job.effective_lr for job in jobs],
        "eps": [job.effective_eps for job in jobs],
        "init": [None if job.init == "exact" else job.init for job in jobs],
        "init_exact": [job.init == "exact" for job in jobs],
        "weight_decay": [job.effective_weight_decay for job in jobs],
        "samples_seed": [_samples_seed(job, spec) for job, spec in zip(jobs, samples, strict=True)],
        "tags": [None if job.tags is None else msgspec.json.encode(job.tags).decode() for job in jobs],
        "place": [None] * len(jobs),
        "sample_set": [None] * len(jobs),
    }
    arrays = [
        pa.array(columns.get(field.name) or [getattr(job, field.name) for job in jobs], field.type) for field in JOB_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=JOB_SCHEMA)


def shape_name(jobs: pa.RecordBatch) -> str:
    """What the jobs of a chunk agree in, as text."""
    return " ".join(str(jobs[name][0].as_py()) for name in SHAPE_COLUMNS)


def sample_counts(jobs: pa.RecordBatch, sets: pa.RecordBatch | None = None) -> NDArray[np.int64]:
    """Number of samples of each job, given, shared (a row of `sets`, of SETS_SCHEMA) or to be drawn."""
    counts = pc.coalesce(pc.list_value_length(jobs["x"]), jobs["count"])
    if sets is not None:
        counts = pc.coalesce(pc.list_value_length(sets["x"]).take(jobs["sample_set"]), counts)
    return np.asarray(counts.to_numpy(zero_copy_only=False), dtype=np.int64)


def encode(batch: pa.RecordBatch) -> bytes:
    """A record batch as an Arrow IPC stream with zstd-compressed buffers."""
    sink = pa.BufferOutputStream()
    # Without threads: a worker has one core, and a small frame would wait for them as long as for the rest.
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=ZSTD_LEVEL), use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(memoryview(sink.getvalue()))


def decode(frame: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The record batch in `frame`, which must be of the kind of `schema` and of one of READABLE_VERSIONS.

    Whatever the bytes are, the arrays hold together: no offset, index or text in them leads astray. What the values mean is
    not looked at.

    Raises:
        FrameError: not a frame, one of another kind or version, or one that takes too much memory.
    """
    with not_a_frame():
        check_unpacked_size(frame)
        with pa.ipc.open_stream(frame, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            _check_schema(reader.schema, schema)
            batch = reader.read_next_batch()
        _validate(batch)
    return batch


@contextmanager
def not_a_frame() -> Iterator[None]:
    """Turn what Arrow says of bytes that it cannot read into a FrameError."""
    try:
        yield
    except (pa.ArrowException, StopIteration, OSError, UnicodeDecodeError, struct.error) as error:
        raise FrameError(f"not an Arrow IPC frame ({error}); was the key written by something else?") from None


def _check_schema(found: pa.Schema, expected: pa.Schema) -> None:
    """Return when a frame has the kind, the version and the columns that are expected."""
    metadata = found.metadata or {}
    if not _is_readable(metadata, expected.metadata):
        versions = " or ".join(map(str, READABLE_VERSIONS))
        raise FrameError(
            f"frame is {_described(metadata)}, expected {expected.metadata[b'fitq.kind'].decode()} version {versions}; "
            "upgrade workers and clients to the same version of fitq, workers first"
        )
    if not found.equals(expected):
        raise FrameError(f"the columns of the frame are not those of {_described(metadata)}; was it written by fitq?")


def _validate(batch: pa.RecordBatch) -> None:
    for field, column in zip(batch.schema, batch.columns, strict=True):
        column.validate()
        if not repeats_one_word(column):
            column.validate(full=True)
        if column.null_count and not field.nullable:
            raise pa.ArrowInvalid(f"{field.name} is missing in a row")


def _samples_seed(job: FitJob, spec: Samples | None) -> int | None:
    if spec is None:
        return None
    return job.seed if spec.seed is None else spec.seed


def _is_readable(found: dict[bytes, bytes], expected: dict[bytes, bytes]) -> bool:
    versions = {str(version).encode() for version in READABLE_VERSIONS}
    return found.get(b"fitq.kind") == expected[b"fitq.kind"] and found.get(b"fitq.version") in versions


def _described(metadata: dict[bytes, bytes]) -> str:
    kind, version = metadata.get(b"fitq.kind", b"of no kind"), metadata.get(b"fitq.version", b"?")
    return " version ".join(text.decode(errors="replace") for text in (kind, version))
