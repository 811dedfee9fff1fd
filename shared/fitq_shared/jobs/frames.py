"""Frames: Arrow record batches of jobs, results and traces, in IPC form, compressed with zstd.

The schema of a frame carries its kind and the version of this layout as metadata. A worker refuses a frame of another
version instead of guessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq_shared.errors import FrameError
from fitq_shared.jobs.job import FitJob, Samples

FRAME_VERSION = 4
#: zstd's fast end: losses hardly compress, and a higher level costs three times the time for a tenth fewer bytes.
ZSTD_LEVEL = -7

_floats = pa.list_(pa.float64())
#: A column of few different words.
_word = pa.dictionary(pa.int8(), pa.string())


class Status(StrEnum):
    """How one fit ended."""

    #: The fit ended within the job's tolerance of the optimum.
    CONVERGED = "converged"
    #: The step limit came first; `gap` says how far from the optimum.
    MAX_STEPS = "max_steps"
    #: `ftol` or `gtol` stopped the descent before it came within the tolerance of the optimum.
    STALLED = "stalled"
    #: The loss became infinite, or ended above where it began.
    DIVERGED = "diverged"
    #: The samples do not determine the coefficients: too few points, or too few different x.
    DEGENERATE = "degenerate"
    #: A sample or weight is missing, not finite, negative or too large.
    INVALID = "invalid"
    #: The worker could not fit it for a reason outside the job.
    ERROR = "error"


#: Statuses that give no usable coefficients.
FAILED = (Status.DIVERGED, Status.DEGENERATE, Status.INVALID, Status.ERROR)

JOB_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        ("x", _floats),
        ("y", _floats),
        ("weights", _floats),
        ("polynomial", _floats),
        ("count", pa.int32()),
        ("spread", pa.float64()),
        ("noise", pa.float64()),
        ("samples_seed", pa.int64()),
        ("missing", pa.string()),
        ("degree", pa.int32()),
        ("basis", pa.string()),
        ("loss", pa.string()),
        ("delta", pa.float64()),
        ("delta_sigma", pa.float64()),
        ("ridge", pa.float64()),
        ("optimizer", pa.string()),
        ("dtype", pa.string()),
        ("lr", pa.float64()),
        ("steps", pa.int32()),
        ("schedule", pa.string()),
        ("gamma", pa.float64()),
        ("step_size", pa.int32()),
        ("beta1", pa.float64()),
        ("beta2", pa.float64()),
        ("eps", pa.float64()),
        ("weight_decay", pa.float64()),
        ("momentum", pa.float64()),
        ("nesterov", pa.bool_()),
        ("smoothing", pa.float64()),
        ("momentum_decay", pa.float64()),
        ("seed", pa.int64()),
        ("init", _floats),
        ("init_exact", pa.bool_()),
        ("restarts", pa.int32()),
        ("ftol", pa.float64()),
        ("patience", pa.int32()),
        ("gtol", pa.float64()),
        ("tolerance", pa.float64()),
        ("trace", pa.string()),
        ("absolute_sigma", pa.bool_()),
        ("covariance", pa.bool_()),
        # JSON text of an object, null where the job has none.
        ("tags", pa.string()),
        # Where the first point that cannot be fitted was read (`life.csv:17`); null where the reader knows none.
        ("place", pa.string()),
        # The row of a frame of SETS_SCHEMA that has x, y and weights; null where they are in this row, or drawn.
        ("sample_set", pa.int32()),
    ],
    metadata={"fitq.kind": "jobs", "fitq.version": str(FRAME_VERSION)},
)

#: Sample sets that several jobs share, each once.
SETS_SCHEMA = pa.schema(
    [("x", _floats), ("y", _floats), ("weights", _floats)],
    metadata={"fitq.kind": "sets", "fitq.version": str(FRAME_VERSION)},
)

#: The columns in which the jobs of a chunk agree, so that one tensor program fits them all.
SHAPE_COLUMNS = ("degree", "basis", "loss", "optimizer", "dtype", "trace")

RESULT_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("message", pa.string()),
        ("degree", pa.int32()),
        ("basis", _word),
        ("loss_function", _word),
        ("optimizer", _word),
        ("lr", pa.float64()),
        ("steps_limit", pa.int32()),
        ("delta", pa.float64()),
        ("coefficients", _floats),
        ("scaled_coefficients", _floats),
        ("basis_coefficients", _floats),
        ("domain", _floats),
        ("loss", pa.float64()),
        ("initial_loss", pa.float64()),
        ("exact_loss", pa.float64()),
        ("gap", pa.float64()),
        ("exact_coefficients", _floats),
        ("steps", pa.int32()),
        ("r2", pa.float64()),
        ("rmse", pa.float64()),
        ("stderr", _floats),
        ("stderrs_off", pa.float64()),
        ("covariance", _floats),
        ("scaled_covariance", _floats),
        ("condition", pa.float64()),
        ("rank", pa.int32()),
        ("samples_used", pa.int32()),
        ("samples_dropped", pa.int32()),
        ("restart", pa.int32()),
        ("seed", pa.int64()),
        ("tags", pa.string()),
        ("device", _word),
        ("chunk", pa.int32()),
    ],
    metadata={"fitq.kind": "results", "fitq.version": str(FRAME_VERSION)},
)

#: `trace`, `steps` (the limit) and `made` say to which step each loss belongs, through `recorded_steps` in
#: `fitq_shared.jobs.trace`.
#: A loss is `loss` times 2^`exponent`: y of any scale has traces of full precision.
TRACE_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        ("trace", pa.string()),
        ("steps", pa.int32()),
        ("made", pa.int32()),
        ("loss", pa.list_(pa.float32())),
        pa.field("exponent", pa.int16(), nullable=False),
    ],
    metadata={"fitq.kind": "traces", "fitq.version": str(FRAME_VERSION)},
)


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
    """The record batch in `frame`, which must be of the kind and version of `schema`.

    Raises:
        FrameError: not a frame, or one of another kind or version.
    """
    try:
        with pa.ipc.open_stream(frame, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowInvalid, StopIteration, OSError) as error:
        raise FrameError(f"not an Arrow IPC frame ({error}); was the key written by something else?") from None
    found, expected = batch.schema.metadata or {}, schema.metadata
    if found != expected or batch.schema.names != schema.names:
        raise FrameError(
            f"frame is {_described(found)}, expected {_described(expected)}; run the same version of fitq everywhere"
        )
    return batch


def _samples_seed(job: FitJob, spec: Samples | None) -> int | None:
    if spec is None:
        return None
    return job.seed if spec.seed is None else spec.seed


def _described(metadata: dict[bytes, bytes]) -> str:
    kind, version = metadata.get(b"fitq.kind", b"of no kind"), metadata.get(b"fitq.version", b"?")
    return f"{kind.decode()} version {version.decode()}"
