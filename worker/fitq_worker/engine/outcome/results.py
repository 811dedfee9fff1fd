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
from fitq_worker.engine.native.kernels import CodePath
from fitq_worker.engine.optimum.objective import Objective
from fitq_worker.engine.outcome.assessment import Assessment, Ended, assess
from fitq_worker.engine.outcome.columns import Mask, array, constant, matrices, scalars, vectors
from fitq_worker.engine.outcome.verdicts import STATUSES, Verdict, find_cancelling, judge, messages_of
from fitq_worker.engine.samples.reduction import Reduced
from fitq_worker.engine.samples.sets import Tile, numbers


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
    path: CodePath


class _Fits(NamedTuple):
    """What is known of each fit of a tile, and how much of it makes sense."""

    found: Assessment
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
    how = "exact" if _is_exact(jobs) else "power" if jobs["basis"][0].as_py() == "power" else "other"
    covariance = bool(numbers(jobs["covariance"]).any())
    path = outcome.path if jobs["loss"][0].as_py() == "mse" else "eager"  # others go through samples of any number
    found = assess(path, objective, ended, absolute, covariance=covariance, how=how)
    fits = _Fits(found, judge(outcome.tile, outcome.reduced, found.measured, ended.end))
    results = _result_frame(outcome, fits, device)
    return results, trace_frame(jobs, traces, array(ended.steps_made), array(found.measured.loss), fits.solved)


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
    found, jobs, reduced = fits.found, outcome.tile.jobs, outcome.reduced
    cancels = fits.fitted & find_cancelling(found.cancels, found.raw, found.final, reduced)
    exact = vectors(found.optimum.coefficients.flip(0), fits.solved)
    return {
        "message": messages_of(outcome.tile, fits.verdict, cancels),
        "coefficients": exact if _is_exact(jobs) else vectors(found.raw.flip(0), fits.fitted),
        "scaled_coefficients": vectors(found.scaled, fits.fitted),
        "basis_coefficients": vectors(found.in_basis, fits.fitted),
        "exact_coefficients": exact,
        "domain": vectors(found.domain, array(reduced.used) > 0),
        "stderrs_off": scalars(found.stderrs_off, fits.fitted),
    }


def _loss_columns(outcome: Outcome, fits: _Fits) -> dict[str, Any]:
    found, measured = fits.found, fits.found.measured
    return {
        "loss": scalars(measured.loss, fits.solved),
        "initial_loss": scalars(measured.initial, fits.solved),
        "exact_loss": scalars(found.optimum.loss, fits.solved),
        "gap": scalars(measured.gap, fits.solved),
        "r2": scalars(found.r2, fits.fitted & array(outcome.reduced.varies)),
        "rmse": scalars(square_root(found.squares), fits.fitted),
    }


def _uncertainty_columns(outcome: Outcome, fits: _Fits) -> dict[str, Any]:
    """The uncertainty of the optimum, and how well its points determine it."""
    optimum = fits.found.optimum
    wanted = fits.solved & numbers(outcome.tile.jobs["covariance"])
    return {
        "stderr": vectors(optimum.stderr.flip(0), fits.solved),
        "covariance": matrices(optimum.covariance, wanted, highest_first=True),
        "scaled_covariance": matrices(optimum.scaled_covariance, wanted),
        "condition": scalars(fits.found.condition, fits.solved),
    }


def _is_exact(jobs: pa.RecordBatch) -> bool:
    """The fits were not descended."""
    return bool(jobs["optimizer"][0].as_py() == "exact")
