"""Tags between columns and the JSON text that jobs and results have of them, a column at a time."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fitq_shared.errors import JobError
from fitq_shared.jobs.fields import Tag

_CONTROLS = {chr(code): f"\\u{code:04x}" for code in range(32)}
#: Cells of a CSV that hold a whole number (of 64 bits), a number, or true and false.
_WHOLE, _NUMBER = "^-?(0|[1-9][0-9]{0,17})$", r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[nN][aA][nN]|[+-]?inf)$"
_TRUTH = "^(true|false|True|False|TRUE|FALSE)$"
#: Digits that no number would keep are a code.
_CODE = "^[+-]?(0[0-9]|[0-9]{19})"


def tags_text(tags: pa.StructArray) -> pa.StringArray:
    """A struct of one field for each tag as JSON text; null where the struct is, NaN and infinity are null in the text.

    Raises:
        JobError: a field is of a type that no tag has.
    """
    parts: list[pa.Array | pa.Scalar] = [pa.repeat("{", len(tags))]
    for number, (field, column) in enumerate(zip(tags.type, tags.flatten(), strict=True)):
        name = msgspec.json.encode(field.name).decode()
        parts += [pa.scalar(f"{',' if number else ''}{name}:"), _json_values(field.name, column).fill_null("null")]
    text = pc.binary_join_element_wise(*parts, "}", "")
    return pc.if_else(tags.is_valid(), text, pa.scalar(None, pa.string()))


def text_of(tags: dict[str, Tag] | None) -> str | None:
    """The JSON text of one job's tags."""
    return None if tags is None else msgspec.json.encode(tags).decode()


def tags_of(text: pa.StringArray) -> list[dict[str, Tag]]:
    """The tags in each JSON text, none where it is null."""
    if text.null_count == len(text):
        return [{}] * len(text)
    decode = msgspec.json.Decoder(dict[str, Tag]).decode
    return [{} if row is None else decode(row) for row in text.to_pylist()]


def tag_kinds(text: pa.StringArray, known: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Name -> type of a column that holds this tag of these jobs and of those that made `known`."""
    kinds, rows = dict(known), tags_of(text)
    for name in dict.fromkeys(name for row in rows for name in row):
        kinds[name] = _common(kinds.get(name, pa.null()), _kind([row.get(name) for row in rows]))
    return kinds


def tag_columns(text: pa.StringArray, kinds: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    """The tags of `kinds` as columns of these types."""
    rows = tags_of(text)
    return {name: _column([row.get(name) for row in rows], kind) for name, kind in kinds.items()}


def typed(cells: pa.StringArray) -> pa.Array:
    """Cells of a CSV as numbers or truth values where all of them are; as text otherwise. An empty cell is null."""
    cells = pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)
    for pattern, kind in ((_WHOLE, pa.int64()), (_NUMBER, pa.float64()), (_TRUTH, pa.bool_())):
        if _all(pc.match_substring_regex(cells, pattern)) and not pc.any(pc.match_substring_regex(cells, _CODE)).as_py():
            return cells.cast(kind)
    return cells


def _kind(values: list[Tag]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError):  # of several types, or too large
        return pa.string()


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _column(values: list[Tag], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        values = [
            value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode() for value in values
        ]
    return pa.array(values, kind)


def _all(matches: pa.BooleanArray) -> bool:
    return bool(pc.all(matches, min_count=0).as_py())


def _json_values(name: str, column: pa.Array) -> pa.StringArray:
    """Each value as JSON text, null for null."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _json_values(name, column.dictionary).take(column.indices)
    if pa.types.is_floating(kind):
        return _numbers(column)
    if any(test(kind) for test in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)):
        return column.cast(pa.string())
    return _quoted(_words(name, column))


def _numbers(column: pa.Array) -> pa.StringArray:
    finite = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    # Arrow writes 1.0 as 1, which would come back as a whole number.
    return pc.replace_substring_regex(finite.cast(pa.string()), r"^(-?[0-9]+)$", r"\1.0")


def _words(name: str, column: pa.Array) -> pa.StringArray:
    """Text, and dates and times as ISO 8601 has them."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        text = pc.strftime(column, format="%Y-%m-%dT%H:%M:%S%Ez" if kind.tz else "%Y-%m-%dT%H:%M:%S")
        return pc.replace_substring_regex(text, r"\.0+\b", "")
    if any(test(kind) for test in (pa.types.is_date, pa.types.is_time)) or _is_text(kind):
        return column.cast(pa.string())
    raise JobError(f"tag {name!r}: expected text, numbers, true or false, or dates; the column holds {kind}")


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _quoted(text: pa.StringArray) -> pa.StringArray:
    escapes = {"\\": "\\\\", '"': '\\"'}
    if pc.any(pc.match_substring_regex(text, "[\\x00-\\x1f]")).as_py():
        escapes |= _CONTROLS
    for character, escaped in escapes.items():
        text = pc.replace_substring(text, character, escaped)
    return pc.binary_join_element_wise('"', text, '"', "")
