"""Tracing: tensors that write down what torch does with them, forwards and backwards, as expressions of single numbers.

torch passes every operation of a tensor subclass to its `__torch_dispatch__`, those of autograd too ("Extending PyTorch" in
torch's manual). Here each is done twice: by torch, on a few numbers, for its shape and type, and on an array of
expressions that has this shape without the last axis, the batch. A view of a tensor is a view of its array, so operations
in place are followed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitq_shared.errors import FitqError
from fitq_worker.engine.native.expressions import TYPES, Expression, Rows, constant, named, statements

#: Fits in a trace; what is done with the last axis itself is none of elementwise arithmetic and ends the trace.
BATCH = 2


class TraceError(FitqError):
    """What a function does cannot be printed as code."""


class Traced(Tensor):
    """A tensor whose last axis is the batch, and the expressions of its numbers."""

    plain: Tensor
    rows: Rows

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own is a placeholder without this signature
        cls, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do it with torch, and do it with the expressions."""
        kwargs = kwargs or {}
        name = str(function).removeprefix("aten.")
        follow = _FOLLOWED.get(name)
        if follow is None:
            raise TraceError(f"torch did {name}, which native code does not know; this loss or optimizer runs without it")
        result = function(*_plain(args), **_plain(kwargs))
        if name in _IN_PLACE:
            follow(args[0], *args, **kwargs)
            return args[0]
        return _wrap(result, lambda tensor, place: _checked(name, tensor, follow(tensor, *args, **kwargs), place))


def traced(tensor: Tensor, rows: Rows) -> Traced:
    """The tensor with these expressions."""
    found = tensor.as_subclass(Traced)
    found.plain, found.rows = tensor, rows
    return found


def argument(texts: Sequence[str], shape: tuple[int, ...], dtype: torch.dtype) -> Traced:
    """A tensor of `shape` + (B,) whose numbers have these texts."""
    rows = np.array([named(text, dtype) for text in texts], dtype=object).reshape(shape)
    return traced(torch.ones(*shape, BATCH, dtype=dtype), rows)


def expressions(tensor: Tensor) -> list[Expression]:
    """Those of a result, in the order of its numbers."""
    return list(_rows(tensor, tensor).ravel())


def assignments(results: Iterable[Tensor], targets: list[str], prefix: str) -> str:
    """C statements that give each target a number of the results; none is changed before all are computed."""
    found = [expression for result in results for expression in expressions(result)]
    found = [each if each.operands else Expression("{}", (named(each.text, each.dtype),), each.dtype) for each in found]
    lines, texts = statements(found, prefix)
    lines += [f"{target} = {texts[each]};" for target, each in zip(targets, found, strict=True)]
    return "\n        ".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, Traced):
        return value.plain
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def _wrap(result: Any, rows: Callable[[Tensor, int], Rows]) -> Any:
    if isinstance(result, Tensor):
        return traced(result, rows(result, 0))
    return type(result)(traced(each, rows(each, place)) for place, each in enumerate(result))


def _checked(name: str, tensor: Tensor, rows: Any, place: int) -> Rows:
    """The expressions of one result, in the shape that torch gave it."""
    found: Rows = rows[place] if isinstance(rows, list) else rows
    if found.dtype != object or found.shape != tensor.shape[:-1]:
        raise TraceError(f"torch did {name} along the batch, which native code does not do")
    return found


def _rows(value: Any, like: Tensor) -> Rows:
    """The expressions of an operand; numbers and tensors that are not traced are constants."""
    if isinstance(value, Traced):
        return value.rows
    if not isinstance(value, Tensor):
        return np.array(constant(value, like.dtype), dtype=object)
    if value.dim() and not (value == value[..., :1]).all():
        raise TraceError("numbers that differ along the batch came from nowhere")
    dtype = value.dtype if value.dim() or value.dtype.is_floating_point == like.dtype.is_floating_point else like.dtype
    first = value[..., 0] if value.dim() else value
    rows = np.empty(first.shape, dtype=object)
    for place in np.ndindex(*first.shape):
        rows[place] = constant(first[place].item(), dtype)
    return rows


def _elementwise(text: str) -> Callable[..., Rows]:
    """An operation on each number; `text` has a place for each operand."""

    def follow(result: Tensor, *operands: Any, **options: Any) -> Rows:
        if any(option != ("alpha", 1) for option in options.items()):
            raise TraceError(f"native code does not know this operation with {options}")
        like = result if result.dtype != torch.bool else next(each for each in operands if isinstance(each, Tensor))
        arrays = [_rows(each, like) for each in operands]
        return _combine(text, result.dtype, arrays)

    return follow


def _combine(text: str, dtype: torch.dtype, arrays: list[Rows]) -> Rows:
    together: list[Any] = list(np.broadcast_arrays(*arrays))
    rows = np.empty(together[0].shape, dtype=object)
    for place in np.ndindex(*rows.shape):
        rows[place] = Expression(text, tuple(array[place] for array in together), dtype)
    return rows


def _in_place(text: str) -> Callable[..., None]:
    compute = _elementwise(text)

    def follow(result: Traced, *operands: Any, **options: Any) -> None:
        result.rows[...] = compute(result, *operands, **options)

    return follow


def _copy(result: Traced, target: Traced, source: Any, non_blocking: bool = False) -> None:
    result.rows[...] = _rows(source, result)


def _fill(result: Traced, target: Traced, value: Any) -> None:
    result.rows[...] = _rows(value, result)


def _convert(result: Tensor, source: Traced, **options: Any) -> Rows:
    if result.dtype == source.dtype:
        return source.rows.copy()
    return _combine(f"static_cast<{TYPES[result.dtype]}>({{}})", result.dtype, [source.rows])


def _constants(value: Any) -> Callable[..., Rows]:
    def follow(result: Tensor, *args: Any, **options: Any) -> Rows:
        number = args[1] if value is None else value
        return np.full(result.shape[:-1], constant(number, result.dtype), dtype=object)

    return follow


def _axis(tensor: Tensor, axis: int) -> int:
    return axis + tensor.dim() if axis < 0 else axis


def _part(rows: Rows, tensor: Tensor, axis: int, index: Any) -> Rows:
    """The rows of `tensor` at `index` along an axis: a view, of a single one too."""
    found: Rows = rows[(slice(None),) * _axis(tensor, axis) + (index, ...)]
    return found


def _select(result: Tensor, source: Traced, axis: int, index: int) -> Rows:
    return _part(source.rows, source, axis, index)


def _slice(
    result: Tensor, source: Traced, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Rows:
    if _axis(source, axis) == source.dim() - 1:
        if result.shape != source.shape:
            raise TraceError("torch took a part of the batch, which native code does not do")
        return source.rows
    return _part(source.rows, source, axis, slice(start, end, step))


def _unbind(result: Tensor, source: Traced, axis: int = 0) -> list[Rows]:
    return [_select(result, source, axis, index) for index in range(source.shape[axis])]


def _select_backward(result: Tensor, gradient: Traced, shape: Sequence[int], axis: int, index: int) -> Rows:
    rows = _constants(0)(result)
    _part(rows, result, axis, index)[...] = gradient.rows
    return rows


def _slice_backward(
    result: Tensor, gradient: Traced, shape: Sequence[int], axis: int, start: int, end: int, step: int
) -> Rows:
    rows = _constants(0)(result)
    _part(rows, result, axis, slice(start, end, step))[...] = gradient.rows
    return rows


def _stack(result: Tensor, parts: Sequence[Any], axis: int = 0) -> Rows:
    return np.stack([_rows(part, result) for part in parts], axis=_axis(result, axis))


def _join(result: Tensor, parts: Sequence[Any], axis: int = 0) -> Rows:
    return np.concatenate([_rows(part, result) for part in parts], axis=_axis(result, axis))


def _shape_again(result: Tensor, source: Traced, shape: Sequence[int]) -> Rows:
    return source.rows.reshape(result.shape[:-1])


def _spread(result: Tensor, source: Traced, shape: Sequence[int], **options: Any) -> Rows:
    return np.broadcast_to(source.rows, result.shape[:-1])


def _insert_axis(result: Tensor, source: Traced, axis: int) -> Rows:
    return np.expand_dims(source.rows, _axis(result, axis))


def _remove_axis(result: Tensor, source: Traced, axis: int) -> Rows:
    return np.squeeze(source.rows, _axis(source, axis))


def _swap(result: Tensor, source: Traced, first: int, second: int) -> Rows:
    return np.swapaxes(source.rows, _axis(source, first), _axis(source, second))


def _move_axes(result: Tensor, source: Traced, axes: Sequence[int]) -> Rows:
    return np.transpose(source.rows, [_axis(source, axis) for axis in axes][:-1])


def _largest(result: Tensor, source: Traced, axes: Sequence[int], keep: bool = False) -> Rows:
    rows = np.moveaxis(source.rows, _axis(source, axes[0]), 0)
    found: Rows = rows[0, ...]
    for row in rows[1:]:
        found = _combine(_MAXIMUM, result.dtype, [found, row])
    return found


def _flip(result: Tensor, source: Traced, axes: Sequence[int]) -> Rows:
    return np.flip(source.rows, tuple(axes))


def _same(result: Tensor, source: Traced, *args: Any, **options: Any) -> Rows:
    return source.rows


def _clone(result: Tensor, source: Traced, **options: Any) -> Rows:
    return source.rows.copy()


def _clamp(result: Tensor, source: Traced, least: Any = None, most: Any = None) -> Rows:
    rows = source.rows
    for text, limit in (("{0} < {1} ? {1} : {0}", least), ("{0} > {1} ? {1} : {0}", most)):
        rows = rows if limit is None else _combine(text, result.dtype, [rows, _rows(limit, source)])
    return rows


def _clear_nan(result: Tensor, source: Traced, value: float | None = None, *limits: Any) -> Rows:
    return _combine("{0} != {0} ? {1} : {0}", result.dtype, [source.rows, _rows(value or 0.0, source)])


_MAXIMUM = "{0} > {1} || {0} != {0} ? {0} : {1}"
_SUM, _DIFFERENCE, _PRODUCT, _QUOTIENT = "{} + {}", "{} - {}", "{} * {}", "{} / {}"
#: Operations of two tensors, or of a tensor and a number.
_OF_TWO = {
    "add": _SUM, "sub": _DIFFERENCE, "mul": _PRODUCT, "div": _QUOTIENT, "rsub": "{1} - {0}",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
}  # fmt: skip
#: What torch does by name -> (result, arguments) -> its expressions.
_FOLLOWED: dict[str, Callable[..., Any]] = {
    **{f"{name}.{kind}": _elementwise(text) for name, text in _OF_TWO.items() for kind in ("Tensor", "Scalar")},
    "reciprocal.default": _elementwise("1 / {}"),
    "neg.default": _elementwise("-{}"),
    "abs.default": _elementwise("absolute({})"),
    "sqrt.default": _elementwise("root({})"),
    "sgn.default": _elementwise("sign({})"),
    "sign.default": _elementwise("sign({})"),
    "isnan.default": _elementwise("{0} != {0}"),
    "minimum.default": _elementwise("{0} < {1} || {0} != {0} ? {0} : {1}"),
    "maximum.default": _elementwise(_MAXIMUM),
    "amax.default": _largest,
    "where.self": _elementwise("{} ? {} : {}"),
    "logical_and.default": _elementwise("{} & {}"),
    "bitwise_and.Tensor": _elementwise("{} & {}"),
    "bitwise_or.Tensor": _elementwise("{} | {}"),
    "bitwise_not.default": _elementwise("!{}"),
    "logical_not.default": _elementwise("!{}"),
    "clamp.default": _clamp,
    "clamp.Tensor": _clamp,
    "nan_to_num.default": _clear_nan,
    "_to_copy.default": _convert,
    "clone.default": _clone,
    "detach.default": _same,
    "alias.default": _same,
    "lift_fresh.default": _same,
    "empty_like.default": _constants(0),  # of whose numbers none is read before it is written
    "new_empty.default": _constants(0),
    "ones_like.default": _constants(1),
    "zeros_like.default": _constants(0),
    "new_zeros.default": _constants(0),
    "full_like.default": _constants(None),
    "new_full.default": lambda result, source, size, value, **_: _constants(value)(result),
    "select.int": _select,
    "select_backward.default": _select_backward,
    "slice_backward.default": _slice_backward,
    "slice.Tensor": _slice,
    "unbind.int": _unbind,
    "stack.default": _stack,
    "cat.default": _join,
    "view.default": _shape_again,
    "_unsafe_view.default": _shape_again,
    "expand.default": _spread,
    "unsqueeze.default": _insert_axis,
    "squeeze.dim": _remove_axis,
    "transpose.int": _swap,
    "permute.default": _move_axes,
    "flip.default": _flip,
    "copy_.default": _copy,
    "fill_.Scalar": _fill,
    "fill_.Tensor": _fill,
    "sub_.Tensor": _in_place(_DIFFERENCE),
    "add_.Tensor": _in_place(_SUM),
    "mul_.Tensor": _in_place(_PRODUCT),
    "div_.Tensor": _in_place(_QUOTIENT),
}
_IN_PLACE = {name for name in _FOLLOWED if name.split(".")[0].endswith("_")}
