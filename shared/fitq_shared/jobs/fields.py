"""What the fields of a job may hold: limits, choices and types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_DEGREE = 30
#: Points of one job. Of `mse` a descent sees sums over them, of the other losses every point in every step.
MAX_SAMPLES = 10_000_000
MAX_SAMPLES_BUT_MSE = 100_000
MAX_STEPS = 1_000_000
MAX_ID_LENGTH = 200
#: Jobs of one frame, and so of one chunk.
MAX_FRAME_JOBS = 32768
MAX_RESTARTS = 1000
#: Losses of the traces of one job: restarts x losses that each records. They are kept until the best start is known.
MAX_RECORDED_LOSSES = 2**26
#: Numbers that a descent of another loss than `mse` holds at once: restarts x points x coefficients.
MAX_NUMBERS_HELD = 10**8
#: Points that such a descent looks at in all: restarts x steps x points.
MAX_POINTS_VISITED = 10**12

Basis = Literal["orthogonal", "chebyshev", "legendre", "power"]
Loss = Literal["mse", "huber", "l1", "log_cosh"]
Optimizer = Literal["nadam", "adam", "adamw", "sgd", "rmsprop", "adagrad", "lbfgs", "exact"]
Schedule = Literal["constant", "cosine", "exponential", "step"]
Dtype = Literal["float32", "float64"]
Missing = Literal["invalid", "drop"]
Degree = Annotated[int, msgspec.Meta(ge=0, le=MAX_DEGREE)]
Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_SAMPLES)]
Steps = Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Restarts = Annotated[int, msgspec.Meta(ge=1, le=MAX_RESTARTS)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Tag = str | int | float | bool | None
#: Which losses of the descent are kept: `none`, `full`, `every:K` or `points:N` (evenly spaced, both ends included).
Trace = Annotated[str, msgspec.Meta(pattern=r"^(none|full|every:[1-9][0-9]{0,6}|points:([2-9]|[1-9][0-9]{1,6}))$")]
