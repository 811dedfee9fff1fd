"""Instructions for all jobs of an input: overrides, tags, and to count what the jobs give themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fitq.tags import tags_text
from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs.job import FitJob


class Instructions(NamedTuple):
    """What holds for all jobs of an input, beside the defaults of fields that jobs do not give."""

    #: Values of fields instead of those that jobs give.
    overrides: Mapping[str, object] = MappingProxyType({})
    #: Columns of a table that become tags of its jobs.
    tags: Sequence[str] = ()
    #: All columns that have no other meaning become tags too.
    all_tags: bool = False
    #: Counts, for each field with a default, how many jobs give it themselves.
    given: Counter[str] | None = None

    def tag_columns(self, names: Iterable[str], others: Iterable[str | None] = FitJob.__struct_fields__) -> list[str]:
        """Those of the columns `names` that are tags, where `others` have another meaning."""
        return [name for name in names if name in self.tags or (self.all_tags and name not in others)]

    def check_tags(self, source: str, names: Collection[str]) -> None:
        """Return when every column that is to be a tag is among `names`.

        Raises:
            InputError: otherwise.
        """
        if missing := [name for name in self.tags if name not in names]:
            raise InputError(f"{source}: no column {missing[0]!r} (--tag); there are {', '.join(names)}")

    def note(self, given: Mapping[str, int]) -> None:
        """Add to the counts where they are wanted."""
        if self.given is not None:
            self.given.update(given)


NO_INSTRUCTIONS = Instructions()


def apply_instructions(rows: pa.RecordBatch, instructions: Instructions, defaults: Mapping[str, object]) -> pa.RecordBatch:
    """A table of jobs as if it had been written as instructions: without the overridden values, its tags as JSON text.

    `defaults` include the overrides, which so fill what is not given any more.

    Raises:
        JobError: a column is of a type that no tag has.
    """
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    if not columns:  # from which nothing could tell the number of rows
        return rows
    columns |= {name: pa.nulls(rows.num_rows) for name in instructions.overrides.keys() & columns.keys()}
    instructions.note({name: _given(columns[name]) for name in defaults.keys() & columns.keys()})
    if names := instructions.tag_columns(columns):
        columns["tags"] = pa.StructArray.from_arrays([columns.pop(name) for name in names], names)
    if "tags" in columns:
        columns["tags"] = _text(columns["tags"])
    return pa.RecordBatch.from_pydict(columns)


def _given(column: pa.Array) -> int:
    """How many rows hold a value, which NaN is not."""
    values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    missing = values.is_null(nan_is_null=True)
    return len(column) - int(pc.sum(missing).as_py() or 0)


def _text(tags: pa.Array) -> pa.Array:
    if pa.types.is_null(tags.type):
        return tags
    if not pa.types.is_struct(tags.type):
        raise JobError(f"tags: expected a struct, or other columns as tags; the column holds {tags.type}")
    return tags_text(tags)
