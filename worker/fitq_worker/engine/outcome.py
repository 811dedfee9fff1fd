"""From the end of a descent to result and trace frames: one status per fit, missing numbers as nulls."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.frames import RESULT_SCHEMA, TRACE_SCHEMA, Status
from fitq_shared.trace import recorded_counts
from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.exact import condition, excess, least_squares, raw_powers, ridge_regression
from fitq_worker.engine.reduction import Reduced
from fitq_worker.engine.ridge import Penalised
from fitq_worker.engine.samples import numbers
from fitq_worker.engine.space import Space
from fitq_worker.engine.stopping import End

Mask = NDArray[np.bool_]


class Verdict(IntEnum):
    """How a fit ended, a little finer than its status."""

    CONVERGED = 0
    MAX_STEPS = 1
    STEPS_MADE = 2
    STALLED = 3
    DIVERGED = 4
    FEW_POINTS = 5
    REPEATED_POINTS = 6
    INVALID = 7


#: Status and message of each verdict, in its order.
_STATUSES = (
    (Status.CONVERGED, None),
    (Status.MAX_STEPS, "steps ran out before the gap fell to the tolerance; raise steps or lr"),
    (Status.MAX_STEPS, "all steps were made; only ftol or gtol can tell when a fit with this loss has converged"),
    (Status.STALLED, "ftol or gtol stopped it before the gap fell to the tolerance; lower them or raise patience or lr"),
    (Status.DIVERGED, "the loss ended above where it began or left the finite numbers; lower lr"),
    (Status.DEGENERATE, "fewer points than coefficients; add points or lower the degree"),
    (Status.DEGENERATE, "fewer different x than coefficients; spread the points or lower the degree"),
    (Status.INVALID, "a value of x, y or weights is missing, not finite, beyond 1e150, or a weight is negative"),
)
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
    made: Tensor  # (B,) int32, steps
    end: Tensor  # (B,) int8, of `End`
    restart: Tensor  # (B,) int32


def at_once(final: Tensor) -> Ended:
    """Solved without a descent."""
    none = torch.zeros_like(final[0], dtype=torch.int32)
    return Ended(final, final, none, none.to(torch.int8), none)


class Outcome(NamedTuple):
    """Everything the results are computed from; tensors are float64, coefficients (P, B) in the descent's coordinates."""

    jobs: pa.RecordBatch
    given: NDArray[np.int64]  # (B,) number of samples
    reduced: Reduced
    space: Space
    #: The least-squares system with its ridge, for the mean of squares alone.
    penalty: Penalised | None
    #: The loss that was minimised, in units of y, as a function of coefficients; None is the mean of squares.
    loss: Callable[[Tensor], Tensor] | None
    ended: Ended


class _Measured(NamedTuple):
    """Losses of B fits, in units of the loss, and the gap in units of the variance of y."""

    loss: Tensor
    initial: Tensor
    zero: Tensor  # of the zero polynomial of the space
    gap: Tensor


def result_frame(outcome: Outcome, device: str) -> pa.RecordBatch:
    """The results, a record batch of RESULT_SCHEMA with a null `chunk`."""
    jobs, reduced, space, ended = outcome.jobs, outcome.reduced, outcome.space, outcome.ended
    absolute = torch.from_numpy(numbers(jobs["absolute_sigma"])).to(ended.final.device)
    wanted = numbers(jobs["covariance"])
    if outcome.penalty is None:
        optimum = least_squares(reduced, absolute, covariance=bool(wanted.any()))
    else:
        optimum = ridge_regression(reduced, space, outcome.penalty, absolute, covariance=bool(wanted.any()))
    final = space.to_orthonormal(ended.final)
    measured = _measured(outcome, optimum.loss)
    variance = reduced.scale * reduced.scale
    squares = reduced.floor * variance + excess(final, reduced)
    verdict = _verdicts(outcome, measured)
    fitted, solved = verdict < Verdict.DIVERGED, verdict <= Verdict.DIVERGED
    own_basis = space.in_units_of_y(ended.final)
    raw = own_basis if jobs["basis"][0].as_py() == "power" else raw_powers(final, reduced)
    columns = {
        "index": jobs["index"],
        "id": jobs["id"],
        "status": pa.array([status for status, _ in _STATUSES]).take(pa.array(verdict)),
        "message": _messages(verdict, fitted & _array(_cancels(raw, final, reduced))),
        "degree": np.full(len(jobs), jobs["degree"][0].as_py(), dtype=np.int32),
        "basis": _constant(jobs["basis"][0].as_py(), len(jobs)),
        "loss_function": _constant(jobs["loss"][0].as_py(), len(jobs)),
        "optimizer": _constant(jobs["optimizer"][0].as_py(), len(jobs)),
        "lr": jobs["lr"],
        "steps_limit": jobs["steps"],
        "delta": pa.nulls(len(jobs), pa.float64()),
        "coefficients": _vectors(raw.flip(0), fitted),
        "scaled_coefficients": pa.nulls(len(jobs), RESULT_SCHEMA.field("scaled_coefficients").type),
        "basis_coefficients": _vectors(own_basis, fitted),
        "domain": _vectors(_domain(reduced), _array(reduced.used) > 0),
        "loss": _scalars(measured.loss, solved),
        "initial_loss": _scalars(measured.initial, solved),
        "exact_loss": _scalars(optimum.loss, solved),
        "gap": _scalars(measured.gap, solved),
        "exact_coefficients": _vectors(optimum.coefficients.flip(0), solved),
        "steps": np.where(solved, _array(ended.made), 0),
        "r2": _scalars(1.0 - squares / variance, fitted & _array(reduced.varies)),
        "rmse": _scalars(square_root(squares), fitted),
        "stderr": _vectors(optimum.stderr.flip(0), solved),
        "stderrs_off": pa.nulls(len(jobs), pa.float64()),
        "scaled_covariance": pa.nulls(len(jobs), RESULT_SCHEMA.field("scaled_covariance").type),
        "covariance": pa.nulls(len(jobs), RESULT_SCHEMA.field("covariance").type)
        if optimum.covariance is None
        else _vectors(optimum.covariance.flip(0, 1).flatten(0, 1), solved & wanted),
        "condition": _scalars(torch.ones_like(squares) if space.factor is None else condition(space.factor), solved),
        "rank": _array(reduced.rank),
        "samples_used": _array(reduced.used),
        "samples_dropped": outcome.given - _array(reduced.used),
        "restart": _array(ended.restart),
        "seed": jobs["seed"],
        "tags": jobs["tags"],
        "device": _constant(device, len(jobs)),
        "chunk": pa.nulls(len(jobs), pa.int32()),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type) for field in RESULT_SCHEMA], schema=RESULT_SCHEMA
    )


def _measured(outcome: Outcome, optimal: Tensor) -> _Measured:
    """`optimal` is the lowest loss, where it is the mean of squares, with its penalty if it has one."""
    ended, space, reduced = outcome.ended, outcome.space, outcome.reduced
    points = ended.final, ended.start, torch.zeros_like(ended.final)
    if outcome.loss is not None:
        loss, initial, zero = (outcome.loss(w) for w in points)
        return _Measured(loss, initial, zero, torch.full_like(loss, torch.nan))
    if outcome.penalty is None:
        above = [excess(space.to_orthonormal(w), reduced) for w in points]
    else:
        above = [outcome.penalty.excess(w) * space.unit * space.unit for w in points]
    loss, initial, zero = (optimal + distance for distance in above)
    return _Measured(loss, initial, zero, above[0] / (reduced.scale * reduced.scale))


def _constant(word: str, rows: int) -> pa.DictionaryArray:
    """The same word in every row."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int8), pa.array([word]))


def _messages(verdict: NDArray[np.int64], cancels: Mask) -> pa.Array:
    """The message of each verdict, followed by the warning about lost digits."""
    messages = pa.array([message for _, message in _STATUSES]).take(pa.array(verdict))
    if not cancels.any():
        return messages
    warned = pc.coalesce(pc.binary_join_element_wise(messages, _DIGITS_LOST, "; "), pa.scalar(_DIGITS_LOST))
    return pc.if_else(pa.array(cancels), warned, messages)


def _cancels(raw: Tensor, final: Tensor, reduced: Reduced) -> Tensor:
    """Somewhere on the domain the terms in powers of x are MOST_CANCELLATION times the polynomial's size, (B,) bool.

    `raw` are its coefficients and `final` its coordinates in the orthonormal basis, (P, B), whose length is its root
    mean square on the samples.
    """
    largest = reduced.middle.abs() + reduced.half_width
    terms = torch.zeros_like(largest)
    for coefficient in raw.flip(0):
        terms = terms * largest + coefficient.abs()
    return ~(terms <= MOST_CANCELLATION * square_root(tree_sum(final * final)))


def trace_frame(outcome: Outcome, losses: Tensor) -> pa.RecordBatch:
    """The traces, a record batch of TRACE_SCHEMA, no rows when none are kept; `losses` is (T, B), in units of y.

    A fit that was not descended has a null in place of its losses.
    """
    jobs = outcome.jobs if len(losses) else outcome.jobs.slice(0, 0)
    made = _array(outcome.ended.made)[: len(jobs)]
    lengths = np.empty(0, np.int64)
    if len(jobs):
        lengths = recorded_counts(jobs["trace"][0].as_py(), numbers(jobs["steps"]), made)
    descended = ~_array(outcome.reduced.invalid | ~_determined(outcome.reduced))[: len(jobs)]
    lengths = np.where(descended, lengths, 0)
    by_fit = _array(losses.T[: len(jobs)].contiguous())  # torch's transposition is five times as fast as numpy's
    full = (lengths == by_fit.shape[1]).all()
    values = by_fit.ravel() if full else by_fit[np.arange(by_fit.shape[1]) < lengths[:, None]]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, _nullable(values), mask=pa.array(~descended))
    columns = [
        jobs["index"],
        jobs["id"],
        jobs["trace"],
        jobs["steps"],
        pa.array(made),
        lists,
        pa.array(np.zeros(len(jobs), dtype=np.int16)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TRACE_SCHEMA)


def _determined(reduced: Reduced) -> Tensor:
    """The points determine all coefficients, (B,) bool."""
    return reduced.rank == len(reduced.target)


def _verdicts(outcome: Outcome, measured: _Measured) -> NDArray[np.int64]:
    """The first of these that holds, from the worst down; (B,)."""
    tolerance = torch.from_numpy(numbers(outcome.jobs["tolerance"]).astype(np.float64)).to(measured.gap.device)
    end = outcome.ended.end
    stopped = (end == End.FTOL) | (end == End.GTOL)
    # A warm start at the optimum may end a little above it: that alone is not diverging.
    above = (measured.loss > measured.initial) & (measured.loss > measured.zero)
    cases = [
        (Verdict.INVALID, outcome.reduced.invalid),
        (Verdict.FEW_POINTS, outcome.reduced.used < len(outcome.reduced.target)),
        (Verdict.REPEATED_POINTS, ~_determined(outcome.reduced)),
        (Verdict.CONVERGED, measured.gap <= tolerance),
        (Verdict.DIVERGED, ~torch.isfinite(measured.loss) | above | (end == End.DIVERGED)),
        (Verdict.STALLED if outcome.loss is None else Verdict.CONVERGED, stopped),
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
    by_fit = _array(values.T.contiguous())
    valid = valid & np.isfinite(by_fit).all(axis=1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(by_fit.ravel()), by_fit.shape[1], mask=pa.array(~valid))
    return lists.cast(pa.list_(pa.float64()))


def _nullable(values: NDArray[np.floating]) -> pa.Array:
    finite = np.isfinite(values)
    return pa.array(values) if finite.all() else pa.array(values, mask=~finite)


def _array(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
