"""Files that scripts read: round trips, and no NaN in text."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from fitq.results.targets import choose_files, format_of, is_folder
from fitq.results.traces import LABELLED_SCHEMA
from fitq.results.writers import FORMATS, writing
from fitq_shared.errors import FileError
from fitq_shared.jobs.schemas import RESULT_SCHEMA

NAN, INF = math.nan, math.inf


@pytest.fixture
def results() -> pa.Table:
    """A good fit, one with numbers that are not finite, one with nothing, of three degrees."""
    rows: list[dict[str, Any]] = [
        {"id": "a", "coefficients": [1.0, 2.0, 3.0], "stderr": [0.1, NAN, 0.3], "domain": [0.0, 1.0], "loss": 0.5},
        {"id": "b", "coefficients": [INF, 5.0], "stderr": None, "domain": [NAN, 1.0], "loss": NAN},
        {"id": 'c, "quoted"', "coefficients": None, "loss": None},
    ]
    full = [{"index": index, "status": "converged", **row} for index, row in enumerate(rows)]
    return pa.Table.from_pylist(full, RESULT_SCHEMA)


@pytest.fixture
def traces() -> pa.Table:
    rows = [
        {"index": 0, "id": "a", "step": [0, 10], "loss": [4.0, 2.0]},
        {"index": 1, "id": "b", "step": [0], "loss": [INF]},
    ]
    return pa.Table.from_pylist(rows, LABELLED_SCHEMA)


def write(table: pa.Table, target: str | Path, format: str | None = None) -> None:
    """Write a table with a batch for each row, as rows come from a submission: in several batches, some of them slices."""
    with writing(target, table.schema, format) as append:
        for row in range(table.num_rows):
            append(table.slice(row, 1).to_batches()[0])


@pytest.fixture
def tagged() -> pa.Table:
    """Batches as chunks make them, each with dictionaries of its own, of results with tags of several types."""
    tags = [
        {"site": 'A "1"', "lat": 1, "sea": True, "odd": 1},
        None,
        {"lat": 2.5, "sea": None, "odd": "b"},
        {"site": "C", "lat": None, "huge": 10**30},
    ]
    rows = [
        {
            "index": n,
            "id": str(n),
            "status": "converged",
            "device": f"cuda:{n}",
            "basis": ["power", "legendre", None, "power"][n],
        }
        | {"tags": tags[n] and json.dumps(tags[n])}
        for n in range(4)
    ]
    batches = [pa.RecordBatch.from_pylist(rows[start : start + 2], RESULT_SCHEMA) for start in (0, 2)]
    assert batches[0]["device"].dictionary != batches[1]["device"].dictionary
    return pa.Table.from_batches(batches)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_parquet_keeps_everything(results: pa.Table, tmp_path: Path) -> None:
    """The same table comes back."""
    write(results, tmp_path / "r.parquet")
    found = parquet.read_table(tmp_path / "r.parquet")
    assert found.schema == results.schema
    assert str(found.to_pylist()) == str(results.to_pylist())  # as text, in which NaN equals NaN


def test_jsonl_has_null_for_what_is_missing_or_not_finite(results: pa.Table, tmp_path: Path) -> None:
    """One strict JSON object a line with every field of a result."""
    write(results, tmp_path / "r.jsonl")
    a, b, c = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert list(a) == RESULT_SCHEMA.names
    assert (a["coefficients"], a["stderr"]) == ([1.0, 2.0, 3.0], [0.1, None, 0.3])
    assert (b["coefficients"], b["loss"]) == ([None, 5.0], None)
    assert c["coefficients"] is None


def test_json_is_one_document_with_a_version(results: pa.Table, tmp_path: Path) -> None:
    """For scripts that read a whole file."""
    facts: dict[str, object] = {}
    with writing(tmp_path / "r.json", results.schema, facts=facts) as append:
        for batch in results.to_batches(2):
            append(batch)
        facts["cursor"] = "7-0"  # known at the end only
    document = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert (document["schema"], document["cursor"]) == (1, "7-0")
    assert [row["id"] for row in document["rows"]] == results["id"].to_pylist()


def test_words_of_few_kinds_are_text_in_every_format(tagged: pa.Table, tmp_path: Path) -> None:
    """Whatever numbers stand for them in a batch."""
    basis, device = ["power", "legendre", None, "power"], [f"cuda:{n}" for n in range(4)]
    for format in FORMATS:
        with writing(tmp_path / f"r.{format}", tagged.schema) as append:
            for batch in tagged.to_batches():
                append(batch)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    for rows in (lines, json.loads((tmp_path / "r.json").read_text())["rows"]):
        assert ([row["basis"] for row in rows], [row["device"] for row in rows]) == (basis, device)
    cells = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [(row["basis"] or None, row["device"]) for row in cells] == list(zip(basis, device, strict=True))
    table = parquet.read_table(tmp_path / "r.parquet")
    assert (table["basis"].to_pylist(), table["device"].to_pylist()) == (basis, device)


def test_tags_are_objects_in_json_and_text_in_parquet(tagged: pa.Table, tmp_path: Path) -> None:
    """Never text within text."""
    texts = tagged["tags"].to_pylist()
    for format in ("jsonl", "json", "parquet"):
        write(tagged, tmp_path / f"r.{format}")
    expected = [text and json.loads(text) for text in texts]
    assert [json.loads(line)["tags"] for line in (tmp_path / "r.jsonl").read_text().splitlines()] == expected
    assert [row["tags"] for row in json.loads((tmp_path / "r.json").read_text())["rows"]] == expected
    assert parquet.read_table(tmp_path / "r.parquet")["tags"].to_pylist() == texts


def test_csv_has_a_column_for_each_tag(tagged: pa.Table, tmp_path: Path) -> None:
    """Numbers are numbers, a tag of several types is text, and what a row has not is empty."""
    write(tagged, tmp_path / "r.csv")
    text = (tmp_path / "r.csv").read_text().splitlines()
    rows = [{name: cell for name, cell in row.items() if name.startswith("tag")} for row in csv.DictReader(text)]
    assert rows == [
        {"tag.site": 'A "1"', "tag.lat": "1", "tag.sea": "true", "tag.odd": "1", "tag.huge": ""},
        {"tag.site": "", "tag.lat": "", "tag.sea": "", "tag.odd": "", "tag.huge": ""},
        {"tag.site": "", "tag.lat": "2.5", "tag.sea": "", "tag.odd": "b", "tag.huge": ""},
        {"tag.site": "C", "tag.lat": "", "tag.sea": "", "tag.odd": "", "tag.huge": str(10**30)},
    ]
    assert ',"A ""1""",1,true,"1",' in text[1]


def test_csv_has_a_column_for_each_power(results: pa.Table, tmp_path: Path) -> None:
    """Lower degrees leave higher powers empty, as does what is not finite; other lists are JSON."""
    write(results, tmp_path / "r.csv")
    a, b, c = csv.DictReader((tmp_path / "r.csv").read_text().splitlines())
    assert [(row["c2"], row["c1"], row["c0"]) for row in (a, b, c)] == [("1", "2", "3"), ("", "", "5"), ("", "", "")]
    assert (a["stderr_c2"], a["stderr_c1"], a["domain"], b["domain"]) == ("0.1", "", "[0.0,1.0]", "[null,1.0]")
    assert (b["loss"], c["id"]) == ("", 'c, "quoted"')


def test_values_under_a_null_are_no_values(tmp_path: Path) -> None:
    """An engine writes numbers of all fits and says afterwards which of them count."""
    lists = pa.ListArray.from_arrays(
        pa.array([0, 2, 4], pa.int32()), pa.array([1.0, 2.0, 3.0, 4.0]), mask=pa.array([True, False])
    )
    rows = [{"index": n, "id": str(n), "status": "invalid"} for n in range(2)]
    batch = pa.RecordBatch.from_pylist(rows, RESULT_SCHEMA)
    batch = batch.set_column(RESULT_SCHEMA.names.index("stderr"), "stderr", lists)
    write(pa.Table.from_batches([batch]), tmp_path / "r.csv")
    found = [(row["stderr_c1"], row["stderr_c0"]) for row in csv.DictReader((tmp_path / "r.csv").read_text().splitlines())]
    assert found == [("", ""), ("3", "4")]


def test_traces_in_csv_have_a_row_for_each_step(traces: pa.Table, tmp_path: Path) -> None:
    """Long form, as plotting tools want it."""
    write(traces, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        '"index","id","step","loss"', '0,"a",0,4', '0,"a",10,2', '1,"b",0,'
    ]  # fmt: skip


def test_standard_output_gets_each_batch_at_once(
    results: pa.Table, traces: pa.Table, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Lines of results, and rows of traces in CSV, are there before the block ends."""
    with writing("-", results.schema) as append:
        append(results.to_batches()[0].slice(0, 1))
        assert [json.loads(line)["id"] for line in capfdbinary.readouterr().out.splitlines()] == ["a"]
        append(results.to_batches()[0].slice(1, 1))
        assert [json.loads(line)["id"] for line in capfdbinary.readouterr().out.splitlines()] == ["b"]
    with writing("-", traces.schema, "csv") as append:
        append(traces.to_batches()[0].slice(0, 1))
        assert capfdbinary.readouterr().out.splitlines()[1:] == [b'0,"a",0,4', b'0,"a",10,2']


def test_small_batches_share_a_row_group(results: pa.Table, tmp_path: Path) -> None:
    """A Parquet file of a thousand small chunks is as good to read as one of a large one."""
    write(results, tmp_path / "r.parquet")
    assert parquet.ParquetFile(tmp_path / "r.parquet").num_row_groups == 1


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows_can_be_written_in_every_format(results: pa.Table, traces: pa.Table, tmp_path: Path, format: str) -> None:
    """A submission without results so far is no special case."""
    for table in (results, traces):
        write(table.slice(0, 0), tmp_path / "empty", format)
        assert (tmp_path / "empty").exists()


def test_a_failed_write_leaves_the_old_file_alone(results: pa.Table, tmp_path: Path) -> None:
    """Readers see the old file or the new one, never half of one, and no temporary file stays."""
    write(results, tmp_path / "r.jsonl")
    before = (tmp_path / "r.jsonl").read_bytes()
    unwritable = results.append_column("pairs", pa.array([{"a": 1}] * 3))
    with pytest.raises(pa.ArrowInvalid, match="Unsupported Type"):
        write(unwritable, tmp_path / "r.jsonl", "csv")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("r.jsonl", before)]


def test_unknown_formats_and_places_are_named(results: pa.Table, tmp_path: Path) -> None:
    """The suffix that is not known, the folder that is not there."""
    with pytest.raises(FileError, match=r"r.xlsx: unknown format '.xlsx'; known are .parquet, .jsonl"):
        write(results, tmp_path / "r.xlsx")
    with pytest.raises(FileError, match=r"cannot write .*none/r.csv: No such file"):
        write(results, tmp_path / "none" / "r.csv")


def test_a_run_writes_where_its_output_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file gives both names, a path without a suffix is a folder; without any it is named after the input."""
    monkeypatch.chdir(tmp_path)
    assert choose_files("deep/r.jsonl", "a.csv") == (Path("deep/r.jsonl"), Path("deep/r-traces.jsonl"))
    assert choose_files("out", "a.csv") == (Path("out/results.parquet"), Path("out/traces.parquet"))
    assert choose_files(None, "data/a.csv")[0] == Path("a-results/results.parquet")
    assert (
        choose_files(None, "-")
        == choose_files(None, None)
        == (Path("fitq-results/results.parquet"), Path("fitq-results/traces.parquet"))
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-results", "deep", "fitq-results", "out"]
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="name another one"):
        choose_files("file", None)
    with pytest.raises(FileError, match=r"standard output \(-\) cannot take both"):
        choose_files("-", None)
    with pytest.raises(FileError, match=r"results.xlsx: unknown format"):
        choose_files("results.xlsx", None)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("-", False),
        ("r.parquet", False),
        ("r.NDJSON", False),
        ("r.xlsx", False),
        ("out", True),
        ("run.1", True),
        ("life.csv-fits", True),
        ("r.csv/", True),
    ],
)
def test_one_rule_tells_a_folder_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, found: bool
) -> None:
    """By the path alone; a folder that is there is one, whatever its name."""
    monkeypatch.chdir(tmp_path)
    assert is_folder(output) == found
    (tmp_path / "old.csv").mkdir()
    assert is_folder("old.csv")


def test_newline_delimited_json_is_jsonl(tmp_path: Path) -> None:
    """Under both of its usual suffixes; traces lie beside results."""
    results, traces = choose_files(tmp_path / "r.ndjson", None)
    assert (results.name, traces.name) == ("r.ndjson", "r-traces.ndjson")
    assert format_of(results) == format_of("-") == "jsonl"
