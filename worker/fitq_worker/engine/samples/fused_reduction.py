"""reduction.cpp, built and called: the reduction on a CPU without a pass through memory for every operation.

It gives the bits of `reduction.reduce`, and takes the sample sets as they come in a frame, without padding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fitq_shared.jobs.points import MAX_MAGNITUDE
from fitq_worker.engine.native.kernels import CodePath, find_library
from fitq_worker.engine.samples.reduction import CONSTANT_TOLERANCE, FAR_DEVIATIONS, RANK_TOLERANCE, Reduced
from fitq_worker.engine.samples.sets import SampleSets

Reduction = Callable[[SampleSets, int], Reduced]

_SOURCE = Path(__file__).with_name("reduction.cpp")
#: Samples in a block of reduction.cpp.
_BLOCK_SAMPLES = 32


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in SampleSets._fields]


class _Reduced(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in Reduced._fields]


class ReductionKernel(NamedTuple):
    """The library made of reduction.cpp."""

    @property
    def name(self) -> str:
        """A word for it."""
        return f"reduction-{MAX_MAGNITUDE:g}"

    @property
    def made_from(self) -> tuple[str, ...]:
        """Its own files, and the constants of torch's reduction."""
        return ("samples/fused_reduction.py", "samples/reduction.py", "samples/reduction.cpp")

    def write(self) -> str:
        """Its source code."""
        constants = {
            "MAX_MAGNITUDE": MAX_MAGNITUDE,
            "RANK_TOLERANCE": RANK_TOLERANCE,
            "CONSTANT_TOLERANCE": CONSTANT_TOLERANCE,
            "FAR_DEVIATIONS": FAR_DEVIATIONS,
        }
        defined = [f"#define {name} {value!r}\n" for name, value in constants.items()]
        return "".join(defined) + _SOURCE.read_text()


def find_reduction(path: CodePath) -> Reduction | None:
    """The compiled reduction; None where there is none yet or none is wanted."""
    library = find_library(ReductionKernel(), path)
    if library is None:
        return None
    library.memory_numbers.restype = ctypes.c_int64
    return partial(_reduce, library)


def _reduce(library: ctypes.CDLL, sets: SampleSets, degree: int) -> Reduced:
    fits, size = len(sets.offsets) - 1, ctypes.c_int64
    longest = -(-max(1, int(np.diff(sets.offsets).max(initial=1))) // _BLOCK_SAMPLES) * _BLOCK_SAMPLES
    memory = torch.empty(library.memory_numbers(size(longest), size(degree)), dtype=torch.float64)  # aligned as it must be
    arrays = [np.ascontiguousarray(field) for field in sets if field is not None]
    given = _Sets(*(array.ctypes.data for array in arrays))
    reduced = _empty_reduced(fits, degree)
    target = _Reduced(*(field.data_ptr() for field in reduced))
    library.reduce(size(fits), size(degree), given, target, ctypes.c_void_p(memory.data_ptr()), size(longest))
    return reduced


def _empty_reduced(fits: int, degree: int) -> Reduced:
    """Arrays for the fields of Reduced."""
    numbers: Callable[..., Tensor] = partial(torch.empty, dtype=torch.float64)
    counts, flags = (partial(torch.empty, fits, dtype=kind) for kind in (torch.int64, torch.bool))
    return Reduced(
        low=numbers(fits),
        high=numbers(fits),
        half_width=numbers(fits),
        centre=numbers(fits),
        mean=numbers(fits),
        scale=numbers(fits),
        varies=flags(),
        hessenberg=numbers(degree + 1, degree, fits),
        target=numbers(degree + 1, fits),
        floor=numbers(fits),
        rank=counts(),
        used=counts(),
        total=numbers(fits),
        invalid=flags(),
    )
