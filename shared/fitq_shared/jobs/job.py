"""One job, `FitJob`: its fields and their defaults, and how it is read from JSON and from dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import inspect

from fitq_shared.errors import JobError
from fitq_shared.jobs.fields import (
    MAX_DEGREE,
    MAX_ID_LENGTH,
    Basis,
    Count,
    Degree,
    Dtype,
    Fraction,
    Loss,
    Missing,
    NotNegative,
    Optimizer,
    Positive,
    Restarts,
    Schedule,
    Seed,
    Steps,
    Tag,
    Trace,
)
from fitq_shared.jobs.json_text import decoded
from fitq_shared.jobs.plain_values import fitting, given, missing_lists
from fitq_shared.jobs.refusals import job_error
from fitq_shared.jobs.rules import check, check_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Samples(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the worker draws a sample set from `FitJob.polynomial`: x ~ spread * N(0, 1), y = p(x) + noise * N(0, 1)."""

    #: Number of points.
    count: Count = 20
    #: Standard deviation of x, in units of x.
    spread: Positive = 5.0
    #: Standard deviation of the error added to y, in units of y.
    noise: NotNegative = 0.0
    #: Seed of the drawing; the job's own where it is None.
    seed: Seed | None = None


class FitJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One polynomial fit: a sample set, a model, hyperparameters.

    The sample set is either explicit (`x`, `y`, perhaps `weights`) or generated (`polynomial`, `samples`). None or NaN
    among the values makes that fit `invalid`; it is no error of the job. Defaults are those of the notebook's loop, but
    for `basis`. Constructing one checks nothing; `checked()`, which every way of submitting calls, does.
    """

    #: Name of the job, unique in its submission; its position (from 0) when empty.
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)] = ""
    x: Sequence[float | None] | None = None
    y: Sequence[float | None] | None = None
    #: Weight of each point in the mean of squares, 0 drops the point; all 1 when None.
    weights: Sequence[float | None] | None = None
    #: Coefficients of the polynomial to draw samples of, highest power first as in `np.poly1d`.
    polynomial: Annotated[list[float], msgspec.Meta(min_length=1, max_length=MAX_DEGREE + 1)] | None = None
    samples: Samples | None = None
    #: What a null or NaN in x, y or weights does: it makes the fit `invalid`, or `drop` leaves that point out.
    missing: Missing = "invalid"
    degree: Degree = 2
    #: `orthogonal`: polynomials orthonormal on the sample points. `chebyshev`, `legendre`: of x mapped to [-1, 1]. In all
    #: three y is standardised. `power`: raw powers of x and y, as they are.
    basis: Basis = "orthogonal"
    #: Mean over the points of r^2, Huber's r^2 / 2 within `delta` and delta (|r| - delta / 2) beyond, |r|, or log(cosh(r)),
    #: r = p(x) - y in units of y.
    loss: Loss = "mse"
    delta: Positive = 1.0
    #: `delta` in robust standard deviations: 1.4826 times the median absolute deviation from the l1 fit. None is not given.
    delta_sigma: Positive | None = None
    #: Added to the loss: ridge times the sum of squares of the basis coefficients, in units of y, all but the constant's.
    ridge: NotNegative = 0.0
    #: Each as torch.optim has it, lbfgs with a line search; `exact` is the optimum of the loss, without a descent.
    optimizer: Optimizer = "nadam"
    #: Precision of the descent; everything else is float64.
    dtype: Dtype = "float32"
    #: Learning rate, for lbfgs the first trial of a step; None is 0.01, for lbfgs 1.
    lr: Positive | None = None
    steps: Steps = 1000
    #: Factor of the learning rate at step t: `constant` 1, `cosine` (1 + cos(pi t / steps)) / 2, `exponential`
    #: gamma^(t / step_size), `step` gamma^floor(t / step_size).
    schedule: Schedule = "constant"
    gamma: Positive = 0.1
    step_size: Steps = 100
    #: Decay of the mean of gradients (nadam, adam, adamw).
    beta1: Fraction = 0.9
    #: Decay of the mean of squared gradients (nadam, adam, adamw).
    beta2: Fraction = 0.999
    #: Added to the root of the mean square; None is 1e-8, for adagrad 1e-10 (all but sgd).
    eps: Positive | None = None
    #: Pull towards zero, decoupled from the gradient for adamw; None is 0, for adamw 0.01 (all).
    weight_decay: NotNegative | None = None
    #: (sgd, rmsprop)
    momentum: Fraction = 0.0
    #: (sgd)
    nesterov: bool = False
    #: Decay of the mean of squared gradients, torch's alpha (rmsprop).
    smoothing: Fraction = 0.99
    #: (nadam)
    momentum_decay: NotNegative = 4e-3
    #: Key of the generator that draws the starting coefficients, and the samples unless `samples.seed` is given.
    seed: Seed = 0
    #: Starting coefficients in powers of raw x, highest first; `exact` starts at the optimum of the loss; drawn from
    #: N(0, 1) in the basis when None.
    init: list[float] | Literal["exact"] | None = None
    #: Descents from so many starts, of which the one with the lowest loss is kept; all but the first are drawn.
    restarts: Restarts = 1
    #: Stop when the loss has not fallen by this share of it within `patience` steps; None never does.
    ftol: NotNegative | None = None
    patience: Steps = 100
    #: Stop when the norm of the gradient, in the coordinates of the descent, is at most this; None never does.
    gtol: NotNegative | None = None
    #: The fit is `converged` when it ends with a gap (in units of the variance of y) of at most this.
    tolerance: NotNegative = 1e-3
    trace: Trace = "points:100"
    #: The weights are 1 / sigma^2: standard errors and covariance are not scaled by the residual variance.
    absolute_sigma: bool = False
    #: Return the covariance matrix of the coefficients.
    covariance: bool = False
    #: Facts about the job that its result carries along, by name.
    tags: dict[str, Tag] | None = None

    @property
    def effective_lr(self) -> float:
        """`lr` with the optimizer's default filled in."""
        return self.lr if self.lr is not None else 1.0 if self.optimizer == "lbfgs" else 0.01

    @property
    def effective_eps(self) -> float:
        """`eps` with the optimizer's default filled in."""
        return self.eps if self.eps is not None else 1e-10 if self.optimizer == "adagrad" else 1e-8

    @property
    def effective_weight_decay(self) -> float:
        """`weight_decay` with the optimizer's default filled in."""
        return self.weight_decay if self.weight_decay is not None else 0.01 if self.optimizer == "adamw" else 0.0

    @property
    def points(self) -> int:
        """Number of points, given or to be drawn."""
        return len(self.x or ()) if self.polynomial is None else (self.samples or Samples()).count

    def checked(self) -> FitJob:
        """The same job with arrays turned into lists and every field checked.

        Raises:
            JobError: a field has a wrong type, breaks a limit or contradicts another one.
        """
        # None is a field that is not given; in a line or a row that gives it by name, null may be a missing list.
        fields = msgspec.structs.asdict(self).items()
        return job_from_mapping({name: value for name, value in fields if value is not None})

    def draw(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The sample set that the worker will draw: x and y, float64 of shape (count,), the same bits on every machine.

        Raises:
            JobError: the job has no `polynomial`.
        """
        if self.polynomial is None:
            raise JobError("only a job with a polynomial draws its samples", job=self.id)
        import numpy as np

        from fitq_shared.jobs.sampling import draw_samples

        samples = self.samples or Samples()
        seed = self.seed if samples.seed is None else samples.seed
        polynomial = np.asarray(self.polynomial, dtype=np.float64)[:, None]
        x, y = draw_samples(
            polynomial, np.array([seed]), np.array([samples.spread]), np.array([samples.noise]), samples.count
        )
        return x[:, 0], y[:, 0]


_KIND = inspect.type_info(FitJob)
_KNOWN = {"": FitJob.__struct_fields__, "samples": Samples.__struct_fields__}


def job_from_json(
    line: bytes | str,
    place: str | None = None,
    defaults: Mapping[str, object] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> FitJob:
    """Read one job from a JSON object; see `job_from_mapping`.

    `overrides` are values of fields whatever it gives: as if it had not given them, and these were their defaults.

    Raises:
        JobError: not JSON, a key given twice, or a field is wrong; the error names `place`, the job, the field and the
            value.
    """
    fields = decoded(line, place)
    if overrides and isinstance(fields, dict):
        fields = {name: value for name, value in fields.items() if name not in overrides}
        defaults = {**(defaults or {}), **overrides}
    return job_from_mapping(fields, place, defaults)


def job_from_mapping(
    fields: Mapping[str, object], place: str | None = None, defaults: Mapping[str, object] | None = None
) -> FitJob:
    """Read one job from a dictionary of its fields, arrays welcome; `defaults` are values of those that it does not give.

    None and NaN are not given, but for x and y that are given by name: they miss at every point.

    Raises:
        JobError: a field is wrong; the error names `place`, the job, the field and the value.
    """
    job = _converted(fields, place, defaults)
    check(job, place)
    return job


def defaults_from_mapping(fields: Mapping[str, object], place: str = "defaults") -> FitJob:
    """Values for the fields that jobs do not give, as a job that has no samples yet.

    Raises:
        JobError: a value that no job may have, at `place`. Whether several fields go together only each job can say.
    """
    job = _converted(fields, place)
    check_fields(job, place)
    return job


def _converted(fields: Mapping[str, object], place: str | None, defaults: Mapping[str, object] | None = None) -> FitJob:
    if not isinstance(fields, Mapping):  # it may be any JSON
        raise JobError(f"not a job: expected an object of its fields, got {type(fields).__name__}", place=place)
    job = {**given(defaults or {}), **given(fields)}
    job |= missing_lists(fields, job)
    try:
        return msgspec.convert(job, FitJob)
    except msgspec.ValidationError:
        job = fitting(job, _KIND)  # which looks at every value, and few jobs need it
    try:
        return msgspec.convert(job, FitJob)
    except msgspec.ValidationError as error:
        raise job_error(error, job, _KNOWN).at(place) from None
