"""L-BFGS: every fit has its own history and its own line search."""

from typing import Any

import numpy as np
import pytest
import torch

from fitq_shared.jobs.fields import Basis, Loss
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit


def jobs(loss: Loss, basis: Basis = "orthogonal", **fields: Any) -> list[FitJob]:
    """Fits whose curvatures differ by twelve orders of magnitude, with outliers."""
    random = np.random.default_rng(7)
    made = []
    for number in range(24):
        x = random.uniform(-1, 1, size=25) * 10.0 ** (number % 4 - 2)
        y = 2 + x / np.abs(x).max() - (x / np.abs(x).max()) ** 2 + 0.1 * random.standard_t(2, size=25)
        own = {"id": str(number), "x": x.tolist(), "y": y.tolist(), "seed": number, "degree": 2, "loss": loss}
        made.append(FitJob(**own, optimizer="lbfgs", basis=basis, dtype="float64", trace="full", **fields).checked())
    return made


def minimum(job: FitJob) -> float:
    """The lowest loss that torch.optim.LBFGS finds with its strong Wolfe line search, alone, in scaled powers of x."""
    x, y = torch.tensor(job.x, dtype=torch.float64), torch.tensor(job.y, dtype=torch.float64)
    t = x / x.abs().max()
    design = torch.stack([t**k for k in range(job.degree + 1)], dim=1)
    w = torch.zeros(job.degree + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        residual = design @ w - y
        if job.loss == "mse":
            return (residual**2).mean()
        if job.loss == "huber":
            return torch.nn.functional.huber_loss(design @ w, y, delta=job.delta)
        return torch.log(torch.cosh(residual)).mean()

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    optimizer.step(closure)
    return loss().item()


@pytest.mark.parametrize("loss", ["mse", "huber", "log_cosh"])
@pytest.mark.parametrize("basis", ["orthogonal", "chebyshev", "legendre"])
def test_every_fit_of_a_batch_reaches_the_minimum_that_torch_finds_alone(loss: Loss, basis: Basis) -> None:
    """In 60 steps, to 1e-9 of it, though the problems next to each other have nothing in common."""
    batch = jobs(loss, basis, steps=60)

    results = fit(jobs_batch(batch), path="eager").results.to_pylist()

    for job, result in zip(batch, results, strict=True):
        assert result["loss"] <= minimum(job) * (1 + 1e-9)


@pytest.mark.parametrize("loss", ["mse", "huber", "log_cosh", "l1"])
def test_loss_never_rises(loss: Loss) -> None:
    """In the kinks of l1 neither."""
    for row in fit(jobs_batch(jobs(loss, steps=60)), path="eager").traces.to_pylist():
        assert (np.diff(row["loss"]) <= 0).all()


@pytest.mark.parametrize("loss", ["mse", "huber", "l1"])
def test_fit_does_not_depend_on_its_neighbours(loss: Loss) -> None:
    """Alone, reversed, and beside samples that are no numbers: the same bits."""
    batch = jobs(loss, steps=30)
    sick = FitJob(x=[1.0, None], y=[1.0, 2.0], loss=loss, optimizer="lbfgs", dtype="float64", trace="full").checked()

    def rows(some: list[FitJob]) -> dict[str, Any]:
        results, traces = (frame.drop_columns("index").to_pylist() for frame in fit(jobs_batch(some), path="eager"))
        return {result["id"]: (result, trace) for result, trace in zip(results, traces, strict=True)}

    together = rows(batch)

    assert rows(batch[::-1]) == together
    assert rows([batch[3]])["3"] == together["3"]
    assert rows([batch[3], sick])["3"] == together["3"]


def test_single_precision_stays_at_the_optimum() -> None:
    """Rounding noise is no curvature: a thousand more steps change nothing for the worse."""
    x = np.linspace(-3, 3, 20)
    job = FitJob(x=x.tolist(), y=(x**2 + np.sin(9 * x)).tolist(), optimizer="lbfgs", trace="full").checked()

    fitted = fit(jobs_batch([job]), path="eager")

    (result,) = fitted.results.to_pylist()
    assert (result["status"], result["gap"] <= 1e-9) == ("converged", True)
    assert (np.diff(fitted.traces.to_pylist()[0]["loss"]) <= 0).all()
