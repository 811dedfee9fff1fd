"""What users have becomes checked jobs, numbered in the order of the input; every error says where."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fitq import readers
from fitq.readers.batches import BATCH_JOBS
from fitq_shared.errors import FileError, FitqError, InputError, JobError
from fitq_shared.jobs.fields import MAX_SAMPLES_BUT_MSE
from fitq_shared.jobs.job import FitJob, Samples
from fitq_shared.jobs.schemas import JOB_SCHEMA

COLUMNS = readers.Columns("country", "year", "life")
JOB: dict[str, Any] = {"x": [0.0, 1.0, 2.0], "y": [1.0, 3.0, 5.0]}


def rows(batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def lines(path: Path, *jobs: object) -> Path:
    path.write_text("".join(f"{job if isinstance(job, str) else json.dumps(job)}\n" for job in jobs))
    return path


def test_jsonl_gives_one_job_a_line_and_skips_blank_ones(tmp_path: Path) -> None:
    """Rows are numbered over the jobs, not over the lines; a byte order mark is no part of the first job."""
    path = lines(tmp_path / "jobs.jsonl", "\ufeff" + json.dumps(JOB | {"id": "a"}), "", "  ", JOB | {"degree": 1})
    found = rows(readers.from_file(path))
    assert [(row["index"], row["id"], row["degree"]) for row in found] == [(0, "a", 2), (1, "1", 1)]
    assert found[0]["x"] == JOB["x"]


def test_jsonl_comes_from_standard_input_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads lines from standard input, and errors call it stdin."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(JOB).encode() + b"\noops\n")))
    with pytest.raises(JobError, match=r"^stdin:2: not a JSON object"):
        rows(readers.from_file("-"))


def test_defaults_fill_only_the_fields_that_a_job_does_not_give(tmp_path: Path) -> None:
    """A job's own value wins over the default, in JSONL and in Parquet."""
    jobs = [JOB | {"degree": 1}, JOB]
    parquet.write_table(pa.Table.from_pylist([job | {"degree": job.get("degree")} for job in jobs]), tmp_path / "j.parquet")
    for path in (lines(tmp_path / "j.jsonl", *jobs), tmp_path / "j.parquet"):
        found = rows(readers.from_file(path, defaults={"degree": 0, "lr": 0.5}))
        assert [(row["degree"], row["lr"]) for row in found] == [(1, 0.5), (0, 0.5)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"x": [1', r"bad.jsonl:2: not a JSON object: Expecting ',' delimiter at character 10"),
        ('{"degree": "two", oops', r"bad.jsonl:2: not a JSON object"),
        ('{"x": [1, nan], "y": [1, 2]}', r"bad.jsonl:2: not a JSON object: Expecting value at character 11"),
        ('{"x": [1], "y": [NaN, 1]}', r"bad.jsonl:2: y = .*: x and y must be lists of the same length"),
        ('{"id": 7, "x": [1], "y": [1], "degree": 1.5}', r"bad.jsonl:2: job '7': degree = 1.5: expected `int`"),
        ('{"id": 7.5, "x": [1], "y": [1]}', r"bad.jsonl:2: id = 7.5: expected text"),
        ('{"id": "j", "x": [1]}', r"bad.jsonl:2: job 'j': y = None: x and y must be lists of the same length"),
        ("[1, 2]", r"bad.jsonl:2: not a job"),
        (
            '{"id": "j", "x": [1, "b"], "y": [1, 2]}',
            r"bad.jsonl:2: job 'j': x\[1\] = 'b': expected `float \| null`, got `str`",
        ),
        ('{"id": "j", "degre": 3}', r"bad.jsonl:2: job 'j': degre = 3: no such field; known are id, x"),
        ('{"id": "j", "polynomial": [1], "samples": {"n": 3}}', r"job 'j': samples.n = 3: no such field; known are count"),
        ('{"id": "j", "x": [1], "y": [1], "degree": 31}', r"bad.jsonl:2: job 'j': degree = 31: expected `int` <= 30"),
        ('{"id": "j", "x": [1], "y": [1, 2]}', r"bad.jsonl:2: job 'j': y = .*: x and y must be lists of the same length"),
        (
            '{"id": "j", "x": [1], "y": [1], "basis": "sines"}',
            r"basis = 'sines': expected one of orthogonal, chebyshev, legendre, power",
        ),
        ('{"id": "twice", "x": [1], "y": [1]}', r"bad.jsonl:2: id = 'twice': already used at .*bad.jsonl:1"),
    ],
)
def test_a_bad_line_is_named_with_its_job_field_and_value(tmp_path: Path, line: str, message: str) -> None:
    """`file:line`, the job, the field, the value and what was expected."""
    with pytest.raises(JobError, match=message):
        rows(readers.from_file(lines(tmp_path / "bad.jsonl", JOB | {"id": "twice"}, line)))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"x":[0,1],"y":[9,9],"y":[1,3]}', "y = [1, 3]"),
        ('{"x": [0, 1], "y"\t: [9, 9], "y" : [1, 3]}', "y = [1, 3]"),
        ('{"id": "a:b", "x": [0, 1], "y": [1, 3], "trace": "points:5", "degree": 1, "degree": 0}', "degree = 0"),
        ('{"id": "a\\u003ab", "x": [0, 1], "y": [1, 3], "degree": 1, "degree": 0}', "degree = 0"),
        ('{"polynomial": [1], "samples": {"seed": 1, "count": 5, "count": 5}}', "count = 5"),
        ('{"polynomial": [1], "samples": {"count": 5}, "samples": null}', "samples = None"),
        ('{"x": [0, 1], "y": [1, 3], "tags": {"a:": ":", "a:": ":"}}', "a: = ':'"),
        ('{"x": [0, NaN], "y": [1, 3], "seed": 1, "seed": 1}', "seed = 1"),
        ('{"i\\u0064": "a", "x": [0, 1], "y": [1, 3], "id": "b"}', "id = 'b'"),
    ],
)
def test_a_key_given_twice_is_found_among_many_lines(tmp_path: Path, line: str, key: str) -> None:
    """However the line is spaced and whatever its texts hold; one that has all of that and no key twice is fine."""
    fine = [
        '{"id": "{}:1", "x":[0,1], "y" : [1, 3]}',
        '{"id": "{}\\u003a\\":", "x": [0, 1], "y": [1, 3], "trace": "every:3"}',
        '{"id": "{}", "polynomial": [1], "samples": {"count": 5, "seed": null}, "basis": "power"}',
        '{"id": "{}:", "x": [0, 1], "y": [1, 3], "tags": {"id": ":", "x:": 1}}',
    ]
    numbered = [text.replace("{}", str(number)) for number, text in enumerate(fine * 50)]
    assert len(rows(readers.from_file(lines(tmp_path / "fine.jsonl", *numbered)))) == len(numbered)
    for around in ([], numbered):
        path = lines(tmp_path / "twice.jsonl", *around, line, *around[:1])
        with pytest.raises(JobError, match=rf"twice.jsonl:{len(around) + 1}: .*{re.escape(key)}: given before in the same"):
            rows(readers.from_file(path))


def test_jsonl_is_read_as_python_writes_it(tmp_path: Path) -> None:
    """NaN is missing and Infinity infinite, among lines without; null is a field that is not given."""
    jobs = [
        JOB | {"id": "NaN"},
        {"id": 17, "x": [0.0, float("nan")], "y": [1.0, float("inf")], "degree": 1.0},
        JOB | {"degree": None, "lr": None, "weights": None, "covariance": 1},
        JOB | {"degree": float("nan"), "weights": [1.0, 0.0, float("nan")]},
    ]
    found = rows(readers.from_file(lines(tmp_path / "jobs.jsonl", *jobs), defaults={"degree": 0, "lr": 0.5}))
    assert [(row["id"], row["degree"], row["lr"]) for row in found] == [
        ("NaN", 0, 0.5),
        ("17", 1, 0.5),
        ("2", 0, 0.5),
        ("3", 0, 0.5),
    ]
    np.testing.assert_array_equal([found[1]["x"], found[1]["y"]], [[0.0, np.nan], [1.0, np.inf]])
    np.testing.assert_array_equal(found[3]["weights"], [1.0, 0.0, np.nan])
    assert [row["covariance"] for row in found] == [False, False, True, False]
    assert [row["weights"] is None for row in found] == [True, True, True, False]


def test_an_empty_id_is_the_position_and_may_clash_with_a_given_one() -> None:
    """Ids are unique after empty ones have become positions."""
    with pytest.raises(JobError, match=r"jobs\[1\]: id = '1': already used at jobs\[0\]"):
        rows(readers.from_jobs([JOB | {"id": "1"}, JOB]))


def test_large_jobs_make_small_batches() -> None:
    """A batch is bounded by its samples, so that a file of long jobs does not fill the memory."""
    job = FitJob(x=[0.0] * MAX_SAMPLES_BUT_MSE, y=[0.0] * MAX_SAMPLES_BUT_MSE)
    assert [batch.num_rows for batch in readers.from_jobs([job] * 12)] == [10, 2]


def test_numpy_arrays_are_welcome_from_python() -> None:
    """Arrays in a FitJob become lists on the way."""
    (row,) = rows(readers.from_jobs([FitJob(x=np.arange(3.0), y=np.ones(3))]))  # type: ignore[arg-type]
    assert row["x"] == [0.0, 1.0, 2.0]


def test_what_is_no_job_is_refused() -> None:
    """A type error at the position of the culprit."""
    with pytest.raises(InputError, match=r"jobs\[1\]: int is no job"):
        rows(readers.from_jobs([JOB, 3]))  # type: ignore[list-item]


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    path.write_text(text)
    return path


def test_csv_groups_rows_in_the_order_of_their_first_appearance(tmp_path: Path) -> None:
    """One job a group, its rows in the order of the file; an empty cell is a missing value."""
    path = csv_file(tmp_path, 'country,note,year,life\nPeru,a,1952,43.9\n"Korea, Rep.",b,1952,\nPeru,c,1957,46.3\nNA,,1,2\n')
    found = rows(readers.from_file(path, COLUMNS, {"degree": 1}))
    assert [(row["index"], row["id"], row["x"], row["y"], row["degree"]) for row in found] == [
        (0, "Peru", [1952.0, 1957.0], [43.9, 46.3], 1),
        (1, "Korea, Rep.", [1952.0], [None], 1),
        (2, "NA", [1.0], [2.0], 1),
    ]


@pytest.mark.parametrize(
    "word", ["", "NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "Null", "null", "None", "none", "-", "#N/A", " NA ", "nULL"]
)
def test_csv_knows_the_words_for_a_missing_number(tmp_path: Path, word: str) -> None:
    """In every spelling, with blanks around it; in the column of the group they are names."""
    path = csv_file(tmp_path, f"country,year,life,n\nNA,1,2,1\nNA,{word},3,1\nNA, 3 ,+4,{word}\nnone,1,{word},2\n")
    found = rows(readers.from_file(path, COLUMNS._replace(weights="n")))
    assert [(row["id"], row["x"], row["y"], row["weights"]) for row in found] == [
        ("NA", [1.0, None, 3.0], [2.0, 3.0, 4.0], [1.0, 1.0, None]),
        ("none", [1.0], [None], [2.0]),
    ]
    assert [row["place"] for row in found] == [f"{path}:3", f"{path}:5"]


def test_csv_reads_weights_from_their_column(tmp_path: Path) -> None:
    """`--weights` names a third column of numbers."""
    path = csv_file(tmp_path, "country,year,life,n\nPeru,1,2,3\nPeru,2,3,4\n")
    (row,) = rows(readers.from_file(path, COLUMNS._replace(weights="n")))
    assert row["weights"] == [3.0, 4.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("country,year,life\n\nPeru,1952,NA\nPeru,1957,n.a.\n", r"data.csv:4: job 'Peru': life = 'n.a.': expected a number"),
        ("country,year,life\nPeru,1, NA\nPeru,1_0,2\n", r"data.csv:3: job 'Peru': year = '1_0': expected a number"),
        (
            "country,year,life\nPeru,1,2\nPeru,2\n",
            r"data.csv:3: job 'Peru': life = '': this row has 2 cells and the header 3",
        ),
        ("country,year,life\nPeru,1,2\nPeru,2,3,4\n", r"data.csv:3: job 'Peru': life = '3,4': this row has 4 cells"),
        ("country,year,life\nPeru,1,2\nPeru\nPeru,1,x\n", r"data.csv:3: job 'Peru': year = '': this row has 1 cells"),
        ("country,year,life,year\nPeru,1,2,3\n", r"data.csv: the header has 'year' \(--x\) more than once"),
        ("country,life,country,year\nPeru,1,2,3\n", r"data.csv: the header has 'country' \(--group\) more than once"),
        ("country,year,life\nPeru,1,2\n,2,3\n", r"data.csv:3: country = '': every row needs a group"),
        ("country,Year,life\nPeru,1,2\n", r"no column 'year' \(--x\); the header has country, Year, life"),
        ("country,year,life\n", r"data.csv is empty"),
        ("", r"data.csv is empty"),
        (f"country,year,life\nPeru,1,2\n\n{'x' * 201},1,2\n", r"data.csv:4: .*id = "),
    ],
)
def test_a_bad_csv_is_named_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    """The line is that of the file, blank lines counted."""
    with pytest.raises(InputError, match=message):
        rows(readers.from_file(csv_file(tmp_path, text), COLUMNS))


def test_parquet_rows_are_jobs_and_null_means_not_given(tmp_path: Path) -> None:
    """Explicit and generated jobs side by side, `samples` as a struct."""
    table = pa.Table.from_pylist(
        [
            {"id": "a", "x": [0.0, None], "y": [1.0, 2.0], "polynomial": None, "samples": None},
            {"id": "b", "x": None, "y": None, "polynomial": [1.0, 2.0], "samples": {"count": 7, "noise": None}},
        ]
    )
    parquet.write_table(table, tmp_path / "jobs.parquet")
    a, b = rows(readers.from_file(tmp_path / "jobs.parquet"))
    assert (a["x"], a["y"], a["count"]) == ([0.0, None], [1.0, 2.0], None)
    assert (b["polynomial"], b["count"], b["noise"]) == ([1.0, 2.0], 7, 0.0)


def test_columns_that_pandas_writes_are_read(tmp_path: Path) -> None:
    """Its index beside the fields, whole numbers with a gap as floats, switches and ids as numbers."""
    nan = float("nan")
    table = pa.table(
        {
            "id": pa.array([17, 18, 19]),
            "x": [[0.0, 1.0]] * 3,
            "y": [[1.0, nan], [1.0, 3.0], [1.0, 3.0]],
            "degree": [1.0, nan, None],
            "steps": pa.array([7, 8, 9], pa.uint16()),
            "lr": [nan, 0.5, nan],
            "covariance": [0, 1, None],
            "absolute_sigma": [0.0, nan, 1.0],
            "__index_level_0__": [5, 9, 11],
            "__index_level_1__": ["a", "b", "c"],
        }
    )
    parquet.write_table(table, tmp_path / "jobs.parquet")
    for path in (tmp_path / "jobs.parquet", arrow_file(tmp_path / "jobs.arrow", table)):
        found = rows(readers.from_file(path, defaults={"degree": 0}))
        columns = ("id", "degree", "steps", "lr", "covariance", "absolute_sigma", "place")
        assert [tuple(row[name] for name in columns) for row in found] == [
            ("17", 1, 7, 0.01, False, False, f"{path}:row 1"),
            ("18", 0, 8, 0.5, True, False, None),
            ("19", 0, 9, 0.01, False, True, None),
        ]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"degree": [1.0, 1.5]}, r"row 2: job 'b': degree = 1.5: expected `int`, got `float`"),
        ({"covariance": [1, 2]}, r"row 2: job 'b': covariance = 2: expected `bool`, got `int`"),
        ({"id": [b"a", b"\xff"]}, r"row 2: id = b'\\xff': expected text of length <= 200 \(bytes: in UTF-8\)"),
        ({"id": [1.0, 1.5]}, r"row 2: id = 1.5: expected text"),
        ({"id": [1, 1]}, r"row 2: id = '1': already used at .*row 1"),
        ({"id": [True, False]}, r"row 1: id = True: expected text"),
        ({"weights": [[1.0, 2.0], None]}, r"row 1: job 'a': weights = .*: one weight for each point"),
        ({"y": [None, [1.0, 2.0]]}, r"row 2: job 'b': y = .*same length"),
        ({"samples": [None, {"count": 2.5}]}, r"row 2: job 'b': samples.count = 2.5: expected `int`"),
    ],
)
def test_a_number_that_would_lose_something_is_refused(tmp_path: Path, column: dict[str, Any], message: str) -> None:
    """With row, job, field, value and rule, among rows that are fine."""
    table = pa.table({"id": ["a", "b"], "x": [[1.0]] * 2, "y": [[1.0]] * 2} | column)
    parquet.write_table(table, tmp_path / "jobs.parquet")
    for path in (tmp_path / "jobs.parquet", arrow_file(tmp_path / "jobs.arrow", table)):
        with pytest.raises(JobError, match=message):
            rows(readers.from_file(path))


NULL_LISTS: list[dict[str, Any]] = [
    {"id": "good", "x": [0.0, 1.0], "y": [1.0, 3.0], "weights": None},
    {"id": "no y", "x": [0.0, 1.0], "y": None, "weights": [1.0, 1.0]},
    {"id": "no x", "x": None, "y": [1.0], "weights": None},
    {"id": "neither", "x": None, "y": None, "weights": None},
    {"id": "weights", "x": None, "y": None, "weights": [1.0]},
    {"id": "last", "x": [0.0, 1.0], "y": [1.0, 3.0], "weights": [1.0, None]},
]


def test_a_null_list_among_good_rows_is_missing_at_every_point(tmp_path: Path) -> None:
    """So that one fit gets a status; the rows around it are as they were."""
    table = pa.Table.from_pylist(NULL_LISTS)
    parquet.write_table(table, tmp_path / "jobs.parquet")
    arrow_file(tmp_path / "jobs.arrow", table)
    lines(tmp_path / "jobs.jsonl", *NULL_LISTS)
    nan = float("nan")
    for name, place in (("jobs.parquet", "row "), ("jobs.arrow", "row "), ("jobs.jsonl", "")):
        found = rows(readers.from_file(tmp_path / name))
        bad = [f"{tmp_path / name}:{place}{row}" for row in (2, 3, 5, 6)]
        expected = [
            ("good", [0.0, 1.0], [1.0, 3.0], None, None),
            ("no y", [0.0, 1.0], [nan, nan], [1.0, 1.0], bad[0]),
            ("no x", [nan], [1.0], None, bad[1]),
            ("neither", [], [], None, None),
            ("weights", [nan], [nan], [1.0], bad[2]),
            ("last", [0.0, 1.0], [1.0, 3.0], [1.0, None], bad[3]),
        ]
        assert repr([tuple(row[name] for name in ("id", "x", "y", "weights", "place")) for row in found]) == repr(expected)
    dictionaries = rows(readers.from_jobs(NULL_LISTS))
    assert [(row["id"], len(row["x"]), row["place"]) for row in dictionaries] == [
        (name, len(x), None) for name, x, *_ in expected
    ]


def test_a_list_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    """A file without the column y is no file with fits that fail."""
    for suffix in ("parquet", "npz", "jsonl"):
        path = tmp_path / f"jobs.{suffix}"
        parquet.write_table(pa.table({"x": [[1.0]]}), tmp_path / "jobs.parquet")
        np.savez(tmp_path / "jobs.npz", x=np.ones((1, 1)))
        lines(tmp_path / "jobs.jsonl", {"x": [1.0]})
        with pytest.raises(JobError, match=rf"jobs.{suffix}:.*1: y = None: x and y must be lists of the same length"):
            rows(readers.from_file(path))


def test_the_first_point_that_cannot_be_fitted_has_its_place(tmp_path: Path) -> None:
    """Lines of the CSV as an editor counts them; a point of weight 0 is none, and what is drawn has no place."""
    text = (
        'country,note,year,life,n\nPeru,"two\nlines",1,2,1\n\nChad,,1,2,1\nPeru,,,2,0\nChad,,2,inf,1\nPeru,,3,NA,1\n'
        "Peru,,,4,1\nMali,,1,1e200,1\nIran,,1,1,-1\nOman,,1,1,\nCuba,,1,1,1"
    )
    for csv, shift in ((text, 0), (text.replace("\nlines", ""), 1), (text.replace("\nlines", "").replace("\n\n", "\n"), 2)):
        path = csv_file(tmp_path, csv)
        found = rows(readers.from_file(path, COLUMNS._replace(weights="n")))
        assert {row["id"]: row["place"] for row in found} == {
            name: line and f"{path}:{line - shift}"
            for name, line in (("Peru", 8), ("Chad", 7), ("Mali", 10), ("Iran", 11), ("Oman", 12), ("Cuba", None))
        }
    jobs: list[dict[str, Any]] = [JOB, {"polynomial": [1.0]}, JOB | {"weights": [1, 0, None]}, JOB | {"y": [None, 1, 2]}]
    path = lines(tmp_path / "jobs.jsonl", jobs[0], "", *jobs[1:])
    assert [row["place"] for row in rows(readers.from_file(path))] == [None, None, f"{path}:4", f"{path}:5"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": [[1.0], [1.0]], "y": [[1.0], [1.0, 2.0]]}, r"jobs.parquet:row 2: y = .*same length"),
        ({"x": [[1.0]], "y": [[1.0]], "degre": [3]}, r"degre: no such field"),
        ({"x": pa.array([], pa.list_(pa.float64()))}, r"is empty"),
    ],
)
def test_a_bad_parquet_is_named_with_its_row(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    """Rows count from 1, as lines do."""
    parquet.write_table(pa.table(table), tmp_path / "jobs.parquet")
    with pytest.raises(InputError, match=message):
        rows(readers.from_file(tmp_path / "jobs.parquet"))


def test_parquet_of_any_row_groups_comes_in_bounded_batches(tmp_path: Path) -> None:
    """A row group of large jobs is not read at once, one of small jobs makes large batches; the numbers go on."""
    large, small = [0.0] * 50_000, [1.0]
    schema = pa.schema([("x", pa.list_(pa.float64())), ("y", pa.list_(pa.float64()))])
    with parquet.ParquetWriter(tmp_path / "jobs.parquet", schema) as writer:
        for samples, count in ((large, 50), (small, 1000)):
            writer.write_table(pa.table({"x": [samples] * count, "y": [samples] * count}, schema))
    batches = list(readers.from_file(tmp_path / "jobs.parquet"))
    assert [batch.num_rows for batch in batches] == [20, 20, 10, 1000]
    assert batches[-1]["index"].to_pylist() == list(range(50, 1050))


def arrow_file(path: Path, table: pa.Table, *, stream: bool = False) -> Path:
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_and_streams_are_read(tmp_path: Path, stream: bool) -> None:
    """One job a row, null is not given, over all batches of the file."""
    table = pa.table({"x": [[1.0]] * 5, "y": [[1.0]] * 5, "degree": [0, 1, None, 0, 1], "id": ["a", None, "c", "d", "e"]})
    path = arrow_file(tmp_path / "jobs.arrow", table, stream=stream)
    found = [(row["index"], row["id"], row["degree"]) for row in rows(readers.from_file(path, defaults={"degree": 3}))]
    assert found == [(0, "a", 0), (1, "1", 1), (2, "c", 3), (3, "d", 0), (4, "e", 1)]


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """Nobody can know which one is meant."""
    table = pa.table([[[1.0]], [[1.0]], [[2.0]]], names=["x", "y", "x"])
    with pytest.raises(InputError, match=r"jobs.arrow: x: more than one column of that name"):
        rows(readers.from_file(arrow_file(tmp_path / "jobs.arrow", table)))


def test_a_bad_row_of_an_arrow_file_is_counted_over_its_batches(tmp_path: Path) -> None:
    """Rows count from 1."""
    table = pa.table({"x": [[1.0]] * 4, "y": [[1.0]] * 4, "degree": [0, 1, 2, 31]})
    with pytest.raises(JobError, match=r"jobs.feather:row 4: degree = 31: expected `int` <= 30"):
        rows(readers.from_file(arrow_file(tmp_path / "jobs.feather", table)))


def test_an_arrow_file_that_lies_about_its_lists_is_no_file(tmp_path: Path) -> None:
    """Offsets that point outside of the values are found before anything is read through them."""
    broken = pa.Array.from_buffers(
        pa.list_(pa.float64()), 2, [None, pa.py_buffer(np.array([0, 10**6, 1], np.int32))], children=[pa.array([1.0])]
    )
    path = arrow_file(tmp_path / "jobs.arrow", pa.table({"x": broken, "y": broken}))
    with pytest.raises(FileError, match="is no Arrow IPC file that can be read"):
        rows(readers.from_file(path))


def test_npz_arrays_have_a_row_for_each_job_or_none_for_all(tmp_path: Path) -> None:
    """x of shape (samples,) and degree of shape () are those of all jobs; numbers of any width and order."""
    y = np.arange(6, dtype=np.float32).reshape(3, 2)
    arrays: dict[str, Any] = {
        "x": np.array([1, 2]),
        "degree": np.array(1),
        "id": np.array(["a", "b", "c"]),
        "steps": np.array([3, 4, 5]),
    }
    np.savez(tmp_path / "jobs.npz", y=y, weights=np.asfortranarray(y + 1), lr=np.array([1.0, 2.0, 3.0], ">f8"), **arrays)
    found = rows(readers.from_file(tmp_path / "jobs.npz", defaults={"degree": 9, "seed": 4}))
    assert [row["x"] for row in found] == [[1.0, 2.0]] * 3
    assert [row["y"] for row in found] == y.tolist()
    assert [row["weights"] for row in found] == (y + 1).tolist()
    assert [(row["id"], row["degree"], row["steps"], row["lr"], row["seed"]) for row in found] == [
        ("a", 1, 3, 1.0, 4),
        ("b", 1, 4, 2.0, 4),
        ("c", 1, 5, 3.0, 4),
    ]


def test_npz_values_are_taken_as_people_have_them(tmp_path: Path) -> None:
    """Ids as numbers or bytes, whole floats with a gap, switches as numbers, lists padded with weight 0."""
    nan = float("nan")
    arrays: dict[str, Any] = {
        "x": np.array([[0, 1, 2], [0, 1, nan]]),
        "y": np.array([[1, nan, 5], [5, 4, nan]], np.float32),
        "weights": np.array([[1, 1, 1], [1, 1, 0]]),
        "degree": np.array([1.0, nan]),
        "covariance": np.array([0, 1], np.uint8),
        "basis": np.array(b"power"),
    }
    for ids in (np.array([10, 11]), np.array([b"10", b"11"]), np.array([10.0, 11.0])):
        np.savez(tmp_path / "jobs.npz", id=ids, **arrays)
        found = rows(readers.from_file(tmp_path / "jobs.npz"))
        assert [(row["id"], row["degree"], row["covariance"], row["basis"]) for row in found] == [
            ("10", 1, False, "power"),
            ("11", 2, True, "power"),
        ]
        assert [row["place"] for row in found] == [f"{tmp_path / 'jobs.npz'}:row 1", None]


def test_npz_of_one_sample_set_and_several_degrees_is_a_fit_for_each(tmp_path: Path) -> None:
    """x and y without an axis of jobs are those of all."""
    np.savez(tmp_path / "jobs.npz", x=np.arange(3), y=np.arange(3.0), degree=np.array([0, 1]))
    found = rows(readers.from_file(tmp_path / "jobs.npz"))
    assert [(row["id"], row["x"], row["degree"]) for row in found] == [("0", [0.0, 1.0, 2.0], 0), ("1", [0.0, 1.0, 2.0], 1)]


def test_npz_without_an_axis_of_jobs_is_one_job(tmp_path: Path) -> None:
    """Compressed or not."""
    np.savez_compressed(tmp_path / "jobs.npz", polynomial=[1.0, 2.0], init="exact")
    (row,) = rows(readers.from_file(tmp_path / "jobs.npz"))
    assert (row["polynomial"], row["init_exact"], row["count"]) == ([1.0, 2.0], True, 20)


def test_npz_comes_in_bounded_batches(tmp_path: Path) -> None:
    """Arrays are read on from where the batch before ended, those in Fortran's order too."""
    x = np.arange(30 * 70_000, dtype=np.float64).reshape(30, -1)
    np.savez(tmp_path / "jobs.npz", x=x, y=np.asfortranarray(x), degree=np.arange(30))
    batches = list(readers.from_file(tmp_path / "jobs.npz"))
    assert [batch.num_rows for batch in batches] == [14, 14, 2]
    assert pa.Table.from_batches(batches)["degree"].to_pylist() == list(range(30))
    for name in ("x", "y"):
        assert (np.concatenate([batch[name].flatten().to_numpy() for batch in batches]) == x.ravel()).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros((3, 2)), "x": np.zeros((2, 2))}, r"must agree in the number of jobs.*found y 3, x 2"),
        ({"y": np.zeros((3, 2, 1)), "x": np.zeros(2)}, r"is no NPZ file that can be read: y has shape \(3, 2, 1\)"),
        ({"y": np.zeros((1, 2)), "x": np.zeros(2), "degree": np.zeros((1, 1), int)}, r"degree has shape \(1, 1\)"),
        ({"y": np.array([[None]]), "x": np.zeros(1)}, r"y .* holds object"),
        ({"y": np.zeros((1, 1), complex), "x": np.zeros(1)}, r"is no NPZ file that can be read"),
        ({"y": np.zeros((2, 2)), "x": np.zeros(3)}, r"jobs.npz:row 1: y = \[0.0, 0.0\]: .*same length"),
        ({"y": np.zeros((2, 1)), "x": np.zeros(1), "degree": np.array([0, 31])}, r"jobs.npz:row 2: degree = 31"),
        ({"y": np.zeros((2, 1)), "x": np.zeros(1), "degree": np.array(2.5)}, r"row 1: degree = 2.5: expected `int`"),
        ({"y": np.zeros((2, 1)), "x": np.zeros(1), "degre": np.array(1)}, r"degre: no such field"),
        ({"y": np.zeros((0, 2)), "x": np.zeros(2)}, r"is empty"),
        ({}, r"is empty"),
    ],
)
def test_a_bad_npz_is_named_with_what_is_wrong(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """Shapes that do not go together, and values that are no job's."""
    np.savez(tmp_path / "jobs.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        rows(readers.from_file(tmp_path / "jobs.npz"))
    assert "jobs.npz" in str(caught.value)


def test_generated_jobs_are_those_of_single_fitjobs() -> None:
    """The vectorised recipe gives the very rows that jobs written out one by one would give."""
    count, seed = BATCH_JOBS + 3, 40
    samples = Samples(count=5, spread=2.0, noise=0.5)
    found = rows(readers.from_recipe([1, 2, 3], count, samples, seed, {"degree": 3}))
    written_out = (FitJob(polynomial=[1, 2, 3], samples=samples, seed=seed + number, degree=3) for number in range(count))
    assert found == rows(readers.from_jobs(written_out))


@pytest.mark.parametrize(
    "arguments", [{"count": 0}, {"count": 1, "samples": Samples(count=0)}, {"count": 2, "seed": 2**63 - 2}]
)
def test_a_recipe_that_breaks_a_rule_is_refused(arguments: dict[str, Any]) -> None:
    """The same rules as for jobs in a file."""
    with pytest.raises(JobError):
        rows(readers.from_recipe([1.0], **arguments))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.jsonl", "No such file"),
        (lambda folder: folder / "none.csv", "No such file"),
        (lambda folder: folder / "none.parquet", "No such file"),
        (lambda folder: lines(folder / "empty.jsonl"), "is empty: no job in it"),
        (lambda folder: lines(folder / "blank.jsonl", "", ""), "is empty: no job in it"),
        (lambda folder: lines(folder / "text.parquet", "text"), "is no Parquet file"),
        (lambda folder: folder / "none.arrow", "No such file"),
        (lambda folder: lines(folder / "text.arrow", "text"), "is no Arrow IPC file"),
        (lambda folder: lines(folder / "empty.arrow"), "is no Arrow IPC file"),
        (lambda folder: arrow_file(folder / "jobs.feather", pa.table({"x": pa.array([], pa.null())})), "is empty"),
        (lambda folder: folder / "none.npz", "No such file"),
        (lambda folder: lines(folder / "text.npz", "text"), "is no NPZ file"),
        (lambda folder: lines(folder / "empty.npz"), "is no NPZ file"),
        (lambda folder: cut(folder / "cut.npz"), "is no NPZ file"),
        (lambda folder: lines(folder / "jobs.xlsx", "text"), r"unknown format '.xlsx'; known are .jsonl"),
    ],
)
def test_a_file_that_is_none_is_a_file_error(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    """Missing, empty or of another format: one error that names the file and what is wrong with it."""
    path = make(tmp_path)
    columns = COLUMNS if path.suffix == ".csv" else None
    with pytest.raises(FileError, match=message) as caught:
        rows(readers.from_file(path, columns))
    assert path.name in str(caught.value)


def cut(path: Path) -> Path:
    """An archive whose member is no array."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY")
    return path


def test_columns_belong_to_csv_and_csv_needs_them(tmp_path: Path) -> None:
    """Neither is silently ignored."""
    for path, columns in ((tmp_path / "jobs.jsonl", COLUMNS), (tmp_path / "data.csv", None)):
        with pytest.raises(FitqError, match="--group"):
            readers.from_file(path, columns)


def test_every_reader_keeps_the_schema(tmp_path: Path) -> None:
    """The seam to the planner: record batches of JOB_SCHEMA, rows numbered from 0 without a gap over all batches."""
    jsonl = lines(tmp_path / "many.jsonl", *[{"polynomial": [1, 2]}] * (BATCH_JOBS + 1))
    csv = csv_file(tmp_path, "country,year,life\nPeru,1,2\nChad,1,2\n")
    parquet.write_table(pa.table({"x": [[1.0]] * 3, "y": [[1.0]] * 3}), tmp_path / "jobs.parquet")
    every = [
        readers.from_file(jsonl),
        readers.from_file(csv, COLUMNS),
        readers.from_file(tmp_path / "jobs.parquet"),
        readers.from_file(arrow_file(tmp_path / "jobs.arrow", pa.table({"x": [[1.0]] * 3, "y": [[1.0]] * 3}))),
        readers.from_recipe([1.0], BATCH_JOBS + 1),
    ]
    for batches in map(list, every):
        assert all(batch.schema.equals(JOB_SCHEMA, check_metadata=True) for batch in batches)
        numbers = [number for batch in batches for number in batch["index"].to_pylist()]
        assert numbers == list(range(len(numbers)))
