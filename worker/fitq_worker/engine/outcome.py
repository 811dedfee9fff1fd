"""From the end of a descent to result and trace frames: one status per fit, missing numbers as nulls."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.jobs.schemas import RESULT_SCHEMA, Status
from fitq_worker.engine import invalid
from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.basis import powers_of_x
from fitq_worker.engine.columns import Mask, array, constant, matrices, scalars, vectors
from fitq_worker.engine.exact import Solution, condition, excess, powers
from fitq_worker.engine.objective import Measured, Objective
from fitq_worker.engine.reduction import Reduced
from fitq_worker.engine.samples import Tile, numbers
from fitq_worker.engine.stopping import End
from fitq_worker.engine.traces import Traces, trace_frame
from fitq_worker.engine.trees import take


class Verdict(IntEnum):
    """How a fit ended, a little finer than its status."""

    CONVERGED = 0
    MAX_STEPS = 1
    STALLED = 2
    DIVERGED = 3
    FEW_POINTS = 4
    REPEATED_POINTS = 5
    INVALID = 6


#: Status and message of each verdict, in its order.
_STATUSES = (
    (Status.CONVERGED, None),
    (Status.MAX_STEPS, "steps ran out before the gap fell to the tolerance; raise steps or lr"),
    (Status.STALLED, "ftol or gtol stopped it before the gap fell to the tolerance; lower them or raise patience or lr"),
    (Status.DIVERGED, "the loss ended above where it began or left the finite numbers; lower lr"),
    (Status.DEGENERATE, "fewer points than coefficients; add points or lower the degree"),
    (Status.DEGENERATE, "fewer different x than coefficients; spread the points or lower the degree"),
    (Status.INVALID, None),  # its message names the first bad point
)
#: A mean square of residuals below this, in units of the variance of y, is rounding.
_ROUNDING_SQUARES = 1e-26
#: Evaluating a polynomial in powers of x loses as many digits as its terms are larger than itself.
MOST_CANCELLATION = 1e8
_DIGITS_LOST = (
    "in powers of x the terms cancel and more than 8 of 16 digits are lost; evaluate basis_coefficients of basis "
    "chebyshev or legendre on the domain, or move x towards 0"
)


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
    """What is known of each fit of a tile, and what of it may be told."""

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
    fits = _Fits(objective.space.to_orthonormal(ended.final), measured, optimum, _judge(outcome, measured))
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
        "status": pa.array([status for status, _ in _STATUSES]).take(pa.array(fits.verdict)),
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
        "message": _messages(outcome, fits.verdict, fits.fitted & _cancels(raw, final, reduced)),
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
    """Of the optimum, and how well its points determine it."""
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


def _messages(outcome: Outcome, verdict: NDArray[np.int64], cancels: Mask) -> pa.Array:
    """The message of each verdict, followed by the warning about lost digits; what is wrong with an invalid sample set."""
    messages = pa.array([message for _, message in _STATUSES]).take(pa.array(verdict))
    if cancels.any():
        warned = pc.coalesce(pc.binary_join_element_wise(messages, _DIGITS_LOST, "; "), pa.scalar(_DIGITS_LOST))
        messages = pc.if_else(pa.array(cancels), warned, messages)
    sick = np.flatnonzero(verdict == Verdict.INVALID)
    if not len(sick):
        return messages
    tile = outcome.tile
    places = tile.jobs["place"].take(pa.array(sick)).to_pylist()
    texts = invalid.messages(tile.sets, sick if tile.set_of is None else tile.set_of[sick], places)
    return pc.replace_with_mask(messages, pa.array(verdict == Verdict.INVALID), pa.array(texts, pa.string()))


def _cancels(raw: Tensor, final: Tensor, reduced: Reduced) -> Mask:
    """On the points the terms in powers of x are MOST_CANCELLATION times the polynomial's size, (B,).

    `raw` are its coefficients and `final` its coordinates in the orthonormal basis, (P, B), whose length is its root
    mean square on the samples. The terms at the ends of the domain, which are quick to tell, are larger than those of the
    samples in their mean.
    """
    size = MOST_CANCELLATION * square_root(tree_sum(final * final))
    largest = torch.maximum(reduced.low.abs(), reduced.high.abs())
    terms = torch.zeros_like(largest)
    for coefficient in raw.flip(0):
        terms = terms * largest + coefficient.abs()
    cancels = ~(terms <= size)
    indices = cancels.nonzero()[:, 0]
    if len(indices):
        factor = powers_of_x(take(reduced, indices))
        means = tree_sum(raw[:, indices].abs() * square_root(tree_sum(factor * factor)))
        cancels[indices] = ~(means <= size[indices])
    return np.asarray(array(cancels))


def _judge(outcome: Outcome, measured: Measured) -> NDArray[np.int64]:
    """The first of these that holds, from the worst down; (B,)."""
    tolerance = torch.from_numpy(numbers(outcome.tile.jobs["tolerance"]).astype(np.float64)).to(measured.gap.device)
    end = outcome.ended.end
    stopped = (end == End.FTOL) | (end == End.GTOL)
    # A warm start at the optimum may end a little above it: that alone is not diverging.
    above = (measured.loss > measured.initial) & (measured.loss > measured.zero)
    cases = [
        (Verdict.INVALID, outcome.reduced.invalid),
        (Verdict.FEW_POINTS, outcome.reduced.used < len(outcome.reduced.target)),
        (Verdict.REPEATED_POINTS, ~outcome.reduced.determined),
        (Verdict.CONVERGED, measured.gap <= tolerance),
        (Verdict.DIVERGED, ~torch.isfinite(measured.loss) | above | (end == End.DIVERGED)),
        (Verdict.STALLED, stopped),
    ]
    return np.select([array(mask) for _, mask in cases], [int(verdict) for verdict, _ in cases], int(Verdict.MAX_STEPS))


def _domain(reduced: Reduced) -> Tensor:
    return torch.stack([reduced.low, reduced.high])
