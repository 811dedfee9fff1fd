"""From the end of a descent to result and trace frames: one status per fit, missing numbers as nulls."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.frames import RESULT_SCHEMA, TRACE_SCHEMA, Status
from fitq_shared.trace import recorded_counts
from fitq_worker.engine.arithmetic import square_root
from fitq_worker.engine.exact import condition, excess, least_squares, raw_powers
from fitq_worker.engine.reduction import Reduced
from fitq_worker.engine.samples import numbers
from fitq_worker.engine.space import Space

Mask = NDArray[np.bool_]


class Verdict(IntEnum):
    """How a fit ended, a little finer than its status."""

    CONVERGED = 0
    MAX_STEPS = 1
    STEPS_MADE = 2
    DIVERGED = 3
    FEW_POINTS = 4
    REPEATED_POINTS = 5
    INVALID = 6


#: Status and message of each verdict, in its order.
_STATUSES = (
    (Status.CONVERGED, None),
    (Status.MAX_STEPS, "steps ran out before the gap fell to the tolerance; raise steps or lr"),
    (Status.MAX_STEPS, "all steps were made; this loss has no exact optimum that would tell how far it is"),
    (Status.DIVERGED, "the loss ended above where it began or left the finite numbers; lower lr"),
    (Status.DEGENERATE, "fewer points than coefficients; add points or lower the degree"),
    (Status.DEGENERATE, "fewer different x than coefficients; spread the points or lower the degree"),
    (Status.INVALID, "a value of x, y or weights is missing, not finite, beyond 1e150, or a weight is negative"),
)


class Outcome(NamedTuple):
    """Everything the results are computed from; tensors are float64, coefficients (P, B) in the descent's coordinates."""

    jobs: pa.RecordBatch
    reduced: Reduced
    space: Space
    #: The loss that was minimised, in units of y, as a function of coefficients; None is the mean of squares.
    loss: Callable[[Tensor], Tensor] | None
    start: Tensor
    final: Tensor
    invalid: Tensor
    #: False where the solution was computed without a descent.
    descended: bool


def result_frame(outcome: Outcome, device: str) -> pa.RecordBatch:
    """The results, a record batch of RESULT_SCHEMA with a null `chunk`."""
    jobs, reduced, space = outcome.jobs, outcome.reduced, outcome.space
    optimum, final = least_squares(reduced), space.to_orthonormal(outcome.final)
    distance = excess(final, reduced)
    squares = optimum.loss + distance
    initial = optimum.loss + excess(space.to_orthonormal(outcome.start), reduced)
    variance = reduced.scale * reduced.scale
    loss, gap = squares, distance / variance
    if outcome.loss is not None:
        loss, initial, gap = outcome.loss(outcome.final), outcome.loss(outcome.start), torch.full_like(gap, torch.nan)
    verdict = _verdicts(outcome, gap, loss, initial)
    fitted, solved = verdict < Verdict.DIVERGED, verdict <= Verdict.DIVERGED
    own_basis = space.in_units_of_y(outcome.final)
    raw = own_basis if jobs["basis"][0].as_py() == "power" else raw_powers(final, reduced)
    columns = {
        "index": jobs["index"],
        "id": jobs["id"],
        "status": pa.array([status for status, _ in _STATUSES]).take(pa.array(verdict)),
        "message": pa.array([message for _, message in _STATUSES]).take(pa.array(verdict)),
        "coefficients": _vectors(raw.flip(0), fitted),
        "basis_coefficients": _vectors(own_basis, fitted),
        "domain": _vectors(_domain(reduced), _array(reduced.used) > 0),
        "loss": _scalars(loss, solved),
        "initial_loss": _scalars(initial, solved),
        "exact_loss": _scalars(optimum.loss, solved),
        "gap": _scalars(gap, solved),
        "exact_coefficients": _vectors(optimum.coefficients.flip(0), solved),
        "steps": np.where(solved & outcome.descended, numbers(jobs["steps"]), 0),
        "r2": _scalars(1.0 - squares / variance, fitted & _array(reduced.varies)),
        "rmse": _scalars(square_root(squares), fitted),
        "stderr": _vectors(optimum.stderr.flip(0), solved),
        "condition": _scalars(torch.ones_like(loss) if space.factor is None else condition(space.factor), solved),
        "rank": _array(reduced.rank),
        "samples_used": _array(reduced.used),
        "seed": jobs["seed"],
        "device": pa.array([device]).take(pa.array(np.zeros(len(jobs), dtype=np.int32))),
        "chunk": pa.nulls(len(jobs), pa.int32()),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in RESULT_SCHEMA], schema=RESULT_SCHEMA
    )


def trace_frame(outcome: Outcome, losses: Tensor) -> pa.RecordBatch:
    """The traces, a record batch of TRACE_SCHEMA, no rows when none are kept; `losses` is (T, B), in units of y.

    A fit that was not descended has a null in place of its losses.
    """
    jobs = outcome.jobs if len(losses) else outcome.jobs.slice(0, 0)
    lengths = recorded_counts(jobs["trace"][0].as_py(), numbers(jobs["steps"])) if len(jobs) else np.empty(0, np.int64)
    descended = ~_array(outcome.invalid | ~_determined(outcome.reduced))[: len(jobs)]
    lengths = np.where(descended, lengths, 0)
    by_fit = np.ascontiguousarray(_array(losses).T[: len(jobs)])
    full = (lengths == by_fit.shape[1]).all()
    values = by_fit.ravel() if full else by_fit[np.arange(by_fit.shape[1]) < lengths[:, None]]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, _nullable(values), mask=pa.array(~descended))
    columns = [jobs["index"], jobs["id"], jobs["trace"], jobs["steps"], lists]
    return pa.RecordBatch.from_arrays(columns, schema=TRACE_SCHEMA)


def _determined(reduced: Reduced) -> Tensor:
    """The points determine all coefficients, (B,) bool."""
    return reduced.rank == len(reduced.target)


def _verdicts(outcome: Outcome, gap: Tensor, loss: Tensor, initial: Tensor) -> NDArray[np.int64]:
    """The first of these that holds, from the worst down; (B,)."""
    tolerance = torch.from_numpy(numbers(outcome.jobs["tolerance"]).astype(np.float64)).to(gap.device)
    few = outcome.reduced.used < len(outcome.reduced.target)
    cases = [
        (Verdict.INVALID, outcome.invalid),
        (Verdict.FEW_POINTS, few),
        (Verdict.REPEATED_POINTS, ~_determined(outcome.reduced)),
        (Verdict.CONVERGED, gap <= tolerance),
        (Verdict.DIVERGED, ~torch.isfinite(loss) | (loss > initial)),
    ]
    rest = Verdict.MAX_STEPS if outcome.loss is None else Verdict.STEPS_MADE
    return np.select([_array(mask) for _, mask in cases], [int(verdict) for verdict, _ in cases], int(rest))


def _domain(reduced: Reduced) -> Tensor:
    return torch.stack([reduced.middle - reduced.half_width, reduced.middle + reduced.half_width])


def _scalars(values: Tensor, valid: Mask) -> pa.Array:
    """(B,) as a column; null where not valid or not finite."""
    by_fit = _array(values)
    return pa.array(by_fit, mask=~(valid & np.isfinite(by_fit)))


def _vectors(values: Tensor, valid: Mask) -> pa.Array:
    """(P, B) as a column of lists of P; null where not valid or not all finite."""
    by_fit = np.ascontiguousarray(_array(values).T)
    valid = valid & np.isfinite(by_fit).all(axis=1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(by_fit.ravel()), by_fit.shape[1], mask=pa.array(~valid))
    return lists.cast(pa.list_(pa.float64()))


def _nullable(values: NDArray[np.floating]) -> pa.Array:
    finite = np.isfinite(values)
    return pa.array(values) if finite.all() else pa.array(values, mask=~finite)


def _array(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
