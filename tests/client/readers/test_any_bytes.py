"""Whatever is in a file, a reader gives jobs that a worker accepts, or says what is wrong; it never does anything else."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from fitq.readers import Columns, from_file, from_jobs
from fitq.submitting.planner import plan
from fitq_shared.errors import FitqError
from fitq_shared.jobs.frame_rules import check_jobs

CASES = Path(__file__).parents[2] / "data" / "fuzz" / "files"
JOBS: list[dict[str, Any]] = [
    {"id": "a", "x": [0.0, 1.5, None], "y": [1.0, 2.0, 3.0], "degree": 1, "tags": {"site": "A", "n": 1}},
    {"id": "b", "x": [0, 1, 2], "y": [1e300, -0.0, 5], "weights": [1, 0, 1], "loss": "huber", "lr": 0.5},
    {"id": "ä", "x": [], "y": [], "init": "exact", "optimizer": "lbfgs", "trace": "every:10"},
    {"polynomial": [1, 2, 3], "samples": {"count": 5, "noise": 0.1}, "seed": 3, "restarts": 2},
]
TABLE = pa.Table.from_pylist([{"id": job.get("id"), "x": job["x"], "y": job["y"], "steps": 20} for job in JOBS[:3]])


def jsonl() -> bytes:
    return "\n".join(json.dumps(job) for job in JOBS).encode()


def csv() -> bytes:
    return b'group,x,y,weights\na,0,1,1\na,1,"2.5",1\n"b ""c""",nan,3,\nb,2e3,,0\n'


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file, x=np.arange(12.0).reshape(4, 3), y=np.ones((4, 3)), degree=np.array(1), id=np.array(["a", "b", "c", "d"])
    )
    return file.getvalue()


def stored_npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.arange(6).reshape(2, 3), y=np.asfortranarray(np.ones((2, 3), np.float32)), seed=np.array([1, 2]))
    return file.getvalue()


def parquet_file() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(TABLE, sink)
    return bytes(memoryview(sink.getvalue()))


def arrow_stream() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return bytes(memoryview(sink.getvalue()))


def feather_file() -> bytes:
    sink = pa.BufferOutputStream()
    feather.write_feather(TABLE, sink)
    return bytes(memoryview(sink.getvalue()))


VALID: dict[str, Callable[[], bytes]] = {
    "jobs.jsonl": jsonl,
    "jobs.csv": csv,
    "packed.npz": npz,
    "jobs.npz": stored_npz,
    "jobs.parquet": parquet_file,
    "jobs.arrow": arrow_stream,
    "jobs.feather": feather_file,
}
valid = cache(lambda name: VALID[name]())

#: Pieces that tell a parser something.
PIECES = [
    b"", b"\0", b"\xff\xff\xff\xff", b"\x7f", b"\xef\xbb\xbf", b"\n", b"\r\n", b'"', b",", b"{", b"[", b"]]", b"null",
    b"NaN", b"-1", b"1e999", b"99999999999999999999", b"true", b'"\\ud800"', b'{"x": 1}', b"ARROW1", b"PAR1",
    b"PK\x05\x06", b"\x93NUMPY",
]  # fmt: skip
edit = st.tuples(st.integers(0, 10_000), st.integers(0, 12), st.binary(max_size=8) | st.sampled_from(PIECES))


def edited(text: bytes, edits: list[tuple[int, int, bytes]], length: int | None) -> bytes:
    """A text in which pieces are exchanged for others, perhaps cut."""
    for place, removed, piece in edits:
        start = place % (len(text) + 1)
        text = text[:start] + piece + text[start + removed :]
    return text if length is None else text[: length % (len(text) + 1)]


def read(path: Path) -> int:
    """Read a file to its end, as far as it is right, as a client does; the number of jobs that a worker would fit."""
    columns = Columns("group", "x", "y", "weights") if path.suffix == ".csv" else None
    count = 0
    with contextlib.suppress(FitqError):
        for rows in plan(from_file(path, columns)):
            rows.jobs.validate(full=True)
            check_jobs(rows)
            count += len(rows.jobs)
    return count


@pytest.mark.parametrize("name", VALID)
def test_the_files_that_are_changed_below_are_right(tmp_path: Path, name: str) -> None:
    """Else only the first error would ever be looked at."""
    path = tmp_path / name
    path.write_bytes(valid(name))
    assert read(path) >= 2


@pytest.mark.parametrize("name", VALID)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(edit, min_size=1, max_size=4), length=st.none() | st.integers(0, 10_000))
def test_a_file_that_is_changed_anywhere_gives_jobs_or_an_error(
    tmp_path: Path, name: str, edits: list[tuple[int, int, bytes]], length: int | None
) -> None:
    """Pieces exchanged, added, left out, and the end cut off."""
    path = tmp_path / name
    path.write_bytes(edited(valid(name), edits, length))
    read(path)


@pytest.mark.parametrize("name", VALID)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_any_bytes_give_jobs_or_an_error(tmp_path: Path, name: str, text: bytes) -> None:
    """Random ones, and such that tell a parser something."""
    path = tmp_path / name
    path.write_bytes(text)
    read(path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.decimals()
    | st.dates()
    | st.sampled_from([np.float32("nan"), np.array([1.0, np.nan]), np.int8(3), np.array("a"), np.ma.masked, object(), 1j])
    | st.sampled_from(["exact", "mse", "huber", "adam", "lbfgs", "step", "drop", "points:100", "every:0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner),
    max_leaves=6,
)
FIELDS = [
    "id",
    "x",
    "y",
    "weights",
    "polynomial",
    "samples",
    "degree",
    "loss",
    "optimizer",
    "steps",
    "init",
    "tags",
    "trace",
]
FIELDS += ["seed", "lr", "restarts", "patience", "delta", "missing", "nesterov", "covariance", "step_size", "unknown"]
job = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)


@settings(max_examples=400)
@given(st.sampled_from([{}, JOBS[0], JOBS[3]]), job)
def test_any_values_of_fields_give_a_job_or_an_error(known: dict[str, Any], fields: dict[str, Any]) -> None:
    """As people have them in Python."""
    with contextlib.suppress(FitqError):
        for rows in plan(from_jobs([{**known, **fields}])):
            check_jobs(rows)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["exact", "mse", "l1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=5), min_size=1, max_size=3))
def test_any_json_gives_jobs_or_an_error(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    """With the names of fields, and values of any kind."""
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n".join(json.dumps({**JOBS[0], "id": str(number), **line}) for number, line in enumerate(lines)))
    read(path)


@pytest.mark.parametrize("path", sorted(CASES.glob("*")), ids=lambda path: path.name)
def test_what_fuzzing_has_found_stays_mended(path: Path) -> None:
    """Each of these once gave neither."""
    read(path)


def test_what_make_fuzz_has_found_stays_mended(tmp_path: Path) -> None:
    """It writes lines that it stumbled over beside the other cases."""
    for found in CASES.parent.glob("jsonl/*"):
        path = tmp_path / "jobs.jsonl"
        path.write_bytes(found.read_bytes())
        read(path)


@pytest.mark.parametrize("number", ["sNaN", "Infinity", "1E+100"])
@pytest.mark.parametrize("field", ["id", "x", "degree", "lr", "tags"])
def test_decimal_numbers_that_are_no_floats_are_refused_or_missing(field: str, number: str) -> None:
    """Arithmetic with them raises."""
    value = [Decimal(number)] if field == "x" else Decimal(number)
    with contextlib.suppress(FitqError):
        list(plan(from_jobs([{**JOBS[0], field: value}])))
