"""Descriptions: what a job field means, may hold and is by default, read from `FitJob` itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.plain_values import main_type


class FieldDescription(NamedTuple):
    """One field of a job."""

    name: str
    #: `bool`, `int`, `float`, `text`, `list` or `object`; None for a choice.
    kind: str | None
    #: Words that it may be; empty where others may come too.
    choices: tuple[str, ...]
    #: Its limits, such as `0 to 30`; empty without any.
    limits: str
    default: object
    description: str

    @property
    def summary(self) -> str:
        """The first sentence of the description, without its end and without marks around code."""
        return self.description.split(". ")[0].rstrip(".").replace("`", "")


_KINDS: tuple[tuple[type[inspect.Type], str], ...] = (
    (inspect.BoolType, "bool"),
    (inspect.IntType, "int"),
    (inspect.FloatType, "float"),
    (inspect.StrType, "text"),
    (inspect.ListType, "list"),
    (inspect.CollectionType, "list"),
    (inspect.DictType, "object"),
    (inspect.StructType, "object"),
)


def describe_fields() -> dict[str, FieldDescription]:
    """All fields of a job by name, in the order of their definition."""
    info = inspect.type_info(FitJob)
    assert isinstance(info, inspect.StructType)
    defaults = {field.name: field.default for field in msgspec.structs.fields(FitJob)}
    hints = get_type_hints(FitJob)
    return {field.name: _describe(field, defaults[field.name], hints[field.name]) for field in info.fields}


def _describe(field: inspect.Field, default: object, hint: object) -> FieldDescription:
    assert isinstance(field.type, inspect.Metadata)
    kind = main_type(field.type)
    name = next((name for type_, name in _KINDS if isinstance(kind, type_)), None)
    limits = _limits(kind) if isinstance(kind, inspect.IntType | inspect.FloatType) else ""
    description = (field.type.extra_json_schema or {})["description"]
    return FieldDescription(field.name, name, tuple(_choices(hint)), limits, default, description)


def _choices(hint: object) -> Iterator[str]:
    """The words of a Literal inside a type, in their order, which msgspec does not keep."""
    for argument in get_args(hint):
        if get_origin(hint) is Literal:
            yield argument
        else:
            yield from _choices(argument)


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    below = f"below {kind.lt:g}" if kind.lt is not None else f"to {kind.le}" if kind.le is not None else ""
    if kind.gt is not None:
        return f"above {kind.gt:g}"
    if kind.ge is None:
        return below
    return f"{kind.ge:g} {below}" if below.startswith("to") else ", ".join(filter(None, [f"at least {kind.ge:g}", below]))
