"""What the engine is measured against: the notebook's loop, the usual JAX program, and C++ written by hand."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

STEPS, TRACE_POINTS = 1000, 100
LR, BETA1, BETA2, EPS, MOMENTUM_DECAY = 0.01, 0.9, 0.999, 1e-8, 4e-3
#: The degrees that reference.cpp has code for.
DEGREES = (1, 2, 3, 5, 8)
Floats = NDArray[np.float32]
#: What a compiler may do to the arithmetic: anything, or what keeps every bit, as fitq's own kernels must.
FAST_MATH = ("-ffast-math",)
EVERY_BIT = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")


def notebook_loop(degree: int, samples: int, fits: int) -> None:
    """torch.optim.NAdam on one fit after the other, of samples drawn as the notebook does."""
    polynomial = np.poly1d(np.arange(1.0, degree + 2))
    for seed in range(fits):
        torch.manual_seed(seed)
        x = torch.randn(samples) * 5
        notebook_fit(x, polynomial(x.numpy()), degree)


def notebook_fit(x: ArrayLike, y: ArrayLike, degree: int) -> list[float]:
    """The notebook's 1000 steps on one sample set; coefficients of the highest power first."""
    given, target = (torch.as_tensor(np.asarray(values), dtype=torch.float32)[:, None] for values in (x, y))
    powers = torch.cat([given**k for k in range(degree, -1, -1)], dim=1)
    w = torch.randn(degree + 1, 1, requires_grad=True)
    optimizer = torch.optim.NAdam([w], lr=LR)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(powers @ w, target)
        loss.backward()
        optimizer.step()
    return [float(value) for value in w.detach().flatten()]


def jax_program(degree: int, x: Floats, y: Floats) -> Callable[[], None]:
    """`jax.vmap` of optax's NAdam in a `lax.scan`, compiled for x and y of shape (B, N); a call runs it.

    Raises:
        ImportError: jax or optax is not installed.
    """
    import jax
    import optax

    optimizer = optax.nadam(LR, BETA1, BETA2, EPS)

    def fit(x: Any, y: Any, w: Any) -> Any:
        design = x[:, None] ** np.arange(degree, -1, -1)

        def loss(w: Any) -> Any:
            return ((design @ w - y) ** 2).mean()

        def step(state: Any, _: None) -> Any:
            w, moments = state
            value, gradient = jax.value_and_grad(loss)(w)
            updates, moments = optimizer.update(gradient, moments, w)
            return (optax.apply_updates(w, updates), moments), value

        (w, _), losses = jax.lax.scan(step, (w, optimizer.init(w)), length=STEPS)
        return w, losses[:: STEPS // TRACE_POINTS]

    starts = np.random.default_rng(0).normal(size=(len(x), degree + 1)).astype(np.float32)
    program = jax.jit(jax.vmap(fit)).lower(x, y, starts).compile()
    return lambda: jax.block_until_ready(program(x, y, starts)) and None


def cpp_program(degree: int, fits: int, options: tuple[str, ...]) -> Callable[[], None]:
    """reference.cpp, built with these options, on random reduced problems; a call runs it.

    Raises:
        FileNotFoundError: there is no g++.
    """
    library = _built(options)
    random, size = np.random.default_rng(0), degree + 1
    target, w = (random.normal(size=(size, fits)).astype(np.float32) for _ in range(2))
    floor, trace = np.zeros(fits, np.float32), np.zeros((TRACE_POINTS + 1, fits), np.float32)
    t = np.arange(1, STEPS + 2)
    mu = BETA1 * (1 - 0.5 * 0.96 ** (t * MOMENTUM_DECAY))
    left = 1 - np.cumprod(mu)
    tables = [(1 - mu[:-1]) / left[:-1], mu[1:] / left[1:], 1 / (1 - BETA2 ** t[:-1])]
    columns = [table.astype(np.float32) for table in tables]
    numbers = [ctypes.c_float(number) for number in (LR, BETA1, BETA2, EPS)]

    def run() -> None:
        arrays = (target, floor, w.copy(), trace)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
        schedule = [column.ctypes.data_as(ctypes.c_void_p) for column in columns]
        library.nadam(size, fits, STEPS, *pointers, STEPS // TRACE_POINTS, *schedule, *numbers)

    return run


def _built(options: tuple[str, ...]) -> ctypes.CDLL:
    source = Path(__file__).with_name("reference.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "reference.so")
        subprocess.run(
            ["g++", "-O3", "-march=native", "-shared", "-fPIC", *options, str(source), "-o", str(library)], check=True
        )
        return ctypes.CDLL(str(library))
