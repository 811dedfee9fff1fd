"""Arithmetic whose last bit depends on nothing but the numbers: not on the batch, the place in it or the code path.

IEEE 754 fixes the result of +, -, *, / and square root. What is left to get wrong is the order of a sum, a square root that
is not correctly rounded, and functions that no standard fixes. All happen: library reductions choose their order by shape,
torch's vectorised square root on a CPU is up to one unit in the last place off where that of compiled code is exact, and
its logarithm differs by processor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

#: Numbers in a row of a sum: those of the widest vector registers.
LANES = 8


def tree_sum(values: Tensor) -> Tensor:
    """Sum over the first axis in the order of a fixed tree; shape (N, ...) to (...).

    Rows of LANES numbers are added in pairs of neighbours until one is left, and that one by halving: zeros appended to
    `values` do not change a bit, the error grows with the logarithm of N, and it can be done in one pass.
    """
    while len(values) > LANES:
        whole = len(values) // (2 * LANES) * (2 * LANES)
        pairs, rest = values[:whole].unflatten(0, (-1, 2, LANES)), values[whole:]
        parts = [(pairs[:, 0] + pairs[:, 1]).flatten(0, 1)] if whole else []
        if len(rest) > LANES:
            parts += [rest[:-LANES] + rest[LANES:], rest[len(rest) - LANES : LANES]]
        elif len(rest):
            parts.append(rest)
        values = torch.cat(parts) if len(parts) > 1 else parts[0]
    while len(values) > 1:
        half = 1 << ((len(values) - 1).bit_length() - 1)
        second = len(values) - half
        folded = values[:second] + values[half:]
        values = folded if second == half else torch.cat([folded, values[second:half]])
    return values[0] + 0.0  # turns -0.0, which an appended zero would have turned too


def square_root(values: Tensor) -> Tensor:
    """Correctly rounded square root, elementwise, for float32 and float64.

    In eager float32 the root is taken in float64 and rounded: its error of one unit there is too small to move a
    float32 result, since the root of a 24-bit number is never that close to the middle between two of them.
    """
    if _is_traced(values) or values.device.type != "cpu":  # compiled code rounds correctly
        return values.sqrt()
    if values.dtype == torch.float32:
        return values.double().sqrt().to(torch.float32)
    return torch.from_numpy(np.sqrt(values.numpy()))


def is_never(mask: Tensor) -> bool:
    """Whether a mask is true nowhere, so that what it asks for can be left out; a trace does not know."""
    return not _is_traced(mask) and not bool(mask.any())


def _is_traced(values: Tensor) -> bool:
    return type(values) is not Tensor


@contextmanager
def without_subnormals() -> Iterator[None]:
    """Take every subnormal number as 0 in this thread, and let torch compute in no other.

    Some processors take a hundred cycles for each. The thread's own mode, and torch's number of threads, come back after.
    """
    threads, flushing = torch.get_num_threads(), sys.float_info.min * 0.5 == 0.0
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)
        torch.set_num_threads(threads)
