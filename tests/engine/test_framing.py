"""A row that cannot be put together, or that carries a warning, costs its neighbours nothing."""

import logging
from typing import Any

import msgspec
import numpy as np
import pytest

from fitq.results.traces import label_steps
from fitq_shared.jobs.fields import Basis, Dtype
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.schemas import RESULT_SCHEMA, TRACE_SCHEMA
from fitq_worker.engine import fit
from fitq_worker.engine.outcome import results

SECONDS = 1.7e9 + np.arange(12.0)


def by_id(jobs: list[FitJob]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Result and trace of each job."""
    fitted = fit(jobs_batch([job.checked() for job in jobs]), path="eager")
    assert fitted.results.schema.equals(RESULT_SCHEMA, check_metadata=True)
    assert fitted.traces.schema.equals(TRACE_SCHEMA, check_metadata=True)
    results, traces = (frame.drop_columns("index").to_pylist() for frame in fitted)
    return {result["id"]: (result, trace) for result, trace in zip(results, traces, strict=True)}


def sensors(count: int) -> list[FitJob]:
    """Every other one has Unix seconds as x, whose powers lose digits."""
    random = np.random.default_rng(0)
    starts = [SECONDS if number % 2 else np.arange(12.0) for number in range(count)]
    return [
        FitJob(id=f"s{number}", x=x.tolist(), y=random.normal(size=12).tolist(), steps=60) for number, x in enumerate(starts)
    ]


@pytest.mark.parametrize("tolerance", [1e-3, 1e9])
def test_a_warning_is_in_its_own_row(tolerance: float) -> None:
    """Beside rows without one, whether these have a message of their own or none."""
    jobs = [FitJob(id=job.id, x=job.x, y=job.y, steps=60, tolerance=tolerance) for job in sensors(12)]

    found = by_id(jobs)

    assert list(found) == [f"s{number}" for number in range(12)]
    for number, (result, _) in enumerate(found.values()):
        assert result["status"] != "error"
        assert ("digits are lost" in (result["message"] or "")) == bool(number % 2)
        assert ("steps ran out" in (result["message"] or "")) == (result["status"] == "max_steps")


@pytest.mark.parametrize("guilty", [["s3"], ["s0", "s8", "s9"], [f"s{number}" for number in range(11)]])
def test_an_exception_costs_the_guilty_rows_alone(
    guilty: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are found by halving, become `error` and are logged with the traceback; the others keep every bit."""
    jobs = sensors(11)
    healthy = by_id(jobs)
    coefficients = results._coefficient_columns

    def fragile(whole: results.Outcome, fits: Any) -> dict[str, Any]:
        if set(guilty) & set(whole.tile.jobs["id"].to_pylist()):
            raise OverflowError("too large for a row")
        return coefficients(whole, fits)

    monkeypatch.setattr(results, "_coefficient_columns", fragile)
    with caplog.at_level(logging.ERROR):
        found = by_id(jobs)

    assert len(caplog.records) == len(guilty)
    assert all(record.exc_info for record in caplog.records)
    for name, (result, trace) in found.items():
        if name in guilty:
            assert (result["status"], result["coefficients"], trace["loss"]) == ("error", None, None)
            assert "OverflowError: too large for a row" in result["message"]
        else:
            assert (result, trace) == healthy[name]


@pytest.mark.parametrize(("basis", "dtype"), [("orthogonal", "float32"), ("chebyshev", "float64"), ("power", "float64")])
def test_traces_hold_losses_of_any_scale(basis: Basis, dtype: Dtype) -> None:
    """From `initial_loss` to `loss`, to six digits; times 2^2k where y is times 2^k and standardised."""
    x = np.linspace(-1, 2, 20)
    y = 1 + x - 3 * x**2 + np.sin(9 * x)
    losses = {}
    for power in (0, -160, -80, 70, 130):
        rate = 0.3 * 2.0**power if basis == "power" else 0.3
        job = FitJob(x=x.tolist(), y=(y * 2.0**power).tolist(), basis=basis, dtype=dtype, steps=80, trace="full", lr=rate)
        fitted = fit(jobs_batch([msgspec.structs.replace(job, init="exact").checked()]), path="eager")
        (result,), (trace,) = fitted.results.to_pylist(), label_steps(fitted.traces).to_pylist()

        assert len(trace["loss"]) == 81
        assert trace["loss"][0] == pytest.approx(result["initial_loss"], rel=1e-6)
        assert trace["loss"][-1] == pytest.approx(result["loss"], rel=1e-6)
        losses[power] = np.array(trace["loss"]) / 4.0**power
        if basis != "power":
            np.testing.assert_allclose(losses[power], losses[0], rtol=1e-6)
