"""Optimizers as pure functions over a batch; a new one is one function, one schedule and one row of OPTIMIZERS.

A schedule holds what an update needs that depends on the step alone, computed in float64 for the whole descent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root

#: Moments of an optimizer, each of shape (P, B).
Moments = tuple[Tensor, ...]

BETA1, BETA2, EPS, MOMENTUM_DECAY = 0.9, 0.999, 1e-8, 4e-3  # the defaults of torch.optim.NAdam


class Optimizer(NamedTuple):
    """What the descent needs to know of an optimizer."""

    #: (w, gradient, moments, lr, row of the schedule) -> (w, moments)
    update: Callable[[Tensor, Tensor, Moments, Tensor, Tensor], tuple[Tensor, Moments]]
    #: number of steps -> float64 of shape (steps, columns)
    schedule: Callable[[int], Tensor]
    moments: int


def nadam(w: Tensor, gradient: Tensor, moments: Moments, lr: Tensor, row: Tensor) -> tuple[Tensor, Moments]:
    """One step of NAdam (Dozat, "Incorporating Nesterov Momentum into Adam", 2016), as torch.optim.NAdam has it."""
    m, v = moments
    m = BETA1 * m + (1.0 - BETA1) * gradient
    v = BETA2 * v + (1.0 - BETA2) * (gradient * gradient)
    step = (row[0] * gradient + row[1] * m) / (square_root(v * row[2]) + EPS)
    return w - lr * step, (m, v)


@lru_cache(maxsize=8)
def nadam_schedule(steps: int) -> Tensor:
    """Weights of gradient and first moment, and the bias correction of the second: float64 of shape (steps, 3).

    With mu_t = beta1 (1 - 0.96^(t decay) / 2) they are (1 - mu_t) / (1 - mu_1...mu_t), mu_{t+1} / (1 - mu_1...mu_{t+1})
    and 1 / (1 - beta2^t).
    """
    t = np.arange(1, steps + 2, dtype=np.float64)
    mu = BETA1 * (1.0 - 0.5 * 0.96 ** (t * MOMENTUM_DECAY))
    product = np.cumprod(mu)
    columns = [(1.0 - mu[:-1]) / (1.0 - product[:-1]), mu[1:] / (1.0 - product[1:]), 1.0 / (1.0 - BETA2 ** t[:-1])]
    return torch.from_numpy(np.stack(columns, axis=1))


OPTIMIZERS = {"nadam": Optimizer(nadam, nadam_schedule, moments=2)}
