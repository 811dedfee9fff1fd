"""Options of the command line that take one value: given twice, they are refused instead of forgetting the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def option(*names: str, default: object = None, **attributes: Any) -> Callable[[Command], Command]:
    """`click.option` for one value, which may be given once.

    Raises, when the command is called:
        UsageError: it is given more than once; the text has the option and the values.
    """
    # click tells of a repeated option only where it may be repeated.
    defaults = None if default is None else [default]
    return click.option(*names, multiple=True, default=defaults, callback=_only, **attributes)


def _only(context: click.Context, option: click.Parameter, values: tuple[object, ...]) -> object:
    if len(values) > 1:
        found = " and ".join(map(str, values))
        raise click.UsageError(f"{option.opts[-1]} takes one value and is given {len(values)}: {found}", context)
    return values[0] if values else None
