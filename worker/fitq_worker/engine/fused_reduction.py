"""reduction.cpp, built and called: the reduction on a CPU without a pass through memory for every operation.

It gives the bits of `reduction.reduce`, and takes the sample sets as they come in a frame, without padding.
"""

from __future__ import annotations

import ctypes
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fitq_shared.jobs.points import MAX_MAGNITUDE
from fitq_worker.compiler import cxx_compiler
from fitq_worker.engine.kernels import build_in_background, kernel_file
from fitq_worker.engine.reduction import CONSTANT_TOLERANCE, FAR_DEVIATIONS, RANK_TOLERANCE, Reduced
from fitq_worker.engine.samples import SampleSets

log = logging.getLogger(__name__)

Reduction = Callable[[SampleSets, int], Reduced]

_SOURCE = Path(__file__).with_name("reduction.cpp")
#: Every rounding is kept: no contraction to fused operations, nothing reordered.
_ARITHMETIC = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_LIBRARY = ("-std=c++17", "-shared", "-fPIC")
#: PaddedSamples in a block of reduction.cpp.
_BLOCK_SAMPLES = 32


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in SampleSets._fields]


class _Reduced(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in Reduced._fields]


class ReductionKernel(NamedTuple):
    """The library made of reduction.cpp."""

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return kernel_file(
            f"reduction-{MAX_MAGNITUDE:g}", ".so", "cpu", ("fused_reduction.py", "reduction.py", _SOURCE.name)
        )

    def compile(self, target: Path) -> None:
        """Build it into a new file."""
        constants = {
            "MAX_MAGNITUDE": MAX_MAGNITUDE,
            "RANK_TOLERANCE": RANK_TOLERANCE,
            "CONSTANT_TOLERANCE": CONSTANT_TOLERANCE,
            "FAR_DEVIATIONS": FAR_DEVIATIONS,
        }
        defined = [f"-D{name}={value!r}" for name, value in constants.items()]
        subprocess.run([str(cxx_compiler()), *_ARITHMETIC, *_LIBRARY, *defined, str(_SOURCE), "-o", str(target)], check=True)


def load(kernel: ReductionKernel) -> Reduction | None:
    """The compiled reduction, or None while there is none."""
    return _load(kernel.file) if kernel.file.exists() else None


@cache
def _load(file: Path) -> Reduction | None:
    try:
        library = ctypes.CDLL(str(file))
        library.memory_numbers.restype = ctypes.c_int64
    except (OSError, AttributeError) as error:  # a broken file must cost speed, not fits
        log.warning("%s cannot be loaded (%s); going on without it, delete it to have it built again", file, error)
        return None
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


if __name__ == "__main__":
    build_in_background(ReductionKernel(*json.loads(sys.argv[1])))
