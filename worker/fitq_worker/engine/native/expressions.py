"""Arithmetic on single numbers, as torch did it on whole rows: what a trace is made of, and how it is printed as C.

The same text is C++ for a core of a CPU and CUDA for a thread of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

#: What the text of an expression may call; it stands before it.
PRELUDE = Path(__file__).with_name("prelude.cpp").read_text().strip()
#: The C type of each dtype.
TYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.int8: "signed char",
    torch.int32: "int",
    torch.int64: "long long",
    torch.bool: "bool",
}


class Expression:
    """One number of one fit: a C expression of others, or the name of something that is there."""

    __slots__ = ("dtype", "operands", "text")

    def __init__(self, text: str, operands: tuple[Expression, ...], dtype: torch.dtype) -> None:
        self.text, self.operands, self.dtype = text, operands, dtype


#: Expressions in the shape of a tensor without its last axis, the batch.
Rows: TypeAlias = NDArray[np.object_]


def named(text: str, dtype: torch.dtype) -> Expression:
    """What stands in the code already: a variable, an element of an array."""
    return Expression(text, (), dtype)


def constant(value: Any, dtype: torch.dtype) -> Expression:
    """A number, rounded to its type."""
    return named(_literal(value, dtype), dtype)


def statements(wanted: Iterable[Expression], prefix: str) -> tuple[list[str], dict[Expression, str]]:
    """C statements that compute what is wanted and nothing else, and the text that each wanted number then has.

    Every number is computed once and in the order in which torch computed it; variables are named `prefix` and a number.
    """
    wanted = list(wanted)
    lines: list[str] = []
    texts: dict[Expression, str] = {}
    for expression in _in_order(wanted):
        if not expression.operands:
            texts[expression] = expression.text
            continue
        texts[expression] = f"{prefix}{len(lines)}"
        value = expression.text.format(*(texts[operand] for operand in expression.operands))
        lines.append(f"const {TYPES[expression.dtype]} {texts[expression]} = {value};")
    return lines, {expression: texts[expression] for expression in wanted}


def _in_order(wanted: list[Expression]) -> Iterator[Expression]:
    """All that is needed, operands first."""
    seen: set[Expression] = set()
    waiting = [(expression, False) for expression in reversed(wanted)]
    while waiting:
        expression, ready = waiting.pop()
        if ready:
            yield expression
        elif expression not in seen:
            seen.add(expression)
            waiting.append((expression, True))
            waiting.extend((operand, False) for operand in reversed(expression.operands))


def _literal(value: Any, dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "true" if value else "false"
    if not dtype.is_floating_point:
        return str(int(value))
    number = float(np.float32(value)) if dtype == torch.float32 else float(value)
    suffix = "f" if dtype == torch.float32 else ""
    if math.isfinite(number):
        return f"({number!r}{suffix})" if number < 0 or str(number)[0] == "-" else f"{number!r}{suffix}"
    nan, infinity = f'__builtin_nan{suffix}("")', f"__builtin_inf{suffix}()"
    return nan if math.isnan(number) else infinity if number > 0 else f"(-{infinity})"
