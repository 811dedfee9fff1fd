"""Tensors with the batch as last axis become columns of a frame; missing numbers are nulls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

Mask = NDArray[np.bool_]


def constant(word: str, rows: int) -> pa.DictionaryArray:
    """The same word in every row."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int8), pa.array([word]))


def scalars(values: Tensor, valid: Mask) -> pa.Array:
    """(B,) as a column; null where not valid or not finite."""
    by_fit = array(values)
    return pa.array(by_fit, mask=~(valid & np.isfinite(by_fit)))


def vectors(values: Tensor, valid: Mask) -> pa.Array:
    """(P, B) as a column of lists of P; null where not valid or not all finite."""
    by_fit = array(values.T.contiguous())
    finite = np.isfinite(by_fit)
    valid = valid if finite.all() else valid & finite.all(axis=1)
    offsets = np.arange(0, by_fit.size + 1, by_fit.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(by_fit.ravel()), mask=pa.array(~valid))


def matrices(values: Tensor | None, valid: Mask, *, highest_first: bool = False) -> pa.Array:
    """(P, P, B) as a column of lists of P P numbers, row by row; null where there are none."""
    if values is None:
        return pa.nulls(len(valid), pa.list_(pa.float64()))
    return vectors((values.flip(0, 1) if highest_first else values).flatten(0, 1), valid)


def array(values: Tensor) -> NDArray[Any]:
    """A tensor on the CPU, as numpy has it."""
    return values.cpu().numpy()
