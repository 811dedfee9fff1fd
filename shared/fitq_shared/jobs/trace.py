"""Which steps of a descent a trace holds: one rule for the worker that records and for the client that labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def recorded_steps(trace: str, steps: int, made: int | None = None) -> NDArray[np.int64]:
    """Steps at which the loss is kept, increasing, for a descent of `steps` steps; int64.

    Step t is the loss after t updates: 0 is the loss at the starting coefficients and `steps` the final one. `full`
    keeps 0..steps, `every:K` each K-th and the last, `points:N` N evenly spaced ones (fewer where steps + 1 < N).
    A descent that stopped after `made` steps ends its trace there.
    """
    planned = _planned(trace, steps)
    if made is None or made >= steps or not len(planned):
        return planned
    return np.append(planned[planned < made], made)


def recorded_counts(trace: str, steps: NDArray[np.integer], made: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
    """Number of losses that a trace holds for each number of steps in `steps`, and of steps made in `made`."""
    ends = steps if made is None else made
    # One number for each pair, since sorting numbers is much faster than sorting rows.
    pairs, place = np.unique(steps.astype(np.int64) << 32 | ends.astype(np.int64), return_inverse=True)
    lengths = [len(recorded_steps(trace, int(pair >> 32), int(pair & 0xFFFFFFFF))) for pair in pairs]
    return np.array(lengths, dtype=np.int64)[place]


def _planned(trace: str, steps: int) -> NDArray[np.int64]:
    kind, _, number = trace.partition(":")
    if kind == "none":
        return np.empty(0, dtype=np.int64)
    if kind == "full":
        return np.arange(steps + 1)
    if kind == "every":
        return np.append(np.arange(0, steps, int(number)), steps)
    return np.unique(np.rint(np.linspace(0, steps, int(number))).astype(np.int64))
