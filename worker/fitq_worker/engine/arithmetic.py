"""Arithmetic whose last bit depends on nothing but the numbers: not on the batch, the place in it or the code path.

IEEE 754 fixes the result of +, -, *, / and square root. What is left to get wrong is the order of a sum and a square
root that is not correctly rounded, and both happen: library reductions choose their order by shape, and torch's
vectorised square root on a CPU is up to one unit in the last place off where a compiled kernel's is exact.
"""

from __future__ import annotations

from typing import Any

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
    if len(values) > LANES:
        missing = -len(values) % LANES
        padded = torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values
        rows = padded.unflatten(0, (-1, LANES))
        while len(rows) > 1:
            pairs, odd = rows[: len(rows) // 2 * 2].unflatten(0, (-1, 2)), rows[len(rows) // 2 * 2 :]
            folded = pairs[:, 0] + pairs[:, 1]
            rows = torch.cat([folded, odd]) if len(odd) else folded
        values = rows[0]
    while len(values) > 1:
        half = 1 << ((len(values) - 1).bit_length() - 1)
        rest = len(values) - half
        folded = values[:rest] + values[half:]
        values = folded if rest == half else torch.cat([folded, values[rest:half]])
    return values[0] + 0.0  # turns -0.0, which an appended zero would have turned too


class _Repeated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row: Tensor, count: int) -> Tensor:
        return row.expand(count, *row.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return tree_sum(gradients[0]), None


def repeated(row: Tensor, count: int) -> Tensor:
    """`row` as each of `count` rows, shape (count, ...).

    Broadcasting does the same, but autograd then adds up the gradient in an order that depends on the shape.
    """
    result: Tensor = _Repeated.apply(row, count)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return result


def square_root(values: Tensor) -> Tensor:
    """Correctly rounded square root, elementwise, for float32 and float64.

    In eager float32 the root is taken in float64 and rounded: its error of one unit there is too small to move a
    float32 result, since the root of a 24-bit number is never that close to the middle between two of them.
    """
    if torch.compiler.is_compiling() or values.device.type != "cpu":
        return values.sqrt()
    if values.dtype == torch.float32:
        return values.double().sqrt().to(torch.float32)
    return torch.from_numpy(np.sqrt(values.numpy()))
