"""Every optimizer, loss, basis and schedule against the same fit done alone with torch.optim and autograd."""

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray

from fitq_shared.jobs.fields import Basis, Loss, Optimizer, Schedule
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.sampling import START, normals
from fitq_worker.engine import fit

#: So many of the candidates are compared, those that can be.
STEPS, FITS, CANDIDATES = 80, 3, 24
DESCENTS = [name for name in get_args(Optimizer) if name != "exact"]
#: A number of float32 has 24 bits and meets dozens of roundings in a step: a fit in 17 bits is rounded harder.
COARSE_BITS, COARSE_FITS = 17, 3
#: Share of the initial loss by which coarse fits may drift and still tell where a fit in float32 goes.
TELLING = 3e-3
Floats = NDArray[np.float64]
Rounding = Callable[[torch.Tensor], torch.Tensor]


class Alone(NamedTuple):
    """A fit done alone: basis coefficients and loss before each step and at the end, both in units of y."""

    coefficients: Floats
    losses: Floats


class Reference(NamedTuple):
    """A job, what the loop makes of it, and how far from that rounding may lead a fit of the job's own dtype."""

    job: FitJob
    alone: Alone
    drift: Alone


class Units(NamedTuple):
    """What a descent computes with: targets are (y - offset) / unit, its loss is the one in units of y over `scale`."""

    unit: float
    offset: float
    scale: float


def units_of(job: FitJob, y: Floats) -> Units:
    """Mean and spread of y, robust ones for a robust loss, and the loss that the descent has as 1; none in raw powers."""
    if job.basis == "power":
        return Units(1.0, 0.0, 1.0)
    if job.loss == "mse":
        return Units(float(y.std()), float(y.mean()), float(y.var()))
    offset = float(np.median(y))
    unit = 1.4826 * float(np.median(np.abs(y - offset)))
    return Units(unit, offset, unit * {"huber": min(unit, job.delta), "log_cosh": min(unit, 1.0), "l1": 1.0}[job.loss])


def design_matrix(basis: str, x: Floats, degree: int) -> Floats:
    """Columns of the basis at the samples, from numpy."""
    t = (x - (x.max() + x.min()) / 2) / ((x.max() - x.min()) / 2)
    if basis == "orthogonal":
        q, r = np.linalg.qr(np.vander(t, degree + 1, increasing=True))
        orthonormal: Floats = q * np.sign(np.diag(r)) * np.sqrt(len(x))
        return orthonormal
    if basis == "power":
        return np.vander(x, degree + 1, increasing=True)
    vander: Floats = {"chebyshev": chebyshev.chebvander, "legendre": legendre.legvander}[basis](t, degree)
    return vander


def torch_optimizer(job: FitJob, w: torch.Tensor) -> torch.optim.Optimizer:
    """torch's optimizer of the same name with the job's hyperparameters."""
    decay, eps, betas, lr = job.effective_weight_decay, job.effective_eps, (job.beta1, job.beta2), job.effective_lr
    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "nadam": lambda: torch.optim.NAdam([w], lr, betas, eps, decay, job.momentum_decay),
        "adam": lambda: torch.optim.Adam([w], lr, betas, eps, decay),
        "adamw": lambda: torch.optim.AdamW([w], lr, betas, eps, decay),
        "sgd": lambda: torch.optim.SGD([w], lr, job.momentum, 0, decay, job.nesterov),
        "rmsprop": lambda: torch.optim.RMSprop([w], lr, job.smoothing, eps, decay, job.momentum),
        "adagrad": lambda: torch.optim.Adagrad([w], lr, 0, decay, 0, eps),
        "lbfgs": lambda: torch.optim.LBFGS([w], lr, max_iter=1, tolerance_grad=0, tolerance_change=0, history_size=10),
    }
    return made[job.optimizer]()


def torch_schedule(job: FitJob, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """torch's schedule of the same name."""
    schedules = torch.optim.lr_scheduler
    made: dict[str, Callable[[], torch.optim.lr_scheduler.LRScheduler]] = {
        "constant": lambda: schedules.ConstantLR(optimizer, factor=1.0),
        "cosine": lambda: schedules.CosineAnnealingLR(optimizer, job.steps),
        "exponential": lambda: schedules.ExponentialLR(optimizer, job.gamma ** (1 / job.step_size)),
        "step": lambda: schedules.StepLR(optimizer, job.step_size, job.gamma),
    }
    return made[job.schedule]()


def loss_of(job: FitJob, residual: torch.Tensor) -> torch.Tensor:
    """The loss as torch has it, of residuals in units of y."""
    nought = torch.zeros_like(residual)
    if job.loss == "log_cosh":
        return (torch.logaddexp(residual, -residual) - math.log(2)).mean()
    if job.loss == "huber":
        return torch.nn.functional.huber_loss(residual, nought, delta=job.delta)
    return {"mse": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}[job.loss](residual, nought)


def fit_alone(job: FitJob, rounded: Rounding = lambda numbers: numbers) -> Alone:
    """The loop that everybody writes, in float64; `rounded` takes what it starts from and what each step computes."""
    x, y = np.array(job.x, dtype=np.float64), np.array(job.y, dtype=np.float64)
    unit, offset, scale = units_of(job, y)
    design = rounded(torch.tensor(design_matrix(job.basis, x, job.degree)))
    targets = rounded(torch.tensor((y - offset) / unit))
    w = rounded(torch.tensor(normals(np.array([job.seed]), START, job.degree + 1)[:, 0])).requires_grad_()
    optimizer = torch_optimizer(job, w)
    schedule, losses = torch_schedule(job, optimizer), []

    def loss() -> torch.Tensor:
        return loss_of(job, (rounded(design * w).sum(1) - targets) * unit) / scale

    def closure() -> float:
        value = loss()
        (gradient,) = torch.autograd.grad(value, w)
        w.grad = rounded(gradient)
        return value.item()

    for _ in range(job.steps):
        losses.append(optimizer.step(closure))
        schedule.step()
        w.data = rounded(w.data)
    losses.append(loss().item())
    coefficients = w.detach().numpy() * unit
    coefficients[0] += offset
    return Alone(coefficients, np.array(losses) * scale)


def coarse(grid: float) -> Rounding:
    """Rounds to COARSE_BITS in multiples of `grid`, by Dekker's splitting: plain arithmetic that IEEE 754 fixes."""

    def rounded(numbers: torch.Tensor) -> torch.Tensor:
        scaled = numbers.detach() / grid
        split = scaled * (2.0 ** (53 - COARSE_BITS) + 1)
        return numbers + ((split - (split - scaled)) * grid - numbers.detach())  # its gradient is that of `numbers`

    return rounded


def drift_of(job: FitJob, alone: Alone) -> Alone:
    """Method far rounding in float32 may lead a fit away from `alone`: coefficients, and losses up to each step.

    Rounding grows along some fits, a millionfold where L-BFGS takes it for curvature, and each program ends elsewhere.
    Method much it grows is a property of the fit, which coarser fits in float64 show alike on every machine.
    """
    away = [fit_alone(job, coarse(grid)) for grid in np.linspace(1, 2, COARSE_FITS, endpoint=False) ** 0.5]
    coefficients = np.max([np.abs(one.coefficients - alone.coefficients) for one in away], axis=0)
    losses = np.max([np.abs(one.losses - alone.losses) for one in away], axis=0)
    return Alone(coefficients, np.maximum.accumulate(losses))


def random_jobs(
    count: int, optimizer: Optimizer, basis: Basis, schedule: Schedule, dtype: Any, loss: Loss = "mse"
) -> list[FitJob]:
    """Jobs that agree in what a batch must agree in and in nothing else."""
    random = np.random.default_rng(zlib.crc32(f"{optimizer} {basis} {schedule} {loss}".encode()))
    jobs = []
    for seed in range(count):
        x = random.uniform(-2, 2, size=12 + seed)
        fields: dict[str, Any] = {
            "x": x.tolist(),
            "y": (np.polyval(random.normal(size=4), x) + random.normal(size=len(x)) * 0.1).tolist(),
            "delta": random.uniform(0.3, 2.0),
            "lr": random.uniform(0.002, 0.02),
            "gamma": random.uniform(0.3, 0.9),
            "step_size": int(random.integers(10, 40)),
            "beta1": random.uniform(0.8, 0.95),
            "beta2": random.uniform(0.9, 0.999),
            # Above lr times the curvature: with less, a coefficient at its optimum is unstable, and what it does is the
            # rounding noise of the first steps amplified, which no two programs share.
            "eps": random.uniform(0.05, 0.3),
            "weight_decay": random.uniform(0, 0.1),
            "momentum": random.uniform(0.1, 0.6),
            "nesterov": bool(seed % 2),
            "smoothing": random.uniform(0.9, 0.99),
            "momentum_decay": random.uniform(0.001, 0.01),
            "steps": STEPS - seed,
        }
        job = FitJob(
            **fields,
            degree=3,
            seed=seed,
            basis=basis,
            loss=loss,
            optimizer=optimizer,
            schedule=schedule,
            dtype=dtype,
            trace="full",
        )
        jobs.append(job.checked())
    return jobs


@pytest.fixture(autouse=True)
def _float64_scalars() -> Iterator[None]:
    """torch keeps the scalars of an optimizer in float32, NAdam's product of momenta too, unless this is the default."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def references(jobs: Iterable[FitJob]) -> Iterator[Reference]:
    """The jobs that can be compared.

    L-BFGS of torch.optim has no line search, so a fit whose loss it raises is none that ours follows. Nor can a fit in
    float32 be followed that coarser ones leave for somewhere else.
    """
    for job in jobs:
        alone = fit_alone(job)
        if job.optimizer == "lbfgs" and (np.diff(alone.losses) > 0).any():
            continue
        drift = drift_of(job, alone) if job.dtype == "float32" else Alone(np.zeros(1), np.zeros(1))
        if drift.losses[-1] <= TELLING * alone.losses[0]:
            yield Reference(job, alone, drift)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("loss", "schedule"),
    [*(("mse", schedule) for schedule in get_args(Schedule)), ("huber", "step"), ("log_cosh", "cosine"), ("l1", "constant")],
)
@pytest.mark.parametrize("basis", get_args(Basis))
@pytest.mark.parametrize("optimizer", DESCENTS)
def test_batch_with_own_hyperparameters_equals_fits_done_alone(
    optimizer: Optimizer, basis: Basis, loss: Loss, schedule: Schedule, dtype: str
) -> None:
    """Coefficients to 1e-9 of the largest one, losses to the 1e-7 of the first one that traces keep.

    In float32 as far as coarser fits drift.
    """
    jobs = random_jobs(CANDIDATES, optimizer, basis, schedule, dtype, loss)
    chosen = list(itertools.islice(references(jobs), FITS))
    assert len(chosen) == FITS

    fitted = fit(jobs_batch([reference.job for reference in chosen]), path="eager")

    rows = zip(chosen, fitted.results.to_pylist(), fitted.traces.to_pylist(), strict=True)
    for (_, alone, drift), result, trace in rows:
        allowed = 1e-7 * alone.losses[0] + drift.losses
        assert (np.abs(np.ldexp(trace["loss"], trace["exponent"]) - alone.losses) <= allowed).all()
        assert abs(result["initial_loss"] - alone.losses[0]) <= allowed[0]
        assert abs(result["loss"] - alone.losses[-1]) <= allowed[-1]
        difference = np.abs(np.array(result["basis_coefficients"]) - alone.coefficients).max()
        assert difference <= 1e-9 * np.abs(alone.coefficients).max() + drift.coefficients.max()


def test_compiled_blocks_take_a_schedule_of_each_fit() -> None:
    """Eager and compiled give the same bits with hyperparameters that differ in everything, in float64 as well."""
    jobs = jobs_batch(random_jobs(FITS, "adamw", "orthogonal", "step", "float64"))

    assert fit(jobs, path="compiled").results.equals(fit(jobs, path="eager").results)


def test_tile_whose_fits_agree_equals_the_tile_of_a_batch_that_does_not() -> None:
    """One learning rate schedule for all, or one each: the same bits."""
    cosine = [FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed, schedule="cosine", steps=90) for seed in range(6)]
    step = [FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed, schedule="step", steps=90) for seed in range(6)]

    mixed = fit(jobs_batch([*cosine, *step]), path="eager").results.drop_columns(["index", "id"])

    for place, jobs in ((0, cosine), (6, step)):
        alone = fit(jobs_batch(jobs), path="eager").results.drop_columns(["index", "id"])
        assert mixed.slice(place, 6).equals(alone)


@pytest.mark.parametrize("basis", get_args(Basis))
def test_exact_is_the_optimum_without_a_descent(basis: Basis) -> None:
    """Its coefficients are the exact ones, its gap is nought and it took no step."""
    x = np.linspace(3, 9, 25)
    y = np.sin(x)

    job = FitJob(x=x.tolist(), y=y.tolist(), degree=5, optimizer="exact", basis=basis).checked()
    fitted = fit(jobs_batch([job]))

    (result,) = fitted.results.to_pylist()
    assert result["status"] == "converged"
    assert result["steps"] == 0
    assert result["gap"] <= 1e-12
    assert result["coefficients"] == pytest.approx(np.polyfit(x, y, 5), rel=1e-7)
    assert result["coefficients"] == pytest.approx(result["exact_coefficients"], rel=1e-7)
    assert fitted.traces.num_rows == 0


@pytest.mark.parametrize("basis", ["chebyshev", "legendre"])
def test_basis_coefficients_are_numpys(basis: Basis) -> None:
    """On the reported domain they are what numpy calls the series of that name."""
    x = np.linspace(-1, 7, 30)
    y = np.exp(x / 4)
    series = {"chebyshev": chebyshev.Chebyshev, "legendre": legendre.Legendre}[basis]

    job = FitJob(x=x.tolist(), y=y.tolist(), degree=4, optimizer="exact", basis=basis).checked()
    (result,) = fit(jobs_batch([job])).results.to_pylist()

    expected = series.fit(x, y, 4)
    assert result["basis_coefficients"] == pytest.approx(expected.coef, rel=1e-9)
    assert result["domain"] == pytest.approx(list(expected.domain))
