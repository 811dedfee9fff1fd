"""Verdicts: how each fit ended, and what to say of it."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitq_shared.jobs.schemas import Status
from fitq_worker.engine.arithmetic import square_root, tree_sum
from fitq_worker.engine.descent.stopping import End
from fitq_worker.engine.optimum.objective import Measured
from fitq_worker.engine.outcome import invalid
from fitq_worker.engine.outcome.assessment import cancelling_size
from fitq_worker.engine.outcome.columns import Mask, array
from fitq_worker.engine.samples.basis import powers_of_x
from fitq_worker.engine.samples.reduction import Reduced
from fitq_worker.engine.samples.sets import Tile, numbers
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
STATUSES = (
    (Status.CONVERGED, None),
    (Status.MAX_STEPS, "steps ran out before the gap fell to the tolerance; raise steps or lr"),
    (Status.STALLED, "ftol or gtol stopped it before the gap fell to the tolerance; lower them or raise patience or lr"),
    (Status.DIVERGED, "the loss ended above where it began or left the finite numbers; lower lr"),
    (Status.DEGENERATE, "fewer points than coefficients; add points or lower the degree"),
    (Status.DEGENERATE, "fewer different x than coefficients; spread the points or lower the degree"),
    (Status.INVALID, None),  # its message names the first bad point
)
_DIGITS_LOST = (
    "in powers of x the terms cancel and more than 8 of 16 digits are lost; evaluate basis_coefficients of basis "
    "chebyshev or legendre on the domain, or move x towards 0"
)


def judge(tile: Tile, reduced: Reduced, measured: Measured, end: Tensor) -> NDArray[np.int64]:
    """The verdict on each fit, (B,): the first of these that holds, from the worst down. `end` is of `End`, (B,)."""
    tolerance = torch.from_numpy(numbers(tile.jobs["tolerance"]).astype(np.float64)).to(measured.gap.device)
    stopped = (end == End.FTOL) | (end == End.GTOL)
    # A warm start at the optimum may end a little above it: that alone is not diverging.
    above = (measured.loss > measured.initial) & (measured.loss > measured.zero)
    cases = [
        (Verdict.INVALID, reduced.invalid),
        (Verdict.FEW_POINTS, reduced.used < len(reduced.target)),
        (Verdict.REPEATED_POINTS, ~reduced.determined),
        (Verdict.CONVERGED, measured.gap <= tolerance),
        (Verdict.DIVERGED, ~torch.isfinite(measured.loss) | above | (end == End.DIVERGED)),
        (Verdict.STALLED, stopped),
    ]
    return np.select([array(mask) for _, mask in cases], [int(verdict) for verdict, _ in cases], int(Verdict.MAX_STEPS))


def messages_of(tile: Tile, verdict: NDArray[np.int64], cancels: Mask) -> pa.Array:
    """The message of each verdict, followed by the warning about lost digits; what is wrong with an invalid sample set."""
    messages = pa.array([message for _, message in STATUSES]).take(pa.array(verdict))
    if cancels.any():
        warned = pc.coalesce(pc.binary_join_element_wise(messages, _DIGITS_LOST, "; "), pa.scalar(_DIGITS_LOST))
        messages = pc.if_else(pa.array(cancels), warned, messages)
    sick = np.flatnonzero(verdict == Verdict.INVALID)
    if not len(sick):
        return messages
    places = tile.jobs["place"].take(pa.array(sick)).to_pylist()
    texts = invalid.messages(tile.sets, sick if tile.set_of is None else tile.set_of[sick], places)
    return pc.replace_with_mask(messages, pa.array(verdict == Verdict.INVALID), pa.array(texts, pa.string()))


def find_cancelling(suspected: Tensor, raw: Tensor, final: Tensor, reduced: Reduced) -> Mask:
    """Fits whose terms in powers of x are, on the points, MOST_CANCELLATION times as large as the polynomial, (B,).

    Those `suspected`, (B,) bool, are so at the ends of the domain, where terms are larger than those of the samples in their
    mean. `raw` are the coefficients and `final` the coordinates in the orthonormal basis, (P, B).
    """
    cancels, indices = suspected.clone(), suspected.nonzero()[:, 0]
    if len(indices):
        factor = powers_of_x(take(reduced, indices))
        means = tree_sum(raw[:, indices].abs() * square_root(tree_sum(factor * factor)))
        cancels[indices] = ~(means <= cancelling_size(final[:, indices]))
    return np.asarray(array(cancels))
