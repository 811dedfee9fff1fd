"""One job, `FitJob`: its fields, defaults, limits, and the messages when it breaks a rule."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import inspect

from fitq_shared.errors import JobError
from fitq_shared.json_text import decoded
from fitq_shared.plain import fitting, given

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_DEGREE = 30
MAX_SAMPLES = 100_000
MAX_STEPS = 1_000_000
MAX_ID_LENGTH = 200
MAX_RESTARTS = 1000

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
    #: Each as torch.optim has it, lbfgs with a line search; `exact` solves the least-squares problem without a descent.
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
    #: Starting coefficients in powers of raw x, highest first; `exact` starts at the least-squares solution; drawn from
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

        from fitq_shared.sampling import draw_samples

        samples = self.samples or Samples()
        seed = self.seed if samples.seed is None else samples.seed
        polynomial = np.asarray(self.polynomial, dtype=np.float64)[:, None]
        x, y = draw_samples(
            polynomial, np.array([seed]), np.array([samples.spread]), np.array([samples.noise]), samples.count
        )
        return x[:, 0], y[:, 0]


#: What a field expects, where msgspec's own words would show a pattern or hide the choices.
_EXPECTED = {
    "id": f"expected text of length <= {MAX_ID_LENGTH} (bytes: in UTF-8) or a whole number",
    "basis": f"expected one of {', '.join(get_args(Basis))}",
    "loss": f"expected one of {', '.join(get_args(Loss))}",
    "optimizer": f"expected one of {', '.join(get_args(Optimizer))}",
    "schedule": f"expected one of {', '.join(get_args(Schedule))}",
    "dtype": f"expected one of {', '.join(get_args(Dtype))}",
    "missing": f"expected one of {', '.join(get_args(Missing))}",
    "init": "expected a list of numbers, highest power first, or exact",
    "trace": "expected none, full, every:K or points:N with N >= 2",
}

#: Fields whose limits an infinite number would pass.
_MUST_BE_FINITE = (
    "polynomial", "init", "lr", "delta", "delta_sigma", "tolerance", "gamma", "eps", "weight_decay", "momentum_decay",
    "ridge", "ftol", "gtol",
)  # fmt: skip

_KIND = inspect.type_info(FitJob)


def job_from_json(line: bytes | str, place: str | None = None, defaults: Mapping[str, object] | None = None) -> FitJob:
    """Read one job from a JSON object; see `job_from_mapping`.

    Raises:
        JobError: not JSON, a key given twice, or a field is wrong; the error names `place`, the job, the field and the
            value.
    """
    return job_from_mapping(decoded(line, place), place, defaults)


def job_from_mapping(
    fields: Mapping[str, object], place: str | None = None, defaults: Mapping[str, object] | None = None
) -> FitJob:
    """Read one job from a dictionary of its fields, arrays welcome; `defaults` are values of those that it does not give.

    None and NaN are not given, but for x and y that are given by name: they miss at every point.

    Raises:
        JobError: a field is wrong; the error names `place`, the job, the field and the value.
    """
    return _obeying_rules(_converted(fields, place, defaults), place)


def defaults_from_mapping(fields: Mapping[str, object]) -> FitJob:
    """Values for the fields that jobs do not give, as a job that has no samples yet.

    Raises:
        JobError: a value that no job may have; the place is `defaults`.
    """
    return _converted(fields, "defaults")


def _converted(fields: Mapping[str, object], place: str | None, defaults: Mapping[str, object] | None = None) -> FitJob:
    if not isinstance(fields, Mapping):  # it may be any JSON
        raise JobError(f"not a job: expected an object of its fields, got {type(fields).__name__}", place=place)
    job = {**given(defaults or {}), **given(fields)}
    job |= _missing_lists(fields, job)
    try:
        return msgspec.convert(job, FitJob)
    except msgspec.ValidationError:
        job = fitting(job, _KIND)  # which looks at every value, and few jobs need it
    try:
        return msgspec.convert(job, FitJob)
    except msgspec.ValidationError as error:
        raise _job_error(error, job).at(place) from None


def _missing_lists(fields: Mapping[str, object], job: Mapping[str, Any]) -> dict[str, list[float]]:
    """x and y that are named in `fields` and hold nothing there: NaN at each point of the lists that `job` has."""
    missing = [name for name in ("x", "y") if name in fields and name not in job]
    if "polynomial" in job or not all(name in missing or name in job for name in ("x", "y")):
        return {}
    points = next((len(job[name]) for name in ("x", "y", "weights") if isinstance(job.get(name), Sequence)), 0)
    return {name: [math.nan] * points for name in missing}


def _obeying_rules(job: FitJob, place: str | None) -> FitJob:
    """`job` itself when its fields agree with each other."""
    for field, broken, rule in _rules(job):
        if broken:
            raise JobError(rule, field=field, value=getattr(job, field), job=job.id, place=place)
    return job


def _rules(job: FitJob) -> list[tuple[str, bool, str]]:
    """(field, is it broken, what is expected) for each rule that needs more than one field or finite numbers."""
    explicit, generated = job.x is not None or job.y is not None, job.polynomial is not None
    points = len(job.x or ())
    return [
        ("id", not _is_unicode(job.id), "expected text that UTF-8 can hold"),
        ("polynomial", explicit and generated, "give either x and y or a polynomial, not both"),
        ("x", not explicit and not generated, "give x and y, or a polynomial to draw samples of"),
        ("y", explicit and (job.x is None or len(job.y or ()) != points), "x and y must be lists of the same length"),
        ("x", points > MAX_SAMPLES, f"at most {MAX_SAMPLES} points a job"),
        ("weights", job.weights is not None and len(job.weights) != points, "one weight for each point of x"),
        ("samples", job.samples is not None and not generated, "samples describe how a polynomial is drawn; give one"),
        ("init", _has_other_length(job.init, job.degree + 1), f"degree + 1 = {job.degree + 1} numbers, or exact"),
        (
            "optimizer",
            job.optimizer == "exact" and job.loss != "mse",
            "exact solves least squares: it goes with loss mse only",
        ),
        ("nesterov", job.nesterov and not job.momentum, "momentum must be above 0 for it"),
        *((name, not _finite(getattr(job, name)), "finite numbers") for name in _MUST_BE_FINITE),
        ("samples", not _finite([job.samples.spread, job.samples.noise] if job.samples else None), "finite numbers"),
    ]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_other_length(init: list[float] | str | None, size: int) -> bool:
    return isinstance(init, list) and len(init) != size


def _finite(value: list[float] | float | str | None) -> bool:
    if value is None or isinstance(value, str):
        return True
    return all(math.isfinite(number) for number in value) if isinstance(value, list) else math.isfinite(value)


def _job_error(error: msgspec.ValidationError, fields: object) -> JobError:
    """msgspec's message as ours: which field, what it holds, what was expected."""
    text = str(error)
    job = fields.get("id") if isinstance(fields, Mapping) else None
    job = job if isinstance(job, str) else None
    if unknown := re.search(r"contains unknown field `(.*?)`", text):
        names = ["samples", unknown[1]] if "`$.samples`" in text else [unknown[1]]
        return JobError(_unknown_field_rule(text), field=".".join(names), value=_at(fields, names), job=job)
    rule, _, path = text.partition(" - at `$")
    if not path:
        return JobError(f"not a job: {text}", job=job)
    field = path.removeprefix(".").removesuffix("`")
    value = _at(fields, re.findall(r"[^.\[\]]+", field))
    return JobError(_EXPECTED.get(field, rule[:1].lower() + rule[1:]), field=field, value=value, job=job)


def _unknown_field_rule(text: str) -> str:
    known = Samples.__struct_fields__ if "`$.samples`" in text else FitJob.__struct_fields__
    return f"no such field; known are {', '.join(known)}"


def _at(fields: Any, path: list[str]) -> object:
    """The value at `path` in decoded JSON; None where the path does not lead anywhere."""
    for step in path:
        try:
            fields = fields[int(step)] if isinstance(fields, list) else fields[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return fields
