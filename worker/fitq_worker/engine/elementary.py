"""Elementary functions in plain arithmetic: the same bits on every processor and in every code path, to a few units in the
last place. Libraries have others for each width of registers, and a GPU has its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Ratio(NamedTuple):
    """x p(x^2) / q(x^2), coefficients from the lowest power up, and how far from 0 it holds."""

    p: tuple[float, ...]
    q: tuple[float, ...]
    limit: float


#: tanh with the least relative error, 2.1e-8 and 6.5e-17, found by reweighted least squares; 1 up to rounding beyond.
_TANH = {
    torch.float32: _Ratio(
        (0.99999998, 0.133809524, 0.00349549574, 2.06073799e-05, 1.33520273e-08),
        (1.0, 0.467142682, 0.0258766443, 0.000328547542, 7.77553498e-07),
        9.0,
    ),
    torch.float64: _Ratio(
        (
            0.9999999999999999, 0.15181462000272822, 0.005976097762023269, 9.365513317327736e-05, 6.837899704488691e-07,
            2.445082322797073e-09, 4.18342534513163e-12, 3.0774723855982574e-15, 7.462116745054001e-19,
            2.5242140589888957e-23,
        ),
        (
            1.0, 0.48514795333606076, 0.0343587488740452, 0.0008284316146326879, 8.760566640139664e-06,
            4.4696690266994844e-08, 1.113796154170779e-10, 1.2750957975771515e-13, 5.662308328696254e-17,
            6.271479308564977e-21,
        ),
        19.0,
    ),
}  # fmt: skip
#: Terms of the series of the logarithm; the last is beyond rounding where its argument is at most 1/3.
_LOGARITHM_TERMS = {torch.float32: 8, torch.float64: 17}
#: Up to this tanh log(cosh) is taken from it alone, and keeps its digits near 0.
_NEAR = 0.5


def tanh(u: Tensor) -> Tensor:
    """The hyperbolic tangent, elementwise, for float32 and float64."""
    ratio = _TANH[u.dtype]
    x = u.clamp(-ratio.limit, ratio.limit)
    square = x * x
    return (x * _polynomial(ratio.p, square) / _polynomial(ratio.q, square)).clamp(-1.0, 1.0)


def log_cosh(u: Tensor) -> Tensor:
    """log(cosh(u)), elementwise; its derivative, for autograd, is tanh(u)."""
    found: Tensor = _LogCosh.apply(u)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return found


class _LogCosh(torch.autograd.Function):
    """With t = tanh(|u|) it is -log(1 - t^2) / 2, and |u| - log(1 + t), which keeps no digits near 0."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        t = tanh(u)
        ctx.save_for_backward(t)
        size = t.abs()
        near = size <= _NEAR
        logarithm = _log_of_one_and(torch.where(near, -(t * t), size))
        return torch.where(near, -0.5 * logarithm, u.abs() - logarithm)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        t: Tensor = ctx.saved_tensors[0]
        return gradients[0] * t


def _log_of_one_and(y: Tensor) -> Tensor:
    """log(1 + y) for y from -1/4 to 1: 2 artanh(z), z = y / (2 + y), by its series."""
    z = y / (2.0 + y)
    series = tuple(1.0 / (2 * k + 1) for k in range(_LOGARITHM_TERMS[y.dtype]))
    return 2.0 * z * _polynomial(series, z * z)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Horner's scheme, from the lowest power up."""
    value = coefficients[-1] * x
    for coefficient in coefficients[-2:0:-1]:
        value = (value + coefficient) * x
    return value + coefficients[0]
