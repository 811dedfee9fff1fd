"""Schemas: the columns of jobs, shared sample sets, results and traces, and the statuses of fits."""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

#: Version of the layout of frames.
FRAME_VERSION = 4
#: Versions that this one reads. From 4 on the version before the present one stays readable, so that a fleet can be
#: upgraded while chunks wait: workers first, then clients.
READABLE_VERSIONS = (4,)

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
#: Statuses of fits whose jobs are kept after the commit, to be fitted again with other settings.
KEPT = (*FAILED, Status.STALLED)

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
#: A loss is `loss` times 2^`exponent`: y of any scale has traces of full precision. It is in units of y for `l1`, of y
#: squared for the other losses.
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
