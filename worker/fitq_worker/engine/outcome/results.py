"""From the end of a descent to result and trace frames: one status per fit, missing numbers as nulls."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.jobs.schemas import RESULT_SCHEMA
from fitq_worker.engine.arithmetic import square_root
from fitq_worker.engine.descent.traces import Traces, trace_frame
from fitq_worker.engine.optimum.exact import Solution, condition, excess, powers
from fitq_worker.engine.optimum.objective import Measured, Objective
from fitq_worker.engine.outcome.columns import Mask, array, constant, matrices, scalars, vectors
from fitq_worker.engine.outcome.verdicts import STATUSES, Verdict, find_cancelling, judge, messages_of
from fitq_worker.engine.samples.reduction import Reduced
from fitq_worker.engine.samples.sets import Tile, numbers

#: A mean square of residuals below this, in units of the variance of y, is rounding.
_ROUNDING_SQUARES = 1e-26


class Ended(NamedTuple):
    """How B fits with P coefficients ended; float64 coefficients in the space of the descent."""

    start: Tensor  # (P, B)
    final: Tensor  # (P, B)
    steps_made: Tensor  # (B,) int32
    end: Tensor  # (B,) int8, of `End`
    restart: Tensor  # (B,) int32


def end_at_once(final: Tensor) -> Ended:
    """The end of fits that are solved without a descent."""
    none = torch.zeros_like(final[0], dtype=torch.int32)
    return Ended(final, final, none, none.to(torch.int8), none)


class Outcome(NamedTuple):
    """Everything the results of a tile are computed from."""

    tile: Tile
    reduced: Reduced
    objective: Objective
    ended: Ended


class _Fits(NamedTuple):
    """What is known of each fit of a tile, and how much of it makes sense."""

    final: Tensor  # (P, B) where they ended, in the orthonormal basis
    measured: Measured
    optimum: Solution
    verdict: NDArray[np.int64]

    @property
    def fitted(self) -> Mask:
        """Its coefficients are of use."""
        return self.verdict < Verdict.DIVERGED

    @property
    def solved(self) -> Mask:
        """Its points determine the optimum."""
        return self.verdict <= Verdict.DIVERGED


def build_frames(outcome: Outcome, traces: Traces, device: str) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Results and traces, record batches of RESULT_SCHEMA (with a null `chunk`) and TRACE_SCHEMA."""
    jobs, ended, objective = outcome.tile.jobs, outcome.ended, outcome.objective
    absolute = torch.from_numpy(numbers(jobs["absolute_sigma"])).to(ended.final.device)
    measured = objective.at_optimum() if _is_exact(jobs) else objective.measure(ended.start, ended.final)
    optimum = objective.solution(absolute, covariance=bool(numbers(jobs["covariance"]).any()))
    fits = _Fits(
        objective.space.to_orthonormal(ended.final),
        measured,
        optimum,
        judge(outcome.tile, outcome.reduced, measured, ended.end),
    )
    results = _result_frame(outcome, fits, device)
    return results, trace_frame(jobs, traces, array(ended.steps_made), array(measured.loss), fits.solved)


def _result_frame(outcome: Outcome, fits: _Fits, device: str) -> pa.RecordBatch:
    jobs, used = outcome.tile.jobs, array(outcome.reduced.used)
    columns = {
        **_job_columns(jobs, outcome.objective, fits),
        **_ending_columns(outcome, fits),
        **_coefficient_columns(outcome, fits),
        **_loss_columns(outcome, fits),
        **_uncertainty_columns(outcome, fits),
        "rank": array(outcome.reduced.rank),
        "samples_used": used,
        "samples_dropped": np.where(array(outcome.reduced.invalid), 0, outcome.tile.given - used),
        "device": constant(device, len(jobs)),
        "chunk": pa.nulls(len(jobs), pa.int32()),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in RESULT_SCHEMA], schema=RESULT_SCHEMA
    )


def _job_columns(jobs: pa.RecordBatch, objective: Objective, fits: _Fits) -> dict[str, Any]:
    """What the job was."""
    words = {"basis": "basis", "loss_function": "loss", "optimizer": "optimizer"}
    delta = objective.delta
    return {
        "index": jobs["index"],
        "id": jobs["id"],
        "degree": np.full(len(jobs), jobs["degree"][0].as_py(), dtype=np.int32),
        **{name: constant(jobs[column][0].as_py(), len(jobs)) for name, column in words.items()},
        "lr": jobs["lr"],
        "steps_limit": jobs["steps"],
        "delta": pa.nulls(len(jobs), pa.float64()) if delta is None else scalars(delta, fits.solved),
        "seed": jobs["seed"],
        "tags": jobs["tags"],
    }


def _ending_columns(outcome: Outcome, fits: _Fits) -> dict[str, Any]:
    """How it ended."""
    ended = outcome.ended
    return {
        "status": pa.array([status for status, _ in STATUSES]).take(pa.array(fits.verdict)),
        "steps": np.where(fits.solved, array(ended.steps_made), 0),
        "restart": array(ended.restart),
    }


def _coefficient_columns(outcome: Outcome, fits: _Fits) -> dict[str, Any]:
    space, reduced, optimum, jobs = outcome.objective.space, outcome.reduced, fits.optimum, outcome.tile.jobs
    final, in_basis = fits.final, space.in_units_of_y(outcome.ended.final)
    exact = vectors(optimum.coefficients.flip(0), fits.solved)
    if _is_exact(jobs):
        raw, scaled, coefficients = optimum.coefficients, optimum.scaled, exact
    else:
        raw, scaled = powers(final, reduced)
        raw = in_basis if jobs["basis"][0].as_py() == "power" else raw
        coefficients = vectors(raw.flip(0), fits.fitted)
    return {
        "message": messages_of(outcome.tile, fits.verdict, fits.fitted & find_cancelling(raw, final, reduced)),
        "coefficients": coefficients,
        "scaled_coefficients": vectors(scaled, fits.fitted),
        "basis_coefficients": vectors(in_basis, fits.fitted),
        "exact_coefficients": exact,
        "domain": vectors(_domain(reduced), array(reduced.used) > 0),
        "stderrs_off": scalars(_stderrs_off(raw, optimum, reduced), fits.fitted),
    }


def _loss_columns(outcome: Outcome, fits: _Fits) -> dict[str, Any]:
    reduced, measured = outcome.reduced, fits.measured
    variance = reduced.scale * reduced.scale
    squares = reduced.floor * variance + excess(fits.final, reduced)
    return {
        "loss": scalars(measured.loss, fits.solved),
        "initial_loss": scalars(measured.initial, fits.solved),
        "exact_loss": scalars(fits.optimum.loss, fits.solved),
        "gap": scalars(measured.gap, fits.solved),
        "r2": scalars(1.0 - squares / variance, fits.fitted & array(reduced.varies)),
        "rmse": scalars(square_root(squares), fits.fitted),
    }


def _uncertainty_columns(outcome: Outcome, fits: _Fits) -> dict[str, Any]:
    """The uncertainty of the optimum, and how well its points determine it."""
    optimum, factor = fits.optimum, outcome.objective.space.factor
    wanted = fits.solved & numbers(outcome.tile.jobs["covariance"])
    return {
        "stderr": vectors(optimum.stderr.flip(0), fits.solved),
        "covariance": matrices(optimum.covariance, wanted, highest_first=True),
        "scaled_covariance": matrices(optimum.scaled_covariance, wanted),
        "condition": scalars(torch.ones_like(optimum.loss) if factor is None else condition(factor), fits.solved),
    }


def _stderrs_off(raw: Tensor, optimum: Solution, reduced: Reduced) -> Tensor:
    """The largest distance of the coefficients, (P, B), from the optimum's in standard errors, (B,).

    NaN where there are none, or where what the residuals are made of is rounding.
    """
    distances = (raw - optimum.coefficients).abs() / optimum.stderr
    return torch.where(reduced.floor > _ROUNDING_SQUARES, distances.amax(0), torch.nan)


def _is_exact(jobs: pa.RecordBatch) -> bool:
    """The fits were not descended."""
    return bool(jobs["optimizer"][0].as_py() == "exact")


def _domain(reduced: Reduced) -> Tensor:
    return torch.stack([reduced.low, reduced.high])
