"""Tags: columns and JSON text say the same, whatever the values."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq.tags import tags_text, typed
from fitq_shared.errors import JobError

NOON = datetime.datetime(2020, 1, 2, 12, 30, 5)
ZONE = datetime.timezone(datetime.timedelta(hours=2))


def text_of_columns(columns: dict[str, pa.Array]) -> pa.StringArray:
    return tags_text(pa.StructArray.from_arrays(list(columns.values()), list(columns)))


def said(value: Any) -> Any:
    """What JSON says of a value: no NaN, no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


COLUMNS = {
    "text": (pa.string(), st.text()),
    "coded": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b", 'c"'])),
    "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "number": (pa.float64(), st.floats()),
    "truth": (pa.bool_(), st.booleans()),
    'na"me': (pa.large_string(), st.text()),
}
rows = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in COLUMNS.items()})


@given(st.lists(rows, max_size=5), st.integers(0, 2))
def test_the_text_of_columns_is_the_json_of_their_rows(found: list[dict[str, Any]], start: int) -> None:
    """Any text, any number, nulls, and slices of columns."""
    columns = {name: pa.array([row[name] for row in found], kind).slice(start) for name, (kind, _) in COLUMNS.items()}
    expected = [{name: said(value) for name, value in row.items()} for row in found[start:]]
    decoded = [json.loads(text) for text in text_of_columns(columns).to_pylist()]
    assert decoded == expected
    assert [{name: type(row[name]) for name in row} for row in decoded] == [
        {name: type(row[name]) for name in row} for row in expected
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (pa.array([datetime.date(2020, 1, 2)]), "2020-01-02"),
        (pa.array([datetime.date(2020, 1, 2)], pa.date64()), "2020-01-02"),
        (pa.array([NOON]), "2020-01-02T12:30:05"),
        (pa.array([NOON], pa.timestamp("s")), "2020-01-02T12:30:05"),
        (pa.array([NOON.replace(microsecond=120000)]), "2020-01-02T12:30:05.120000"),
        (pa.array([NOON.replace(tzinfo=ZONE)], pa.timestamp("ms", "UTC")), "2020-01-02T10:30:05+00:00"),
        (pa.array([datetime.time(1, 2, 3)], pa.time32("s")), "01:02:03"),
        (pa.array([Decimal("1.50")]), 1.5),
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array(np.array([2.5], np.float16)), 2.5),
        (pa.nulls(1), None),
    ],
)
def test_dates_are_iso_text_and_numbers_of_any_width_numbers(column: pa.Array, value: object) -> None:
    """As `datetime.fromisoformat` and every JSON reader take them."""
    assert json.loads(text_of_columns({"tag": column})[0].as_py()) == {"tag": value}


def test_a_job_without_tags_has_no_text() -> None:
    """A null struct is null, not an object of nulls."""
    assert tags_text(pa.array([{"a": 1}, None])).to_pylist() == ['{"a":1}', None]


@pytest.mark.parametrize("value", [[1.0], {"a": 1}, b"bytes", datetime.timedelta(1)])
def test_what_is_no_tag_is_named(value: object) -> None:
    """The column and what it holds."""
    with pytest.raises(JobError, match=r"^tag 'site': expected text, numbers, true or false, or dates; the column holds "):
        text_of_columns({"site": pa.array([value])})


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "", "-20"], [1, None, -20]),
        (["1", "2.5", "-1e3", ".5"], [1.0, 2.5, -1000.0, 0.5]),
        (["true", "False", ""], [True, False, None]),
        (["007", "8"], ["007", "8"]),
        (["1234567890123456789", "1"], ["1234567890123456789", "1"]),
        (["1", "1a"], ["1", "1a"]),
        (["2020-01-02", ""], ["2020-01-02", None]),
        (["", ""], [None, None]),
        ([], []),
    ],
)
def test_cells_are_numbers_where_all_of_them_are(cells: list[str], values: list[object]) -> None:
    """A code with leading zeros or more digits than a number keeps stays text."""
    found = typed(pa.array(cells, pa.string())).to_pylist()
    assert found == values
    assert list(map(type, found)) == list(map(type, values))
