"""Columns named like the fields of FitJob become a batch of JOB_SCHEMA with all defaults filled in, a column at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitq.readers.casts import cast, is_text
from fitq_shared.jobs.fields import Optimizer
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.schemas import JOB_SCHEMA

_OPTIMIZERS = get_args(Optimizer)
#: Field whose default depends on the optimizer -> that default for each of _OPTIMIZERS.
_BY_OPTIMIZER = {
    field: pa.array([getattr(FitJob(optimizer=name), f"effective_{field}") for name in _OPTIMIZERS])
    for field in ("lr", "eps", "weight_decay")
}
#: Fields that have a column of the same name and meaning.
_PLAIN = [name for name in FitJob.__struct_fields__ if name in JOB_SCHEMA.names and name not in ("id", "init")]
_SAMPLES_TYPES = {"count": pa.int32(), "spread": pa.float64(), "noise": pa.float64(), "seed": pa.int64()}


def fill_defaults(rows: pa.RecordBatch, first: int, defaults: FitJob) -> pa.RecordBatch:
    """The jobs of `rows`, numbered from `first`. Only types are checked.

    A null, or a column that is not there, is a field that the job does not give and that `defaults` fill. An empty id
    becomes the number of the job.

    Raises:
        ArrowException: a column or a default is of a type that has to be read row by row.
    """
    if defaults.id or defaults.samples is not None or isinstance(defaults.init, list):
        raise pa.ArrowNotImplementedError("defaults that no option gives")
    columns = {name: _filled(rows, name, getattr(defaults, name)) for name in _PLAIN}
    for name, effective in _BY_OPTIMIZER.items():
        columns[name] = _filled_by_optimizer(columns[name], columns["optimizer"], effective)
    index = pa.array(np.arange(first, first + rows.num_rows))
    columns |= {"index": index, "id": _ids(rows, index), **_init(rows, defaults), **_samples(rows, columns)}
    columns |= {"place": pa.nulls(rows.num_rows, pa.string()), "sample_set": pa.nulls(rows.num_rows, pa.int32())}
    return pa.RecordBatch.from_arrays([columns[name] for name in JOB_SCHEMA.names], schema=JOB_SCHEMA)


def without_defaults(columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """The columns whose default depends on the optimizer, null where they hold that default."""
    optimizer = pc.index_in(columns["optimizer"], pa.array(_OPTIMIZERS))
    found = {}
    for name, effective in _BY_OPTIMIZER.items():
        is_default = pc.equal(columns[name], effective.take(optimizer))
        found[name] = pc.if_else(is_default, pa.scalar(None, pa.float64()), columns[name])
    return found


def _filled(rows: pa.RecordBatch, name: str, default: object) -> pa.Array:
    kind = JOB_SCHEMA.field(name).type
    column = _given(rows, name, kind)
    if column is None:
        return pa.repeat(pa.scalar(default, kind), rows.num_rows)
    return column if default is None or not column.null_count else column.fill_null(pa.scalar(default, kind))


def _filled_by_optimizer(column: pa.Array, optimizer: pa.Array, effective: pa.Array) -> pa.Array:
    if not column.null_count:
        return column
    return pc.coalesce(column, effective.take(pc.index_in(optimizer, pa.array(_OPTIMIZERS))))


def _ids(rows: pa.RecordBatch, index: pa.Array) -> pa.Array:
    numbers = index.cast(pa.string())
    column = _given(rows, "id", pa.string())
    if column is None:
        return numbers
    is_given = pc.greater(pc.binary_length(column), 0).fill_null(False)
    return column if pc.all(is_given, min_count=0).as_py() else pc.if_else(is_given, column, numbers)


def _init(rows: pa.RecordBatch, defaults: FitJob) -> dict[str, pa.Array]:
    """`init` and `init_exact` from a column that holds lists or the word `exact`."""
    floats, exact = JOB_SCHEMA.field("init").type, defaults.init == "exact"
    if "init" in rows.schema.names and is_text(rows["init"].type):
        words = cast(rows["init"], pa.string())
        if not pc.all(pc.equal(words, "exact"), min_count=0).as_py():
            raise pa.ArrowTypeError("init is neither a list nor exact")
        return {"init": pa.nulls(len(words), floats), "init_exact": pc.or_(words.is_valid(), exact)}
    lists = _given(rows, "init", floats)
    if lists is None:
        lists = pa.nulls(rows.num_rows, floats)
    return {"init": lists, "init_exact": pc.and_(lists.is_null(), exact)}


def _samples(rows: pa.RecordBatch, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """How samples are drawn, for the jobs that say so and for those with a polynomial."""
    given = _fields_of_samples(rows)
    is_drawn = columns["polynomial"].is_valid()
    for column in given.values():
        is_drawn = pc.or_(is_drawn, column.is_valid())
    found = {}
    for name, kind in _SAMPLES_TYPES.items():
        default = columns["seed"] if name == "seed" else pa.scalar(getattr(Samples(), name), kind)
        filled = pc.coalesce(given.get(name, pa.scalar(None, kind)), default)
        found["samples_seed" if name == "seed" else name] = pc.if_else(is_drawn, filled, pa.scalar(None, kind))
    return found


def _fields_of_samples(rows: pa.RecordBatch) -> dict[str, pa.Array]:
    if "samples" not in rows.schema.names or pa.types.is_null(rows["samples"].type):
        return {}
    column = rows["samples"]
    if not pa.types.is_struct(column.type) or not {field.name for field in column.type} <= set(_SAMPLES_TYPES):
        raise pa.ArrowTypeError("samples are no struct of the fields of Samples")
    fields = {field.name: values for field, values in zip(column.type, column.flatten(), strict=True)}
    return {name: cast(values, _SAMPLES_TYPES[name]) for name, values in fields.items() if not pa.types.is_null(values.type)}


def _given(rows: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array | None:
    """The column as `kind`; None where it is missing or holds nothing but nulls by its type."""
    if name not in rows.schema.names or pa.types.is_null(rows[name].type):
        return None
    return cast(rows[name], kind)
