"""Values as people have them become those that the fields of a job take.

numpy, pandas and hand-written files say the same thing in many ways: an id may be a number or bytes, a column of whole
numbers with a gap holds floats, a switch is 0 or 1, a missing value is None, NaN or masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import inspect

#: Names of pandas' types whose only value says that there is none.
_PANDAS_MISSING = ("NAType", "NaTType")


def drop_missing(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not missing (None, NaN, masked), arrays as lists; samples that say nothing are missing too."""
    found = {name: value if type(value) in _BUILTIN else to_builtin(value) for name, value in fields.items()}
    if isinstance(samples := found.get("samples"), dict):
        found["samples"] = drop_missing(samples) or None
    # Spelled out, for this looks at every field of every job made in Python.
    return {
        name: value
        for name, value in found.items()
        if not (value is None or (type(value) is float and value != value) or (type(value) is Decimal and value.is_nan()))
    }


def to_builtin(value: Any) -> Any:
    """Arrays as lists, numpy's numbers as Python's, structs as dictionaries, what pandas calls missing as None."""
    if value is None or type(value) in _BUILTIN:
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return None if type(value).__name__ in _PANDAS_MISSING else value


def convert_losslessly(value: Any, kind: inspect.Type) -> Any:
    """`value` as `kind` takes it where that loses nothing, else as it is; in lists and structs too."""
    value, kind = to_builtin(value), main_type(kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        kinds = {field.name: field.type for field in kind.fields}
        return {name: convert_losslessly(item, kinds[name]) if name in kinds else item for name, item in value.items()}
    if isinstance(kind, inspect.ListType | inspect.CollectionType) and _is_list(value):
        plain = _NUMBERS.issuperset(map(type, value))
        return list(value) if plain else [convert_losslessly(item, kind.item_type) for item in value]
    if isinstance(kind, inspect.DictType) and isinstance(value, Mapping):
        return {name: _tag(item) for name, item in value.items()}
    convert = _CONVERSIONS.get(type(kind))
    return convert(value) if convert else value


def missing_lists(fields: Mapping[str, object], job: Mapping[str, Any]) -> dict[str, list[float]]:
    """x and y that are named in `fields` and hold nothing there: NaN at each point of the lists that `job` has."""
    missing = [name for name in ("x", "y") if name in fields and name not in job]
    if "polynomial" in job or not all(name in missing or name in job for name in ("x", "y")):
        return {}
    points = next((len(job[name]) for name in ("x", "y", "weights") if isinstance(job.get(name), Sequence)), 0)
    return {name: [math.nan] * points for name in missing}


def main_type(kind: inspect.Type) -> inspect.Type:
    """The type without its description and without None; the first one of a union."""
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        types = [kind.type] if isinstance(kind, inspect.Metadata) else kind.types
        kind = next(one for one in types if not isinstance(one, inspect.NoneType))
    return kind


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _whole(value: Any) -> Any:
    try:
        return int(value) if isinstance(value, float | Decimal) and value % 1 == 0 else value
    except ArithmeticError:  # infinite, or of more digits than decimal counts
        return value


def _switch(value: Any) -> Any:
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else value


def _text(value: Any) -> Any:
    number = _whole(value)
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else _decode(value)


def _tag(value: Any) -> Any:
    value = to_builtin(value)
    return value.isoformat() if isinstance(value, date | time) else value


def _decode(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


_NUMBERS = frozenset([int, float, type(None)])
_BUILTIN = frozenset([int, float, str, list, bool, dict])
_CONVERSIONS: dict[type[inspect.Type], Callable[[Any], Any]] = {
    inspect.IntType: _whole,
    inspect.BoolType: _switch,
    inspect.StrType: _text,
    inspect.LiteralType: _decode,
}
