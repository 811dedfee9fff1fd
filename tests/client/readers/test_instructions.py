"""What is asked of all jobs of a file: overrides, tags, and a count of the jobs that give a field themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fitq import readers
from fitq.readers import Instructions, columnar, jsonl
from fitq.submitting.planner import plan
from fitq_shared.errors import InputError, JobError
from fitq_shared.jobs.job import FitJob

COLUMNS = readers.Columns("country", "year", "life")
XY: dict[str, Any] = {"x": [0.0, 1.0, 2.0], "y": [1.0, 3.0, 5.0]}
Write = Callable[[Path, list[dict[str, Any]]], Path]


def as_jsonl(folder: Path, jobs: list[dict[str, Any]]) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text(
        "".join(json.dumps({name: value for name, value in job.items() if value is not None}) + "\n" for job in jobs)
    )
    return path


def as_parquet(folder: Path, jobs: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(jobs), folder / "jobs.parquet")
    return folder / "jobs.parquet"


def as_arrow(folder: Path, jobs: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(jobs)
    with pa.ipc.new_stream(folder / "jobs.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return folder / "jobs.arrow"


def as_npz(folder: Path, jobs: list[dict[str, Any]]) -> Path:
    arrays: dict[str, Any] = {name: np.array([job[name] for job in jobs]) for name in jobs[0]}
    np.savez(folder / "jobs.npz", **arrays)
    return folder / "jobs.npz"


TABLES = [as_parquet, as_arrow, as_npz]


def rows(batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def tags(batches: Iterable[pa.RecordBatch]) -> list[Any]:
    return [row["tags"] and json.loads(row["tags"]) for row in rows(batches)]


@pytest.fixture
def in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are read one by one fail the test."""
    monkeypatch.setattr(columnar, "job_from_mapping", lambda *_: pytest.fail("read as a single job"))
    monkeypatch.setattr(jsonl, "job_from_json", lambda *_: pytest.fail("read as a single job"))


# Overrides.


@pytest.mark.usefixtures("in_columns")
@pytest.mark.parametrize("write", [as_jsonl, *TABLES])
def test_overrides_win_over_what_jobs_and_defaults_give(tmp_path: Path, write: Write) -> None:
    """A column at a time; what was overridden is not even looked at."""
    jobs = [XY | {"lr": -1.0, "degree": "two", "steps": 5}, XY | {"lr": 0.5, "degree": "2", "steps": 7}]
    instructions = Instructions(overrides={"lr": 0.25, "degree": 1, "loss": "huber", "delta_sigma": 1.5})
    found = rows(
        readers.from_file(write(tmp_path, jobs), defaults={"lr": 0.1, "steps": 9, "ridge": 0.5}, instructions=instructions)
    )
    names = ("lr", "degree", "loss", "delta_sigma", "steps", "ridge")
    assert [[row[name] for name in names] for row in found] == [[0.25, 1, "huber", 1.5, steps, 0.5] for steps in (5, 7)]


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_arrow])
def test_overrides_hold_for_jobs_that_are_read_one_by_one(tmp_path: Path, write: Write) -> None:
    """An id of many bytes leaves a row in doubt."""
    jobs = [XY | {"id": "é" * 150, "lr": -1.0, "init": None}, XY | {"id": "b", "lr": 0.5, "init": [1.0, 2.0, 3.0]}]
    instructions = Instructions(overrides={"lr": 0.25, "init": "exact"})
    found = rows(readers.from_file(write(tmp_path, jobs), instructions=instructions))
    assert [(row["id"], row["lr"], row["init"], row["init_exact"]) for row in found] == [
        ("é" * 150, 0.25, None, True),
        ("b", 0.25, None, True),
    ]


@pytest.mark.parametrize("write", [as_jsonl, *TABLES])
def test_an_override_that_no_job_may_have_is_refused(tmp_path: Path, write: Write) -> None:
    """With the words of a job; and rules about several fields see the override."""
    path = write(tmp_path, [XY | {"lr": 0.5}])
    with pytest.raises(JobError, match="degree = 31: expected `int` <= 30"):
        rows(readers.from_file(path, instructions=Instructions(overrides={"degree": 31})))
    with pytest.raises(JobError, match=r"jobs.\w+:(row )?1: .*nesterov = True: momentum must be above 0"):
        rows(readers.from_file(path, instructions=Instructions(overrides={"nesterov": True})))


def test_overrides_hold_for_the_groups_of_a_csv(tmp_path: Path) -> None:
    """Which give no field but their samples."""
    instructions = Instructions(overrides={"degree": 1})
    found = rows(readers.from_file(csv_file(tmp_path), COLUMNS, {"degree": 0, "lr": 0.5}, instructions))
    assert [(row["degree"], row["lr"]) for row in found] == [(1, 0.5)] * 2


@pytest.mark.usefixtures("in_columns")
@pytest.mark.parametrize("write", [as_jsonl, *TABLES])
def test_overrides_are_of_the_types_that_people_have(tmp_path: Path, write: Write) -> None:
    """A whole float for a number of steps, 1 for true; and one that is missing leaves what no job gives."""
    path = write(tmp_path, [XY | {"steps": 2.5, "lr": 0.5, "covariance": 7}])
    instructions = Instructions(overrides={"steps": 7.0, "covariance": 1, "lr": float("nan")})
    (found,) = rows(readers.from_file(path, defaults={"lr": 0.1}, instructions=instructions))
    assert (found["steps"], found["covariance"], found["lr"]) == (7, True, 0.01)


@pytest.mark.parametrize("write", TABLES)
def test_places_are_known_beside_tags_and_overrides(tmp_path: Path, write: Write) -> None:
    """A row, and in a CSV a line, whose first point cannot be fitted."""
    jobs = [XY | {"site": "A"}, XY | {"x": [0.0, float("nan"), 2.0], "site": "B"}]
    instructions = Instructions(overrides={"lr": 0.25}, all_tags=True)
    path = write(tmp_path, jobs)
    assert [row["place"] for row in rows(readers.from_file(path, instructions=instructions))] == [None, f"{path}:row 2"]
    path = csv_file(tmp_path, CSV.replace("39.9", "nA"))
    assert [row["place"] for row in rows(readers.from_file(path, COLUMNS, instructions=instructions))] == [None, f"{path}:5"]


# Counts.


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_arrow])
@pytest.mark.parametrize("name", ["a", "é" * 150])
def test_jobs_that_give_a_field_themselves_are_counted(tmp_path: Path, write: Write, name: str) -> None:
    """Over all batches, also where the value is that of the default, and where a row is read as a single job."""
    jobs: list[dict[str, Any]] = [
        XY | {"id": f"{name}{n}", "lr": 0.1 if n % 3 == 0 else None, "steps": 5} for n in range(10)
    ]
    given = Counter[str]()
    instructions = Instructions(overrides={"steps": 3}, given=given)
    found = rows(readers.from_file(write(tmp_path, jobs), defaults={"lr": 0.1, "ridge": 0.5}, instructions=instructions))
    assert (len(found), +given) == (10, Counter(lr=4))


def test_null_and_nan_are_not_given(tmp_path: Path) -> None:
    """In lines that only Python's JSON reads, and in columns of any kind of float."""
    path = tmp_path / "jobs.jsonl"
    path.write_text(
        '{"x": [0, 1], "y": [1, 2], "degree": 1, "lr": null}\n'
        '{"x": [0, 1], "y": [1, 2], "degree": 1, "lr": NaN}\n'
        '{"x": [0, NaN], "y": [1, 2], "degree": 1, "lr": 0.5}\n'
        '{"x": [0, 1], "y": [1, 2], "degree": 1, "lr": 0.5}\n'
    )
    given = Counter[str]()
    found = rows(readers.from_file(path, defaults={"lr": 0.1}, instructions=Instructions(given=given)))
    assert ([row["lr"] for row in found], given) == ([0.1, 0.1, 0.5, 0.5], Counter(lr=2))
    for kind in (np.float16, np.float32, np.float64):
        np.savez(tmp_path / "jobs.npz", x=np.zeros((3, 2)), y=np.zeros((3, 2)), lr=np.array([np.nan, 0.5, np.nan], kind))
        given = Counter[str]()
        found = rows(readers.from_file(tmp_path / "jobs.npz", defaults={"lr": 0.1}, instructions=Instructions(given=given)))
        assert ([row["lr"] for row in found], given) == ([0.1, 0.5, 0.1], Counter(lr=1))


def test_lines_that_no_column_can_hold_are_counted_once(tmp_path: Path) -> None:
    """Lists and words in one block are read line by line."""
    jobs = [XY | {"init": "exact", "lr": 0.5}, XY | {"init": [1.0, 2.0, 3.0]}, XY]
    given = Counter[str]()
    rows(
        readers.from_file(
            as_jsonl(tmp_path, jobs), defaults={"lr": 0.1, "init": "exact"}, instructions=Instructions(given=given)
        )
    )
    assert given == Counter(lr=1, init=2)


def test_an_array_for_all_jobs_is_given_by_each(tmp_path: Path) -> None:
    """And an array for each job too."""
    np.savez(tmp_path / "jobs.npz", x=np.zeros((3, 2)), y=np.zeros((3, 2)), lr=np.array(0.5), steps=np.array([1, 2, 3]))
    given = Counter[str]()
    rows(
        readers.from_file(
            tmp_path / "jobs.npz", defaults={"lr": 0.1, "steps": 2, "degree": 1}, instructions=Instructions(given=given)
        )
    )
    assert given == Counter(lr=3, steps=3)


# Tags.

SITES: list[dict[str, Any]] = [
    XY | {"site": 'A "1"', "lat": 1.5, "n": 1, "sea": True},
    XY | {"site": "B", "lat": float("nan"), "n": 2, "sea": False},
    XY | {"site": "A", "lat": -2.0, "n": 3, "sea": True},
]
TAGS: list[dict[str, Any]] = [
    {"site": 'A "1"', "lat": 1.5, "n": 1, "sea": True},
    {"site": "B", "lat": None, "n": 2, "sea": False},
    {"site": "A", "lat": -2.0, "n": 3, "sea": True},
]


@pytest.mark.usefixtures("in_columns")
@pytest.mark.parametrize("write", TABLES)
def test_columns_become_tags(tmp_path: Path, write: Write) -> None:
    """All that are no fields, or those that are named; NaN is null."""
    path = write(tmp_path, SITES)
    assert tags(readers.from_file(path, instructions=Instructions(all_tags=True))) == TAGS
    named = [{name: row[name] for name in ("site", "lat")} for row in TAGS]
    just = write(tmp_path, [{name: job[name] for name in ("x", "y", "site", "lat")} for job in SITES])
    assert tags(readers.from_file(just, instructions=Instructions(tags=("lat", "site")))) == named


@pytest.mark.parametrize("write", TABLES)
def test_a_column_that_is_no_field_is_refused_and_told_of_tags(tmp_path: Path, write: Write) -> None:
    """Also beside columns that are named; a column that is not there, or has a meaning already, is no tag."""
    path = write(tmp_path, SITES)
    with pytest.raises(InputError, match=r"jobs.\w+: site, lat, n, sea: no such field; .*as tags: --tag site, or --tags"):
        rows(readers.from_file(path))
    with pytest.raises(InputError, match=r"jobs.\w+: lat, n, sea: no such field"):
        rows(readers.from_file(path, instructions=Instructions(tags=("site",))))
    with pytest.raises(InputError, match=r"jobs.\w+: no column 'cite' \(--tag\); there are x, y, site"):
        rows(readers.from_file(path, instructions=Instructions(tags=("cite",))))
    with pytest.raises(InputError, match=r"jobs.\w+: y is a field of a job; rename the column"):
        rows(readers.from_file(path, instructions=Instructions(tags=("y",), all_tags=True)))


@pytest.mark.usefixtures("in_columns")
@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_arrow])
def test_jobs_say_their_tags_themselves(tmp_path: Path, write: Write) -> None:
    """An object in JSON, a struct in tables; some jobs may have none."""
    found = [{"lat": 1.5, "site": "A"}, None, {"lat": -2.0, "site": "B"}]
    path = write(tmp_path, [XY | {"tags": each} for each in found])
    assert tags(readers.from_file(path)) == found


@pytest.mark.usefixtures("in_columns")
def test_colons_in_tags_are_no_keys(tmp_path: Path) -> None:
    """Lines with tags are read in columns whatever their texts, also beside fields that are overridden."""
    found = [{"a:": ":b", "c": None}, {"": "::", "d": 1.5}, {}]
    path = as_jsonl(tmp_path, [XY | {"tags": each, "trace": "points:5", "degree": "two"} for each in found])
    assert tags(readers.from_file(path, instructions=Instructions(overrides={"trace": "none", "degree": 1}))) == found


@pytest.mark.parametrize("twice", ['"tags": {"a": ":", "a": ":"}', '"degree": 2, "degree": 2', '"degree": {"a": 1, "a": 1}'])
def test_a_key_given_twice_is_refused_also_where_it_is_overridden(tmp_path: Path, twice: str) -> None:
    """For a line that says two things may say a third one wrongly too."""
    path = tmp_path / "jobs.jsonl"
    path.write_text(f'{{"x": [0, 1], "y": [1, 2], {twice}}}')
    with pytest.raises(JobError, match=r"jobs.jsonl:1: \w+ = .*: given before in the same object"):
        rows(readers.from_file(path, instructions=Instructions(overrides={"degree": 1})))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_the_index_of_pandas_is_a_tag_only_by_name(tmp_path: Path, kind: str) -> None:
    """Among all other columns it is none."""
    columns: dict[str, Any] = {"x": [[0.0, 1.0]] * 2, "y": [[1.0, 2.0]] * 2, "site": ["A", "B"]}
    table = pa.table(columns | {"__index_level_0__": [3, 7]})
    path = tmp_path / f"jobs.{kind}"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    assert tags(readers.from_file(path, instructions=Instructions(all_tags=True))) == [{"site": "A"}, {"site": "B"}]
    index = Instructions(tags=("__index_level_0__", "site"))
    assert tags(readers.from_file(path, instructions=index)) == [
        {"site": "A", "__index_level_0__": 3},
        {"site": "B", "__index_level_0__": 7},
    ]


def test_tags_of_a_job_that_is_read_alone_are_the_same(tmp_path: Path) -> None:
    """A row in doubt between others."""
    jobs = [XY | {"id": name, "lat": 1.5, "site": "ü\n"} for name in ("a", "é" * 150, "c")]
    found = rows(readers.from_file(as_parquet(tmp_path, jobs), instructions=Instructions(all_tags=True)))
    assert {json.dumps(json.loads(row["tags"])) for row in found} == {json.dumps({"lat": 1.5, "site": "ü\n"})}


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ([1.0], r"jobs.parquet:row 1: tag 'tag': expected text, numbers, .* the column holds list<"),
        (b"bytes", r"jobs.parquet:row 1: tag 'tag': expected text, numbers, .* the column holds binary"),
    ],
)
def test_a_column_of_what_is_no_tag_is_named(tmp_path: Path, tag: object, message: str) -> None:
    """With the file and the type."""
    with pytest.raises(JobError, match=message):
        rows(readers.from_file(as_parquet(tmp_path, [XY | {"tag": tag}]), instructions=Instructions(all_tags=True)))


def test_text_is_no_object_of_tags(tmp_path: Path) -> None:
    """In a line and in a table."""
    with pytest.raises(JobError, match=r"jobs.jsonl:1: tags = '\{\}': expected `object \| null`, got `str`"):
        rows(readers.from_file(as_jsonl(tmp_path, [XY | {"tags": "{}"}])))
    with pytest.raises(JobError, match=r"jobs.parquet:row 1: tags: expected a struct"):
        rows(readers.from_file(as_parquet(tmp_path, [XY | {"tags": "{}"}])))
    with pytest.raises(InputError, match=r"jobs.jsonl: --tag and --tags name columns; a line has its tags itself"):
        rows(readers.from_file(as_jsonl(tmp_path, [XY]), instructions=Instructions(tags=("a",))))


def test_python_gives_tags_as_a_dictionary() -> None:
    """In a FitJob and in a dictionary of its fields."""
    given: dict[str, Any] = {"lat": np.float64(1.5), "site": "A"}
    assert tags(readers.from_jobs([FitJob(**XY, tags=given)])) == tags(readers.from_jobs([XY | {"tags": given}]))
    assert tags(readers.from_jobs([XY | {"tags": given}, XY])) == [{"lat": 1.5, "site": "A"}, None]


CSV = """country,continent,year,life,code,pop
Peru,America,1952,43.9,01,8.0
Chad,Africa,1952,38.1,02,
Peru,America,1957,46.3,01,8.0
Chad,Africa,1957,39.9,02,
"""


def csv_file(folder: Path, text: str = CSV) -> Path:
    (folder / "life.csv").write_text(text)
    return folder / "life.csv"


@pytest.mark.usefixtures("in_columns")
def test_a_column_of_a_csv_is_a_tag_of_its_groups(tmp_path: Path) -> None:
    """Numbers where all cells are, codes as text, nothing where a cell is empty; without the options none is one."""
    path = csv_file(tmp_path)
    named = Instructions(tags=("pop", "country"))
    assert tags(readers.from_file(path, COLUMNS, instructions=Instructions(all_tags=True))) == [
        {"continent": "America", "code": "01", "pop": 8.0},
        {"continent": "Africa", "code": "02", "pop": None},
    ]
    assert tags(readers.from_file(path, COLUMNS, instructions=named)) == [
        {"country": "Peru", "pop": 8.0},
        {"country": "Chad", "pop": None},
    ]
    assert tags(readers.from_file(path, COLUMNS)) == [None, None]
    with pytest.raises(InputError, match=r"life.csv: no column 'cont' \(--tag\); there are country, continent, year"):
        readers.from_file(path, COLUMNS, instructions=Instructions(tags=("cont",)))


def test_a_column_that_stands_twice_is_no_tag(tmp_path: Path) -> None:
    """Nobody can know which one is meant; where it is not asked for, nobody minds."""
    path = csv_file(tmp_path, CSV.replace("pop", "code"))
    with pytest.raises(InputError, match=r"life.csv: the header has 'code' \(a tag\) more than once"):
        readers.from_file(path, COLUMNS, instructions=Instructions(tags=("code",)))
    assert tags(readers.from_file(path, COLUMNS)) == [None, None]


@pytest.mark.parametrize(("cell", "other"), [("Asia", "'Asia'"), ("", "''")])
def test_a_tag_that_differs_within_a_group_is_named(tmp_path: Path, cell: str, other: str) -> None:
    """Group, column, both values and the line, blank lines counted."""
    lines = CSV.splitlines()
    lines[3] = lines[3].replace("America", cell)
    path = csv_file(tmp_path, "\n".join([*lines[:2], "", *lines[2:]]))
    message = (
        f"life.csv:5: job 'Peru': continent = {other}: a tag is the same in all rows of a group, and 'America' came before"
    )
    with pytest.raises(JobError, match=message):
        rows(readers.from_file(path, COLUMNS, instructions=Instructions(tags=("continent",))))


# Large jobs.


@pytest.mark.parametrize("write", [as_jsonl, *TABLES])
def test_a_job_of_millions_of_points_is_a_batch_and_a_chunk_of_its_own(tmp_path: Path, write: Write) -> None:
    """Whatever the file, and between small ones."""
    points = np.arange(2_500_000.0)
    jobs = (
        [{"x": points.tolist(), "y": points.tolist()}]
        if write is as_npz
        else [XY, {"x": points.tolist(), "y": points.tolist()}, XY]
    )
    chunks = list(plan(readers.from_file(write(tmp_path, jobs))))
    (large,) = [chunk for chunk in chunks if len(chunk.jobs["x"].flatten()) > len(points) // 2]
    assert len(large.jobs) == 1
    assert (large.jobs["x"].flatten().to_numpy() == points).all()
    assert sum(len(chunk.jobs) for chunk in chunks) == len(jobs)
