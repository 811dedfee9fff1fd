"""Every fit has a status of its own, with a message and without numbers that mean nothing."""

from typing import Any

import pytest

from fitq_shared.jobs.fields import Basis, Loss
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.schemas import RESULT_SCHEMA, TRACE_SCHEMA
from fitq_shared.jobs.trace import recorded_steps
from fitq_worker.engine import fit
from fitq_worker.engine.native.kernels import CodePath


def fit_one(**fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Result and trace of one job."""
    fitted = fit(jobs_batch([FitJob(id="it", **fields).checked()]), path="eager")
    assert fitted.results.schema.equals(RESULT_SCHEMA, check_metadata=True)
    assert fitted.traces.schema.equals(TRACE_SCHEMA, check_metadata=True)
    return fitted.results.to_pylist()[0], fitted.traces.to_pylist()[0]


SICK = {
    "no points": ([], [], "degenerate", "fewer points"),
    "one point": ([1.0], [2.0], "degenerate", "fewer points"),
    "constant x": ([3.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], "degenerate", "fewer different x"),
    "two different x": ([1.0, 2.0] * 4, [1.0, 2.0] * 4, "degenerate", "fewer different x"),
    "missing y": ([1.0, 2.0, 3.0, 4.0], [1.0, None, 3.0, 4.0], "invalid", "missing"),
    "infinite x": ([1.0, float("inf"), 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], "invalid", "not finite"),
    "overflow": ([1.0, 2.0, 3.0, 4.0], [1.0, 1e300, 3.0, 4.0], "invalid", "1e150"),
}


@pytest.mark.parametrize("basis", ["orthogonal", "power"])
@pytest.mark.parametrize("case", SICK)
def test_sick_samples_give_a_status_and_no_numbers(case: str, basis: Basis) -> None:
    """Samples that determine nothing are degenerate, samples that are no numbers invalid."""
    x, y, status, words = SICK[case]

    result, trace = fit_one(x=x, y=y, basis=basis)

    assert result["status"] == status
    assert words in result["message"]
    numbers = ("coefficients", "basis_coefficients", "loss", "exact_loss", "gap", "exact_coefficients", "r2", "stderr")
    assert [result[name] for name in numbers] == [None] * len(numbers)
    assert result["steps"] == 0
    assert trace["loss"] is None


@pytest.mark.parametrize("weights", [[0.0] * 4, [1.0, 1.0, 0.0, 0.0]])
def test_dropped_points_do_not_count(weights: list[float]) -> None:
    """With weights of zero the points that are left decide."""
    result, _ = fit_one(x=[1.0, 2.0, 3.0, 4.0], y=[1.0, 4.0, 9.0, 16.0], weights=weights)

    assert result["status"] == "degenerate"
    assert result["samples_used"] == sum(weight > 0 for weight in weights)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1e300])
@pytest.mark.parametrize("loss", ["mse", "huber", "l1"])
def test_a_point_of_weight_0_may_be_anything(value: float | None, loss: Loss) -> None:
    """Its x and y enter nothing: the fit is the one of the other points."""
    others = {"x": [1.0, 2.0, 3.0, 4.0, 5.0], "y": [1.0, 4.0, 9.0, 16.0, 20.0], "loss": loss, "basis": "chebyshev"}
    expected, expected_trace = fit_one(**others)
    for x, y in ((value, 3.0), (3.0, value), (value, value)):
        sick = {"x": [*others["x"], x], "y": [*others["y"], y], "weights": [1.0] * 5 + [0.0]}

        result, trace = fit_one(**{**others, **sick})

        assert (result, trace) == ({**expected, "samples_dropped": 1}, expected_trace)


@pytest.mark.parametrize("value", [None, float("nan")])
@pytest.mark.parametrize("name", ["x", "y", "weights"])
@pytest.mark.parametrize("path", ["eager", "compiled"])
def test_missing_points_are_dropped_for_who_says_so(name: str, value: float | None, path: CodePath) -> None:
    """The fit is the one without the point; one beside it that does not say so is invalid."""
    whole = {"x": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "y": [1.0, 4.0, 9.0, 16.0, 20.0, 7.0], "weights": [1.0, 2.0] * 3}
    others: dict[str, Any] = {column: values[:-1] for column, values in whole.items()}
    sick = {**whole, name: [*others[name], value]}
    fields = [{**others, "missing": "drop"}, {**sick, "missing": "drop"}, sick]

    rows = fit(jobs_batch([FitJob(**given).checked() for given in fields]), path=path).results.to_pylist()

    without, dropped, invalid = ({k: v for k, v in row.items() if k not in ("index", "id")} for row in rows)
    assert dropped == {**without, "samples_dropped": 1}
    assert dropped["samples_used"] == 5
    assert invalid["status"] == "invalid"


def test_infinite_values_are_not_missing() -> None:
    """Who drops missing points still wants to hear of a division by zero."""
    result, _ = fit_one(x=[1.0, 2.0, 3.0, 4.0, None], y=[1.0, float("inf"), 9.0, 16.0, 1.0], missing="drop")

    assert result["status"] == "invalid"


@pytest.mark.parametrize("weight", [None, float("nan"), float("inf"), -1.0, 1e151])
def test_a_weight_that_is_none_is_invalid(weight: float | None) -> None:
    """Nobody can tell what it was meant to be."""
    result, _ = fit_one(x=[1.0, 2.0, 3.0, 4.0], y=[1.0, 4.0, 9.0, 16.0], weights=[1.0, 1.0, weight, 1.0])

    assert result["status"] == "invalid"


@pytest.mark.parametrize("lr", [1e4, 1e38])
def test_too_large_a_learning_rate_diverges(lr: float) -> None:
    """The loss ends above its beginning; the exact side is still reported, coefficients are not."""
    result, trace = fit_one(x=[1.0, 2.0, 3.0, 4.0], y=[1.0, 4.0, 9.0, 17.0], lr=lr, steps=50, init=[1.0, 0.0, 0.0])

    assert result["status"] == "diverged"
    assert result["coefficients"] is None
    assert result["exact_coefficients"] is not None
    assert len(trace["loss"]) == 51


def test_tolerance_decides_what_is_converged() -> None:
    """The same fit is converged under a wide tolerance and out of steps under a narrow one."""
    fields = {"polynomial": [1.0, 2.0, 3.0], "steps": 300}
    wide, narrow = fit_one(**fields, tolerance=10.0)[0], fit_one(**fields, tolerance=1e-9)[0]

    assert wide["gap"] == narrow["gap"]
    assert (wide["status"], narrow["status"]) == ("converged", "max_steps")
    assert wide["message"] is None
    assert "raise steps or lr" in narrow["message"]


def test_constant_targets_are_fitted() -> None:
    """Constant y has no variance: the gap is relative to its mean square and r2 is null."""
    result, _ = fit_one(x=[1.0, 2.0, 3.0, 4.0], y=[7.0] * 4)

    assert result["status"] == "converged"
    assert result["coefficients"] == pytest.approx([0.0, 0.0, 7.0], abs=0.05)
    assert result["r2"] is None


def test_interpolation_has_no_standard_error() -> None:
    """As many points as coefficients leave no degree of freedom."""
    result, _ = fit_one(x=[1.0, 2.0, 3.0], y=[1.0, 5.0, 2.0])

    assert result["stderr"] is None
    assert result["exact_loss"] == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("trace", ["none", "full", "every:7", "points:2", "points:11", "points:5000"])
def test_traces_hold_the_recorded_steps(trace: str) -> None:
    """Jobs with different step limits in one batch keep the losses their own schedule asks for."""
    jobs = [FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed, steps=20 + seed, trace=trace).checked() for seed in range(12)]
    full = [FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed, steps=20 + seed, trace="full").checked() for seed in range(12)]

    found = fit(jobs_batch(jobs), path="eager").traces.to_pylist()

    every_loss = [row["loss"] for row in fit(jobs_batch(full), path="eager").traces.to_pylist()]
    if trace == "none":
        assert found == []
        return
    for job, row, losses in zip(jobs, found, every_loss, strict=True):
        assert row["loss"] == [losses[step] for step in recorded_steps(trace, job.steps)]
