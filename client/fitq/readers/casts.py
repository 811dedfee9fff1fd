"""Columns of the types that people have become those of the fields: whole floats are integers, 0 and 1 switches."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values in the type of a field, null where a number is NaN; numbers inside of lists stay as they are.

    Raises:
        ArrowException: a value would be lost, or the row-wise way would refuse it or read it differently.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _alike(column.type, kind):
        raise pa.ArrowTypeError(f"{column.type} is no {kind}")
    if pa.types.is_floating(column.type):
        column = _without_nan(column)
    if pa.types.is_boolean(kind):
        _check_switches(column)
    if pa.types.is_string(kind) and pa.types.is_floating(column.type):
        column = column.cast(pa.int64())
    return column if column.type == kind else column.cast(kind)


def _without_nan(column: pa.Array) -> pa.Array:
    missing = pc.is_nan(column)
    return pc.if_else(missing, pa.scalar(None, column.type), column) if pc.any(missing).as_py() else column


def _check_switches(column: pa.Array) -> None:
    known = pa.array([0, 1] if column.type != pa.bool_() else [False, True]).cast(column.type)
    if not pc.all(pc.is_in(column.drop_null(), known), min_count=0).as_py():
        raise pa.ArrowInvalid("neither 0 nor 1")


def _alike(found: Any, wanted: Any) -> bool:
    types = pa.types
    if types.is_list(wanted):
        return _is_list(found) and (types.is_null(found.value_type) or _alike(found.value_type, wanted.value_type))
    if types.is_string(wanted):
        return is_text(found) or bool(types.is_integer(found) or types.is_floating(found))
    if types.is_floating(wanted):
        return _is_number(found)
    if types.is_integer(wanted):
        return bool(types.is_integer(found) or types.is_floating(found))
    return bool(found == wanted or types.is_integer(found) or types.is_floating(found))


def is_text(kind: Any) -> bool:
    """Whether a column of this type holds text, or bytes that may be text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _is_list(kind: Any) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
