"""Columns give what jobs read one by one would give: the same batch, or the same error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fitq import readers
from fitq.readers import columnar, jsonl
from fitq.readers.batches import BATCH_SAMPLES
from fitq.readers.columnar import BATCH_ROWS, from_tables
from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob, job_from_json, job_from_mapping
from fitq_shared.jobs.schemas import JOB_SCHEMA

INF, NAN = float("inf"), float("nan")
LISTS = [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float32())]
TEXT = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()]
INTEGERS = [pa.int64(), pa.int32(), pa.uint64(), pa.float64(), pa.float32()]
FLOATS = [pa.float64(), pa.float32(), pa.int16(), pa.decimal128(12, 6)]
SWITCHES = [pa.bool_(), pa.int8(), pa.float64()]
SAMPLES = pa.struct([("count", pa.int16()), ("spread", pa.float32()), ("noise", pa.float64()), ("seed", pa.int64())])
WITH_GAPS = pa.struct([("count", pa.float64()), ("spread", pa.float32()), ("noise", pa.float64()), ("seed", pa.float64())])

#: Field -> types of its column, values that are fine with those of the others, values that are not.
FIELDS: dict[str, tuple[list[pa.DataType], list[Any], list[Any]]] = {
    "degree": (INTEGERS, [2, NAN], [-1, 1, 31, 2**40, 1.5, INF]),
    "basis": (TEXT, ["power", "legendre"], ["sines"]),
    "loss": (TEXT, ["mse"], ["hinge", "", "l1"]),
    "delta": (FLOATS, [1.0, 2.0, NAN], [0.0, INF]),
    "optimizer": (TEXT, ["adam", "adamw", "adagrad", "lbfgs", "sgd", "exact"], ["lion"]),
    "lr": (FLOATS, [0.5, 1.0, NAN], [0.0, INF]),
    "steps": (INTEGERS, [1, 10], [0, 1_000_001, 2.5]),
    "beta1": (FLOATS, [0.0, 0.5], [1.0]),
    "eps": (FLOATS, [1e-6], [-1.0]),
    "weight_decay": (FLOATS, [0.0, 0.5], [-0.5]),
    "momentum": (FLOATS, [0.5, 0.25], [1.5, 0.0]),
    "nesterov": (SWITCHES, [False, 0, NAN], [True, 1, 2, 0.5]),
    "seed": (INTEGERS, [0, 7, 2**62], [-1]),
    "restarts": (INTEGERS, [1, 3], [0, 1001]),
    "gtol": (FLOATS, [0.0, 0.25], [-1.0, INF]),
    "trace": (TEXT, ["none", "full", "every:7", "points:30"], ["points:1", "full\n"]),
    "covariance": (SWITCHES, [True, False, 1, 0.0], [2, INF]),
    "init": (LISTS, [[1.0, 2.0, 3.0]], [[1.0], [NAN, 1.0, 1.0], [None, 1.0, 1.0]]),
}
#: The same for the fields of jobs with given samples and of those whose samples are drawn.
EXPLICIT: dict[str, tuple[list[pa.DataType], list[Any], list[Any]]] = {
    "x": (LISTS, [[0.0, 1.5, 2.0], [0.5, None, INF]], [[], [1.0], None]),
    "y": (LISTS, [[1.0, 2.0, 3.0], [NAN, None, 3.0]], [[1.0], None]),
    "weights": (LISTS, [None, [1.0, 0.0, 1.0]], [[1.0], []]),
}
DRAWN: dict[str, tuple[list[pa.DataType], list[Any], list[Any]]] = {
    "polynomial": (LISTS, [[1.0, 2.0], [5.0]], [[], [INF], [None], [1.0] * 32, None]),
    "samples": (
        [SAMPLES, WITH_GAPS],
        [None, {"count": None}, {"count": NAN, "spread": NAN}, {"count": 7}, {"spread": 0.5, "seed": 5}],
        [{"count": 0}, {"noise": -1.0}, {"spread": INF}, {"seed": -5}],
    ),
}
IDS = ([*TEXT, pa.int64(), pa.float64()], ["{}", "job {}", "", "%s{}" % ("é" * 150)], ["2", "job 1", "x" * 201])
ALL = {**FIELDS, **EXPLICIT, **DRAWN, "id": IDS}
#: Types of columns that hold something else than the field.
ODD = {"degree": pa.string(), "nesterov": pa.string(), "lr": pa.string(), "id": pa.bool_(), "x": pa.list_(pa.string())}
DEFAULTS: list[dict[str, object]] = [
    {},
    {"lr": 0.25, "basis": "power"},
    {"init": "exact", "optimizer": "lbfgs", "gtol": 0.5},
    {"optimizer": "adagrad", "trace": "none", "seed": 3, "init": [0.0, 0.0, 0.0]},
    {"loss": "l1"},
    {"samples": {"count": 3}},
    {"id": "the same"},
]
ROWS = 4


@st.composite
def tables(draw: st.DrawFn) -> pa.RecordBatch:
    """A table of jobs that are fine, but for at most one value and one type of a column."""
    names = draw(st.sets(st.sampled_from([*sorted(FIELDS), "id", "id"]), max_size=6))
    kinds = draw(st.lists(st.sampled_from([EXPLICIT, DRAWN]), min_size=ROWS, max_size=ROWS))
    rows = [
        {name: draw(st.sampled_from([*ALL[name][1], None])) for name in sorted(names)}
        | {name: draw(st.sampled_from(good)) for name, (_, good, _) in kind.items()}
        for kind in kinds
    ]
    for number, row in enumerate(rows):
        row |= {"id": row["id"].format(number)} if row.get("id") else {}
    if draw(st.booleans()):
        name = draw(st.sampled_from(_names(rows)))
        draw(st.sampled_from(rows))[name] = draw(st.sampled_from(ALL[name][2] or [None]))
    found = {name: draw(st.sampled_from(ALL[name][0])) for name in _names(rows)}
    if draw(st.integers(0, 9)) == 0:
        found |= {name: kind for name, kind in ODD.items() if name in found}
    return pa.RecordBatch.from_pydict({name: _column(kind, [row.get(name) for row in rows]) for name, kind in found.items()})


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return sorted({name for row in rows for name in row})


def _column(kind: pa.DataType, values: list[object]) -> pa.Array:
    """The values as a column of `kind`, null where they cannot be."""

    def as_kind(value: object) -> object:
        try:
            return pa.array([int(str(value)) if pa.types.is_int64(kind) else value], kind)[0].as_py()
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return None

    return pa.array([as_kind(value) for value in values], kind)


def outcome(read: Callable[[], Iterable[pa.RecordBatch]]) -> list[str]:
    """The rows that come, and the error that ends them, as text (where NaN equals NaN)."""
    found: list[str] = []
    try:
        for batch in read():
            assert batch.schema.equals(JOB_SCHEMA, check_metadata=True)
            batch.validate(full=True)
            found += map(repr, batch.to_pylist())
    except InputError as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def one_by_one(jobs: Iterable[FitJob], place: Callable[[int], str]) -> Iterator[pa.RecordBatch]:
    """What readers promise, written without columns."""
    places: dict[str, int] = {}
    for number, job in enumerate(jobs):
        name = job.id or str(number)
        if (earlier := places.setdefault(name, number)) != number:
            rule = f"already used at {place(earlier)}; ids must differ"
            raise JobError(rule, field="id", value=name, place=place(number))
        where = pa.array([place(number) if any(map(is_unfit, *points(job))) else None], pa.string())
        yield replace_columns(jobs_batch([job], number), {"place": where})


def points(job: FitJob) -> tuple[Sequence[float | None], ...]:
    """x, y and weight of each point."""
    x = job.x or ()
    return x, job.y or (), [1.0] * len(x) if job.weights is None else job.weights


def is_unfit(x: float | None, y: float | None, weight: float | None) -> bool:
    """Whether the numbers of a point are missing, infinite or too large, in plain words."""
    if weight is None or not 0 <= weight <= 1e150:
        return True
    return weight != 0 and any(value is None or not -1e150 <= value <= 1e150 for value in (x, y))


def place(number: int) -> str:
    return f"row {number + 1}"


def last_error(found: list[str]) -> str:
    """The error at the end; the rows before it may have come or not, for whoever reads submits all or nothing."""
    return found[-1] if found[-1:] and "Error: " in found[-1][:20] else ""


def check_same(found: list[str], expected: list[str]) -> None:
    assert last_error(found) == last_error(expected)
    if not last_error(expected):
        assert found == expected


def table_of(**fields: list[object]) -> pa.RecordBatch:
    """Four jobs with one sample each, of degree 0."""
    return pa.RecordBatch.from_pydict({"x": [[1.0]] * ROWS, "y": [[1.0]] * ROWS, "degree": [0] * ROWS, **fields})


@settings(max_examples=500)
@given(tables(), st.sampled_from(DEFAULTS))
@example(table_of(id=["3", "a", None, ""]), {})
@example(table_of(id=["a", "b", "a", "c"]), {})
@example(table_of(id=[17, None, 3, 1]), {})
@example(table_of(id=[17.0, NAN, -2.0, 1.5]), {})
@example(table_of(id=[b"\xc3\xa9", None, b"", b"a"]), {})
@example(table_of(id=[b"\xff", None, b"", b"a"]), {})
@example(table_of(y=[None, [NAN], [1.0], None], weights=[[1.0], None, [0.0], [-1.0]]), {})
@example(table_of(x=[None] * ROWS, weights=[[1.0], None, [0.0], None]), {"degree": 0})
@example(table_of(init=["exact", None, "exact", None]), {})
@example(table_of(init=["exact", None, "nearest", None]), {"init": "exact"})
def test_a_table_gives_what_its_rows_give_one_by_one(table: pa.RecordBatch, defaults: Mapping[str, object]) -> None:
    """Any column type, nulls, a bad value, defaults: the same rows, or the same error text."""
    rows = table.to_pylist()
    jobs = (job_from_mapping(row, place(number), defaults) for number, row in enumerate(rows))
    expected = outcome(lambda: one_by_one(jobs, place))
    check_same(outcome(lambda: from_tables([table], place, defaults)), expected)
    check_same(outcome(lambda: from_tables([table.slice(0, 1), table.slice(1)], place, defaults)), expected)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(tables(), st.sampled_from(DEFAULTS))
def test_lines_give_what_they_give_one_by_one(tmp_path: Path, table: pa.RecordBatch, defaults: Mapping[str, object]) -> None:
    """JSONL read in blocks and line by line; nulls, NaN and Infinity included, as Python writes them."""
    lines = [json.dumps(row, default=_sayable) for row in table.to_pylist()]
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n\n".join(lines))

    def place(number: int) -> str:
        return f"{path}:{2 * number + 1}"

    jobs = (job_from_json(line, place(number), defaults) for number, line in enumerate(lines))
    check_same(outcome(lambda: readers.from_jsonl(path, defaults)), outcome(lambda: one_by_one(jobs, place)))


def _sayable(value: Any) -> object:
    """What JSON has no word for: bytes are text there, and decimal numbers floats."""
    return value.decode() if isinstance(value, bytes) else float(value)


def test_rows_that_columns_doubt_keep_their_places() -> None:
    """An id of many bytes in few characters is read as a single job, between jobs that are not."""
    ids = [f"{number}-{'é' * 150 if number % 3 == 0 else 'e'}" for number in range(10)]
    table = pa.RecordBatch.from_pydict({"id": ids, "x": [[1.0, 2.0]] * 10, "y": [[1.0, 2.0]] * 10, "degree": [1] * 10})
    found = pa.Table.from_batches(from_tables([table], place))
    assert found["id"].to_pylist() == ids
    assert found["index"].to_pylist() == list(range(10))


def test_ordinary_jobs_are_never_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns settle every kind of job; a single doubt among a million jobs would go unnoticed but for the time."""
    monkeypatch.setattr(columnar, "job_from_mapping", lambda *_: pytest.fail("read as a single job"))
    jobs = [
        {"x": [1.0, None], "y": [1.0, 2.0], "weights": [1.0, 1.0], "degree": 1, "trace": "every:5", "id": "a"},
        {"polynomial": [1.0, 2.0], "samples": {"count": 5, "seed": 9}, "optimizer": "exact", "ftol": 1e-9},
        {"polynomial": [1.0], "optimizer": "sgd", "momentum": 0.5, "nesterov": True, "init": [0.0, 1.0, 2.0]},
        {"x": [], "y": [], "lr": 0.5, "steps": 3, "loss": "huber"},
    ]
    expected = replace_columns(
        jobs_batch([job_from_mapping(job) for job in jobs]), {"place": pa.array([place(0), None, None, None])}
    )
    table = pa.Table.from_pylist(jobs, schema=_schema_of(jobs)).combine_chunks()
    numbers = [name for name in table.schema.names if pa.types.is_integer(table.schema.field(name).type)]
    gaps = [table[name].cast(pa.float64()).fill_null(NAN) if name in numbers else table[name] for name in table.schema.names]
    for columns in (table, pa.table(gaps, table.schema.names)):
        (batch,) = from_tables(columns.to_batches(), place)
        assert batch.equals(expected)


def test_ordinary_lines_are_never_read_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor those whose texts have colons, whose ids are numbers, or that say null: the same would go unnoticed."""
    monkeypatch.setattr(jsonl, "job_from_json", lambda *_: pytest.fail("read as a single line"))
    path = tmp_path / "jobs.jsonl"
    path.write_text(
        '{"id": "a:1", "x": [1, null], "y": [1, 2], "trace": "points:50"}\n'
        '{"id": 17, "x" : [1], "y": [1], "degree": null, "lr": null}\n'
        '{"id": "\\u00e9", "polynomial": [1, 2], "samples": {"count": 5, "noise": null}, "trace": "every:5"}\n'
    )
    (batch,) = readers.from_jsonl(path)
    assert batch["id"].to_pylist() == ["a:1", "17", "é"]
    assert batch["trace"].to_pylist() == ["points:50", "points:100", "every:5"]
    assert batch["count"].to_pylist() == [None, None, 5]


def _schema_of(jobs: list[dict[str, Any]]) -> pa.Schema:
    return pa.unify_schemas([pa.Table.from_pylist([job]).schema.remove_metadata() for job in _without_empty(jobs)])


def _without_empty(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in job.items() if value != []} for job in jobs]


def test_batches_are_bounded_by_jobs_and_by_samples() -> None:
    """However large the table is that comes."""
    small = pa.RecordBatch.from_pydict({"polynomial": [[1.0]] * (BATCH_ROWS + 1)})
    assert [batch.num_rows for batch in from_tables([small], place)] == [BATCH_ROWS, 1]
    long = [0.0] * 70_000
    large = pa.RecordBatch.from_pydict({"x": [long] * 30, "y": [long] * 30})
    batches = list(from_tables([large], place))
    assert max(pc.sum(pc.list_value_length(batch["x"])).as_py() for batch in batches) <= BATCH_SAMPLES
    assert sum(batch.num_rows for batch in batches) == 30
