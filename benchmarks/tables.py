"""What the benchmarks print and keep: tables of numbers, and a JSON file of each run in results/."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

_FOLDER = Path(__file__).with_name("results")
#: Of tables that go to a file; a terminal has its own width.
_WIDTH = 140


def show(title: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """A table with a line for each name; a column that a line does not have stays empty."""
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    table = Table(title=title, title_justify="left")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for name, row in found.items():
        table.add_row(name, *(_number(row[column]) if column in row else "" for column in columns))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def save(name: str, document: Mapping[str, object]) -> None:
    """Keep a run as results/`name`.json."""
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
