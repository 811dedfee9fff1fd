"""When a fit stops before its last step, and what it says and returns then."""

from typing import Any

import numpy as np
import pytest

from fitq_shared.jobs.fields import Loss
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.trace import recorded_steps
from fitq_worker.engine import fit

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=30) * 3
SAMPLES = {"x": X.tolist(), "y": (X**2 + 2 * X + RANDOM.normal(size=30)).tolist()}


def fit_one(**fields: Any) -> tuple[dict[str, Any], list[float]]:
    """Result and full trace of one job."""
    fitted = fit(jobs_batch([FitJob(**{**SAMPLES, "trace": "full", **fields}).checked()]), path="eager")
    (trace,) = fitted.traces.to_pylist()
    return fitted.results.to_pylist()[0], np.ldexp(trace["loss"], trace["exponent"]).tolist()


def test_ftol_stops_when_the_loss_has_not_fallen_by_its_share_within_patience() -> None:
    """Looked at every eighth step: the fit ends at the first look `patience` steps after the last fall."""
    _, endless = fit_one()
    result, losses = fit_one(ftol=1e-3, patience=40)

    reference, since, end = np.inf, 0, None
    for step in range(0, 1000, 8):
        if endless[step] < reference * (1 - 1e-3):
            reference, since = endless[step], step
        if step - since >= 40:
            end = step
            break
    assert (result["status"], result["steps"]) == ("converged", end)
    assert losses[:-1] == endless[:end]


def test_gtol_stops_at_a_small_gradient() -> None:
    """In the orthogonal basis the gradient of the standardised loss is twice the distance, the gap the distance squared."""
    result, _ = fit_one(gtol=1e-2)

    assert result["status"] == "converged"
    assert 8 <= result["steps"] < 1000
    assert 2 * np.sqrt(result["gap"]) <= 1e-2


def test_stopped_fit_is_frozen_at_its_best() -> None:
    """A rate so high that the loss bounces: what is returned is the lowest loss of any look, and the trace ends with it."""
    result, losses = fit_one(optimizer="sgd", lr=0.999, momentum=0.9, ftol=0.0, patience=24, tolerance=0.0)

    assert result["status"] == "stalled"
    assert result["loss"] == pytest.approx(min(losses[::8]), rel=1e-5)
    assert losses[-1] == pytest.approx(result["loss"], rel=1e-5)
    assert len(losses) == result["steps"] + 1


def test_watched_fit_that_uses_all_steps_returns_its_best() -> None:
    """With a criterion that is never met."""
    result, losses = fit_one(optimizer="sgd", lr=0.999, momentum=0.9, gtol=0.0, steps=37, tolerance=0.0)

    assert (result["status"], result["steps"]) == ("max_steps", 37)
    assert result["loss"] == pytest.approx(min(*losses[::8], losses[-1]), rel=1e-5)


def test_stopping_far_from_the_optimum_is_not_called_converged() -> None:
    """A tiny learning rate stalls: the optimum is known, so the fit does not claim it."""
    result, _ = fit_one(lr=1e-7, ftol=1e-4, patience=16)

    assert result["status"] == "stalled"
    assert result["gap"] > 1e-3
    assert "ftol" in result["message"]


@pytest.mark.parametrize("loss", ["huber", "log_cosh", "l1"])
def test_a_robust_loss_has_converged_when_its_gap_says_so(loss: Loss) -> None:
    """Stopped near the optimum, stopped far from it, and out of steps."""
    near, _ = fit_one(loss=loss, ftol=1e-4, schedule="cosine")
    far, _ = fit_one(loss=loss, ftol=1e-4, lr=1e-7, patience=16)
    short, _ = fit_one(loss=loss, steps=5)

    assert (near["status"], far["status"], short["status"]) == ("converged", "stalled", "max_steps")
    assert near["gap"] <= 1e-3 < min(far["gap"], short["gap"])


def test_diverging_fit_is_stopped() -> None:
    """Long before its numbers leave the finite ones, when somebody watches."""
    result, losses = fit_one(optimizer="sgd", basis="power", lr=0.1, ftol=1e-6)

    assert result["status"] == "diverged"
    assert result["coefficients"] is None
    assert result["steps"] < 100
    assert np.isfinite(losses[-1])


def mixed_jobs() -> list[FitJob]:
    """Criteria, limits and restarts of all kinds, so that the batch is made smaller several times."""
    criteria: list[dict[str, Any]] = [
        {}, {"ftol": 1e-2, "patience": 20}, {"gtol": 1e-2}, {"ftol": 1e-4, "gtol": 1e-6}, {"steps": 33}, {"steps": 700},
        {"restarts": 3, "ftol": 1e-3}, {"restarts": 2}, {"init": "exact"}, {"init": [1.0, 2.0, 0.5]},
        {"lr": 10.0, "ftol": 0.1},
    ]  # fmt: skip
    jobs = []
    for number in range(66):
        x = RANDOM.normal(size=8 + number % 7) * 3
        y = x**2 + RANDOM.normal(size=len(x))
        fields = {"steps": 300, **criteria[number % len(criteria)]}
        jobs.append(FitJob(id=str(number), x=x.tolist(), y=y.tolist(), seed=number, **fields))
    return jobs


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_stopping_and_compaction_do_not_depend_on_the_batch(loss: Loss, ridge: float) -> None:
    """Alone, in a batch, in the reverse order: the same bits, whoever else has ended when."""
    fields = [{name: getattr(job, name) for name in job.__struct_fields__} for job in mixed_jobs()]
    jobs = [FitJob(**{**own, "loss": loss, "ridge": ridge}).checked() for own in fields]

    together = rows(jobs)

    assert rows(jobs[::-1]) == together
    for job in jobs[::5]:
        assert rows([job])[job.id] == together[job.id]


def test_compiled_blocks_stop_as_eager_ones_do() -> None:
    """The same bits with stopping, restarts and ridge."""
    jobs = jobs_batch([job.checked() for job in mixed_jobs()])

    assert fit(jobs, path="compiled").results.equals(fit(jobs, path="eager").results)
    assert fit(jobs, path="compiled").traces.equals(fit(jobs, path="eager").traces)


def test_traces_of_stopped_fits_end_where_they_stopped() -> None:
    """For every way of recording, the steps that the client labels are as many as the losses."""
    for trace in ("full", "every:7", "points:10"):
        jobs = [FitJob(**SAMPLES, trace=trace, **own) for own in ({}, {"ftol": 1e-2}, {"steps": 20})]
        fitted = fit(jobs_batch([job.checked() for job in jobs]), path="eager")
        for row, result in zip(fitted.traces.to_pylist(), fitted.results.to_pylist(), strict=True):
            steps = recorded_steps(row["trace"], row["steps"], row["made"])
            assert (len(row["loss"]), steps[-1]) == (len(steps), result["steps"])
            assert np.ldexp(row["loss"][-1], row["exponent"]) == pytest.approx(result["loss"], rel=1e-6)


def rows(jobs: list[FitJob]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Result and trace by id, without the place in the batch."""
    fitted = fit(jobs_batch(jobs), path="eager")
    results, traces = (frame.drop_columns("index").to_pylist() for frame in fitted)
    return {result["id"]: (result, trace) for result, trace in zip(results, traces, strict=True)}
