"""Load: job files of many kinds, each with the results that the engine gives here, without queue, server and faults."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import pyarrow as pa

from fitq.results.traces import label_steps
from fitq.submitting.upload import plan_jobs
from fitq_worker.engine import fit

Job: TypeAlias = dict[str, Any]
#: The rows of a table as text, by their position in the input: floats as the shortest digits that give the same bits.
Rows: TypeAlias = dict[int, list[str]]

#: Columns that say where a job was fitted, not how.
PLACE_COLUMNS = ("chunk", "device")


class Work(NamedTuple):
    """A file of jobs and what comes out of them."""

    name: str
    file: Path
    job_count: int
    results: Rows
    traces: Rows


def make_works(folder: Path) -> list[Work]:
    """One work of each kind; the same at every call."""
    return [make_work(folder, name) for name in _kinds()]


def make_work(folder: Path, name: str) -> Work:
    """One of them."""
    file, jobs = folder / f"{name}.jsonl", _kinds()[name]
    file.write_bytes(b"\n".join(map(msgspec.json.encode, jobs)))
    chunks, _ = plan_jobs(file)
    fitted = [fit(rows.jobs, sets=rows.sets) for rows in chunks]
    results = rows_by_position(each.results for each in fitted)
    traces = rows_by_position(label_steps(each.traces) for each in fitted if len(each.traces))
    return Work(name, file, len(jobs), results, traces)


def first_half(work: Work, folder: Path) -> Work:
    """A work of the first jobs of this one."""
    lines = work.file.read_bytes().splitlines()
    count = (len(lines) + 1) // 2
    file = folder / f"half-of-{work.name}.jsonl"
    file.write_bytes(b"\n".join(lines[:count]))
    results, traces = ({place: rows[place] for place in rows if place < count} for rows in (work.results, work.traces))
    return Work(f"half-of-{work.name}", file, count, results, traces)


def rows_by_position(batches: Iterable[pa.RecordBatch]) -> Rows:
    """Every row as text without its place; a position that comes twice has two texts."""
    rows: Rows = defaultdict(list)
    for batch in batches:
        kept = [name for name in batch.schema.names if name not in PLACE_COLUMNS]
        for row in batch.select(kept).to_pylist():
            rows[row["index"]].append(repr(row))
    return dict(rows)


def _kinds() -> dict[str, list[Job]]:
    return {
        "single": [{"polynomial": [1, 2, 3], "steps": 20}],
        "few": list(_generated(5, degree=3, steps=50, seed=10)),
        "given": list(_given(300)),
        "generated": list(_generated(400, degree=3, steps=60, seed=1000)),
        "shared": list(_shared(200)),
        "mixed": list(_mixed(240)),
        "bulk": list(_generated(3000, degree=2, steps=40, trace="none", seed=10_000)),
        "robust": list(_generated(1200, degree=4, loss="huber", steps=100, trace="none", seed=20_000)),
        # A second or so each, whatever code fits them: each step looks at every sample.
        "slow": list(_generated(2, degree=5, loss="huber", steps=300, samples={"count": 20_000}, seed=30_000)),
    }


def _generated(count: int, seed: int, **fields: Any) -> Iterator[Job]:
    yield from ({"polynomial": [1, 2, 3], "seed": seed + number, **fields} for number in range(count))


def _given(count: int) -> Iterator[Job]:
    draw = random.Random(1)
    for number in range(count):
        points = {axis: [draw.gauss(0.0, 3.0) for _ in range(12)] for axis in ("x", "y")}
        yield {"id": f"given-{number}", **points, "steps": 40, "trace": "none", "tags": {"site": f"s{number % 7}"}}


def _shared(count: int) -> Iterator[Job]:
    draw = random.Random(2)
    points = {axis: [draw.gauss(0.0, 3.0) for _ in range(60)] for axis in ("x", "y")}
    yield from ({**points, "lr": 0.001 * (number + 1), "steps": 30} for number in range(count))


def _mixed(count: int) -> Iterator[Job]:
    optimizers, losses = ("nadam", "adam", "sgd", "exact"), ("mse", "l1")
    for number, job in enumerate(_generated(count, seed=40_000, steps=25)):
        yield {**job, "degree": 1 + number % 3, "optimizer": optimizers[number % 4], "loss": losses[number % 8 // 4]}
