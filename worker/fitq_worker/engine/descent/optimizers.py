"""Optimizers as pure functions over a batch; a new one is one function, its numbers, and one row of OPTIMIZERS.

Each follows torch.optim's of the same name. What depends on the step alone is tabulated in float64 before the descent
(`schedule`), what depends on the fit alone is rounded once (`constants`), so that an update is plain arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fitq_worker.engine.arithmetic import square_root

Floats = NDArray[np.float64]
#: The numeric hyperparameters of a fit, columns of a job frame.
HYPERPARAMETERS = (
    "lr", "steps", "schedule", "gamma", "step_size", "beta1", "beta2", "eps", "weight_decay", "momentum", "nesterov",
    "smoothing", "momentum_decay",
)  # fmt: skip
#: Hyperparameters by name, each an array of shape (B,).
Hyper = Mapping[str, NDArray[Any]]
#: Moments of an optimizer, each of shape (P, B).
Moments = tuple[Tensor, ...]
#: Pairs of steps and changes of the gradient that L-BFGS remembers.
LBFGS_HISTORY = 10


class Optimizer(NamedTuple):
    """What the descent needs to know of an optimizer."""

    #: (w, gradient, moments, rate, constants, row of the schedule) -> (w, moments). w is (P, B), everything else is by
    #: rows of shape (B,), or (1,) where all fits agree. None where a step needs the loss itself: it has a block of its own.
    update: Callable[[Tensor, Tensor, Moments, Tensor, Tensor, Tensor], tuple[Tensor, Moments]] | None
    moments: int
    #: Numbers of each fit that the update takes.
    constants: Callable[[Hyper], list[Floats]]
    #: Numbers of each step: (t of shape (S, 1) from 1, hyperparameters of shape (U,)) -> columns of shape (S, U).
    schedule: Callable[[Floats, Hyper], list[Floats]] = lambda t, hyper: []
    #: The hyperparameters on which the schedule depends.
    scheduled: tuple[str, ...] = ()


def nadam(w: Tensor, gradient: Tensor, moments: Moments, rate: Tensor, c: Tensor, row: Tensor) -> tuple[Tensor, Moments]:
    """Dozat, "Incorporating Nesterov Momentum into Adam", 2016."""
    decay, keep_m, take_m, keep_v, take_v, eps = c.unbind(0)
    gradient = gradient + decay * w
    m = keep_m * moments[0] + take_m * gradient
    v = keep_v * moments[1] + take_v * (gradient * gradient)
    step = (row[0] * gradient + row[1] * m) / (square_root(v * row[2]) + eps)
    return w - rate * step, (m, v)


def adam(w: Tensor, gradient: Tensor, moments: Moments, rate: Tensor, c: Tensor, row: Tensor) -> tuple[Tensor, Moments]:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014."""
    gradient = gradient + c[0] * w
    return _adam_step(w, gradient, moments, rate, c[1:], row)


def adamw(w: Tensor, gradient: Tensor, moments: Moments, rate: Tensor, c: Tensor, row: Tensor) -> tuple[Tensor, Moments]:
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2017."""
    return _adam_step(w - rate * c[0] * w, gradient, moments, rate, c[1:], row)


def sgd(w: Tensor, gradient: Tensor, moments: Moments, rate: Tensor, c: Tensor, row: Tensor) -> tuple[Tensor, Moments]:
    """Gradient descent with momentum, Nesterov's where its switch is 1."""
    decay, momentum, nesterov = c.unbind(0)
    gradient = gradient + decay * w
    m = momentum * moments[0] + gradient
    ahead = gradient + momentum * m
    return w - rate * (nesterov * ahead + (1.0 - nesterov) * m), (m,)


def rmsprop(w: Tensor, gradient: Tensor, moments: Moments, rate: Tensor, c: Tensor, row: Tensor) -> tuple[Tensor, Moments]:
    """Tieleman and Hinton, lecture 6.5 of "Neural Networks for Machine Learning", 2012; uncentred."""
    decay, keep, take, eps, momentum = c.unbind(0)
    gradient = gradient + decay * w
    v = keep * moments[0] + take * (gradient * gradient)
    m = momentum * moments[1] + gradient / (square_root(v) + eps)
    return w - rate * m, (v, m)


def adagrad(w: Tensor, gradient: Tensor, moments: Moments, rate: Tensor, c: Tensor, row: Tensor) -> tuple[Tensor, Moments]:
    """Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 12, 2011."""
    decay, eps = c.unbind(0)
    gradient = gradient + decay * w
    total = moments[0] + gradient * gradient
    return w - rate * (gradient / (square_root(total) + eps)), (total,)


def _adam_step(
    w: Tensor, gradient: Tensor, moments: Moments, rate: Tensor, c: Tensor, row: Tensor
) -> tuple[Tensor, Moments]:
    keep_m, take_m, keep_v, take_v, eps = c.unbind(0)
    m = keep_m * moments[0] + take_m * gradient
    v = keep_v * moments[1] + take_v * (gradient * gradient)
    return w - rate * (row[0] * m / (square_root(v * row[1]) + eps)), (m, v)


def _adam_constants(hyper: Hyper) -> list[Floats]:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    return [hyper["weight_decay"], beta1, 1.0 - beta1, beta2, 1.0 - beta2, hyper["eps"]]


def _adam_schedule(t: Floats, hyper: Hyper) -> list[Floats]:
    """Bias corrections of both moments: 1 / (1 - beta1^t), 1 / (1 - beta2^t)."""
    return [1.0 / (1.0 - hyper["beta1"] ** t), 1.0 / (1.0 - hyper["beta2"] ** t)]


def _nadam_schedule(t: Floats, hyper: Hyper) -> list[Floats]:
    """Weights of gradient and first moment, and the bias correction of the second.

    With mu_t = beta1 (1 - 0.96^(t decay) / 2) they are (1 - mu_t) / (1 - mu_1...mu_t), mu_{t+1} / (1 - mu_1...mu_{t+1})
    and 1 / (1 - beta2^t).
    """
    beyond = np.concatenate([t, t[-1:] + 1])
    mu = hyper["beta1"] * (1.0 - 0.5 * 0.96 ** (beyond * hyper["momentum_decay"]))
    left = 1.0 - np.cumprod(mu, axis=0)
    return [(1.0 - mu[:-1]) / left[:-1], mu[1:] / left[1:], 1.0 / (1.0 - hyper["beta2"] ** t)]


OPTIMIZERS = {
    "nadam": Optimizer(nadam, 2, _adam_constants, _nadam_schedule, ("beta1", "beta2", "momentum_decay")),
    "adam": Optimizer(adam, 2, _adam_constants, _adam_schedule, ("beta1", "beta2")),
    "adamw": Optimizer(adamw, 2, _adam_constants, _adam_schedule, ("beta1", "beta2")),
    "sgd": Optimizer(sgd, 1, lambda hyper: [hyper["weight_decay"], hyper["momentum"], hyper["nesterov"]]),
    "rmsprop": Optimizer(
        rmsprop,
        2,
        lambda h: [h["weight_decay"], h["smoothing"], 1.0 - h["smoothing"], h["eps"], h["momentum"]],
    ),
    "adagrad": Optimizer(adagrad, 1, lambda hyper: [hyper["weight_decay"], hyper["eps"]]),
    "lbfgs": Optimizer(None, 2 + 2 * LBFGS_HISTORY, lambda hyper: []),
}
