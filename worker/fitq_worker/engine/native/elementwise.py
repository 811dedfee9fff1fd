"""Functions of numbers of each fit in one pass over the fits, where torch makes a hundred passes; the bits are the same.

Such a function takes and returns tensors with the batch as last axis, alone or in named tuples, and does nothing along it.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fitq_worker.engine.native.expressions import PRELUDE, TYPES
from fitq_worker.engine.native.kernels import CodePath, find_library
from fitq_worker.engine.native.tracing import BATCH, argument, assignments

Result = TypeVar("Result")

_SKELETON = Path(__file__).with_name("elementwise.cpp")
#: Fits from which a missing kernel is built in the background.
_WORTH_BUILDING_FITS = 1000


class Leaf(NamedTuple):
    """What a kernel knows of a tensor: its shape without the batch, and its dtype by name."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


class Elementwise(NamedTuple):
    """A function for arguments of these shapes."""

    function: Callable[..., Any]
    #: The arguments, with a Leaf for each tensor.
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """A word for it."""
        shapes = hashlib.sha256(repr((self.arguments, self.options)).encode()).hexdigest()[:12]
        return f"{self.function.__name__}-{shapes}"

    @property
    def made_from(self) -> tuple[str, ...]:
        """Its own files, and those that a trace may go through."""
        return ("native", "samples", "descent", "optimum", "outcome", "arithmetic.py", "elementary.py")

    def write(self) -> str:
        """Its source code."""
        pointers: list[str] = []
        found = self._run(lambda leaf: _pointer(leaf, pointers))
        results, targets = list(_leaves(found, Tensor)), []
        for place, result in enumerate(results):
            pointers.append(f"{TYPES[result.dtype]}* found{place} = static_cast<{TYPES[result.dtype]}*>(found[{place}]);")
            targets += [f"found{place}[{row} * fits + b]" for row in range(result.shape[:-1].numel())]
        parts = {"prelude": PRELUDE, "pointers": "\n    ".join(pointers), "lines": assignments(results, targets, "t")}
        return Template(_SKELETON.read_text()).substitute(parts)

    def _run(self, make: Callable[[Leaf], Tensor]) -> Any:
        return self.function(*_map(self.arguments, Leaf, make), **dict(self.options))


def run(function: Callable[..., Result], path: CodePath, *arguments: Any, **options: Any) -> Result:
    """function(*arguments, **options), as native code where there is some; the options are no tensors."""
    tensors = list(_leaves(arguments, Tensor))
    fits = tensors[0].shape[-1]
    if path == "eager" or tensors[0].device.type != "cpu":
        return function(*arguments, **options)
    kernel = Elementwise(function, _map(arguments, Tensor, _leaf_of), tuple(sorted(options.items())))
    library = find_library(kernel, path, worth_building=fits >= _WORTH_BUILDING_FITS)
    if library is None:
        return function(*arguments, **options)
    result: Result = _map(_results(kernel), Leaf, lambda leaf: torch.empty(*leaf.shape, fits, dtype=leaf.torch_dtype))
    given, found = (_addresses(tree) for tree in ([each.contiguous() for each in tensors], list(_leaves(result, Tensor))))
    library.compute(ctypes.c_longlong(fits), ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(found.ctypes.data))
    return result


@cache
def _results(kernel: Elementwise) -> Any:
    """What the function returns, with a Leaf for each tensor."""
    return _map(kernel._run(lambda leaf: torch.ones(*leaf.shape, BATCH, dtype=leaf.torch_dtype)), Tensor, _leaf_of)


def _leaf_of(tensor: Tensor) -> Leaf:
    return Leaf(tuple(tensor.shape[:-1]), str(tensor.dtype).removeprefix("torch."))


def _pointer(leaf: Leaf, pointers: list[str]) -> Tensor:
    place, kind = len(pointers), TYPES[leaf.torch_dtype]
    pointers.append(f"const {kind}* given{place} = static_cast<const {kind}*>(given[{place}]);")
    rows = int(np.prod(leaf.shape, dtype=int))
    return argument([f"given{place}[{row} * fits + b]" for row in range(rows)], leaf.shape, leaf.torch_dtype)


def _addresses(tensors: list[Tensor]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def _map(tree: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The tree with everything of a kind changed."""
    if isinstance(tree, kind):
        return change(tree)
    if not isinstance(tree, tuple):
        return tree
    parts = [_map(part, kind, change) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _leaves(tree: Any, kind: type) -> Iterator[Any]:
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from _leaves(part, kind)
