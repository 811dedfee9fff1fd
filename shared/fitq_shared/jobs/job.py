"""One job, `FitJob`: its fields and their defaults, and how it is read from JSON and from dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, inspect

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
from fitq_shared.jobs.json_text import decode_json
from fitq_shared.jobs.plain_values import convert_losslessly, drop_missing, missing_lists
from fitq_shared.jobs.refusals import explain_refusal
from fitq_shared.jobs.rules import check, check_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Samples(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the worker draws a sample set from `FitJob.polynomial`: x ~ spread * N(0, 1), y = p(x) + noise * N(0, 1)."""

    count: Annotated[Count, Meta(description="Number of points.")] = 20
    spread: Annotated[Positive, Meta(description="Standard deviation of x, in units of x.")] = 5.0
    noise: Annotated[NotNegative, Meta(description="Standard deviation of the error added to y, in units of y.")] = 0.0
    seed: Annotated[Seed | None, Meta(description="Seed of the drawing; the job's own where it is None.")] = None


class FitJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One polynomial fit: a sample set, a model, hyperparameters.

    The sample set is either explicit (`x`, `y`, perhaps `weights`) or generated (`polynomial`, `samples`). None or NaN
    among the values makes that fit `invalid`; it is no error of the job. Defaults are those of the notebook's loop, but
    for `basis`. Constructing one checks nothing; `checked()`, which every way of submitting calls, does.

    The description of a field is its reference. Its first sentence is the help of the command line's option.
    """

    id: Annotated[
        str,
        Meta(
            max_length=MAX_ID_LENGTH, description="Name of the job, unique in its submission; its position from 0 if empty."
        ),
    ] = ""
    x: Annotated[
        Sequence[float | None] | None,
        Meta(description="x of each point. A null or NaN among them, or null for the whole list, makes the fit `invalid`."),
    ] = None
    y: Annotated[Sequence[float | None] | None, Meta(description="y of each point; as `x`.")] = None
    weights: Annotated[
        Sequence[float | None] | None,
        Meta(
            description="Weight of each point in the mean of the loss, all 1 if not given. A point of weight 0 is none, "
            "whatever its x and y are."
        ),
    ] = None
    polynomial: Annotated[
        Annotated[list[float], Meta(min_length=1, max_length=MAX_DEGREE + 1)] | None,
        Meta(
            description="Instead of x and y: coefficients of the polynomial to draw samples of, highest power first as in "
            "`np.poly1d`."
        ),
    ] = None
    samples: Annotated[
        Samples | None,
        Meta(
            description="How to draw them: an object of `count` (20), `spread` (5), `noise` (0) and `seed` (the job's own); "
            "x ~ spread N(0, 1), y = p(x) + noise N(0, 1)."
        ),
    ] = None
    missing: Annotated[
        Missing,
        Meta(
            description="What a missing value in x, y or weights does: the fit is `invalid`, or `drop` the point. Infinite "
            "numbers stay `invalid`."
        ),
    ] = "invalid"
    degree: Annotated[Degree, Meta(description="Degree of the fitted polynomial.")] = 2
    basis: Annotated[
        Basis,
        Meta(
            description="Basis of the descent. `orthogonal`: polynomials orthonormal on the sample points. `chebyshev`, "
            "`legendre`: of x mapped to [-1, 1]. In all three y is standardised (for robust losses by median and median "
            "absolute deviation). `power`: raw powers of x and y as they are, the notebook's own trajectory."
        ),
    ] = "orthogonal"
    loss: Annotated[
        Loss,
        Meta(
            description="What is minimised. Mean over the points of r² (`mse`), r² / 2 within `delta` and "
            "delta (|r| - delta / 2) beyond (`huber`), |r| (`l1`) or log(cosh(r)) (`log_cosh`); r = p(x) - y in units of y. "
            "Only `mse` has compiled kernels."
        ),
    ] = "mse"
    delta: Annotated[Positive, Meta(description="huber: residual from which the loss is linear, in units of y.")] = 1.0
    delta_sigma: Annotated[
        Positive | None,
        Meta(
            description="huber: `delta` in robust standard deviations. One is 1.4826 times the median absolute deviation "
            "from the l1 fit; 1.345 is usual."
        ),
    ] = None
    ridge: Annotated[
        NotNegative,
        Meta(
            description="Penalty on the squares of the basis coefficients. Added to the loss: ridge times the sum of these "
            "squares, in units of y, of all but the constant's."
        ),
    ] = 0.0
    optimizer: Annotated[
        Optimizer,
        Meta(
            description="As torch.optim has them; `exact` is the optimum, without a descent. `lbfgs` keeps 10 pairs of "
            "history and has a line search of each fit's own."
        ),
    ] = "nadam"
    dtype: Annotated[Dtype, Meta(description="Precision of the descent. Everything else is float64.")] = "float32"
    lr: Annotated[
        Positive | None,
        Meta(description="Learning rate. 0.01 if not given; for lbfgs the first trial of a step, and 1 if not given."),
    ] = None
    steps: Annotated[Steps, Meta(description="Largest number of steps of the descent.")] = 1000
    schedule: Annotated[
        Schedule,
        Meta(
            description="How the learning rate falls. Its factor at step t is 1 (`constant`), (1 + cos(π t / steps)) / 2 "
            "(`cosine`), gamma^(t / step_size) (`exponential`) or gamma^⌊t / step_size⌋ (`step`)."
        ),
    ] = "constant"
    gamma: Annotated[Positive, Meta(description="Schedules exponential, step: factor for each step size.")] = 0.1
    step_size: Annotated[Steps, Meta(description="Schedules exponential, step: steps of one factor.")] = 100
    beta1: Annotated[Fraction, Meta(description="nadam, adam, adamw: decay of the mean of gradients.")] = 0.9
    beta2: Annotated[Fraction, Meta(description="nadam, adam, adamw: decay of the mean of squared gradients.")] = 0.999
    eps: Annotated[
        Positive | None,
        Meta(description="All but sgd: added to the root of the mean square. 1e-8 if not given, for adagrad 1e-10."),
    ] = None
    weight_decay: Annotated[
        NotNegative | None,
        Meta(
            description="Pull of the coefficients towards zero. Decoupled from the gradient for adamw; 0 if not given, for "
            "adamw 0.01."
        ),
    ] = None
    momentum: Annotated[Fraction, Meta(description="sgd, rmsprop: momentum.")] = 0.0
    nesterov: Annotated[bool, Meta(description="sgd: Nesterov's momentum.")] = False
    smoothing: Annotated[
        Fraction, Meta(description="rmsprop: decay of the mean of squared gradients. Called alpha in torch.")
    ] = 0.99
    momentum_decay: Annotated[NotNegative, Meta(description="nadam: decay of the momentum.")] = 4e-3
    seed: Annotated[
        Seed,
        Meta(
            description="Seed of the starting coefficients, which are N(0, 1) in the basis. Of the samples too, where "
            "`samples` has none of its own."
        ),
    ] = 0
    init: Annotated[
        list[float] | Literal["exact"] | None,
        Meta(
            description="Starting coefficients in powers of x, highest first; `exact` starts at the optimum of the loss. "
            "Drawn if not given."
        ),
    ] = None
    restarts: Annotated[
        Restarts,
        Meta(
            description="Number of starts, of which the one with the lowest loss is kept. The first is `init` or drawn with "
            "the seed, the others are drawn."
        ),
    ] = 1
    ftol: Annotated[
        NotNegative | None,
        Meta(description="Stop when the loss has not fallen by this share of it within `patience` steps."),
    ] = None
    patience: Annotated[Steps, Meta(description="Number of steps that `ftol` looks back.")] = 100
    gtol: Annotated[
        NotNegative | None,
        Meta(
            description="Stop when the norm of the gradient is at most this. It is that in the coordinates of the descent."
        ),
    ] = None
    tolerance: Annotated[
        NotNegative,
        Meta(description="Largest gap of a `converged` fit. The gap is in units of the variance of y."),
    ] = 1e-3
    trace: Annotated[Trace, Meta(description="Losses to keep: `none`, `full`, `every:K` or `points:N`.")] = "points:100"
    absolute_sigma: Annotated[
        bool,
        Meta(
            description="The weights are 1/σ². Standard errors and covariance are then not scaled by the residual variance."
        ),
    ] = False
    covariance: Annotated[bool, Meta(description="Return the covariance matrix of the coefficients.")] = False
    tags: Annotated[
        dict[str, Tag] | None,
        Meta(description="Facts that the result carries along: an object of text, numbers, true, false and null."),
    ] = None

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
    fields = decode_json(line, place)
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
    job = _convert(fields, place, defaults)
    check(job, place)
    return job


def defaults_from_mapping(fields: Mapping[str, object], place: str = "defaults") -> FitJob:
    """Values for the fields that jobs do not give, as a job that has no samples yet.

    Raises:
        JobError: a value that no job may have, at `place`. Whether several fields go together only each job can say.
    """
    job = _convert(fields, place)
    check_fields(job, place)
    return job


def _convert(fields: Mapping[str, object], place: str | None, defaults: Mapping[str, object] | None = None) -> FitJob:
    if not isinstance(fields, Mapping):  # it may be any JSON
        raise JobError(f"not a job: expected an object of its fields, got {type(fields).__name__}", place=place)
    job = {**drop_missing(defaults or {}), **drop_missing(fields)}
    job |= missing_lists(fields, job)
    try:
        return msgspec.convert(job, FitJob)
    except (msgspec.ValidationError, ValueError):
        job = convert_losslessly(job, _KIND)  # which looks at every value, and few jobs need it
    try:
        return msgspec.convert(job, FitJob)
    except msgspec.ValidationError as error:
        raise explain_refusal(error, job, _KNOWN).with_place(place) from None
    except ValueError as error:  # a number that no float can be, such as a signaling NaN of decimal
        raise JobError(f"a value that cannot be read ({error})", place=place) from None
