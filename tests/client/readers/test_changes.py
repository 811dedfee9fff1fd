"""Jobs that were submitted once are read again, with changes, as if they had been written so."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fitq import readers
from fitq.readers import changes as changes_module
from fitq.readers.changes import change_jobs, check_changes
from fitq.submitting.sample_sets import share_sets
from fitq_shared.errors import JobError
from fitq_shared.jobs.rows import Rows, join

NAN = float("nan")
#: Jobs of every kind there is.
JOBS: list[dict[str, Any]] = [
    {"id": "explicit", "x": [0.0, 1.0, 2.0], "y": [1.0, 3.0, 5.0], "weights": [1.0, 2.0, 1.0], "lr": 0.5},
    {"id": "missing", "x": [0.0, None, 2.0], "y": [1.0, NAN, 5.0], "missing": "drop"},
    {"id": "nothing", "x": [NAN, NAN], "y": [1.0, 2.0], "tags": {"site": "A", "n": 1}},
    {"id": "empty", "x": [], "y": []},
    {"id": "drawn", "polynomial": [1.0, 2.0], "seed": 7},
    {"id": "drawn-apart", "polynomial": [1.0], "samples": {"count": 9, "noise": 0.5, "seed": 3}, "seed": 8},
    {"id": "begun", "polynomial": [1.0, 2.0], "degree": 1, "init": [1.0, 2.0]},
    {"id": "optimal", "polynomial": [1.0, 2.0], "init": "exact", "restarts": 3},
    {"id": "second-order", "polynomial": [1.0, 2.0], "optimizer": "lbfgs"},
    {"id": "decayed", "polynomial": [1.0, 2.0], "optimizer": "adamw", "weight_decay": 0.5},
    {"id": "robust", "polynomial": [1.0, 2.0], "loss": "huber", "delta_sigma": 1.345, "ftol": 1e-3, "gtol": 0.0},
]


def read(jobs: list[dict[str, Any]]) -> pa.RecordBatch:
    """The jobs as they are submitted."""
    (batch,) = readers.from_jobs(jobs)
    return batch


def changed(rows: Rows, **changes: object) -> list[dict[str, Any]]:
    """The jobs with the changes, by position."""
    found = [job for batch in change_jobs(rows, changes) for job in batch.to_pylist()]
    return sorted(found, key=lambda job: int(job["index"]))


def as_text(jobs: list[dict[str, Any]]) -> list[str]:
    """Jobs as text, in which NaN equals NaN."""
    return list(map(str, jobs))


@pytest.mark.parametrize("changes", [{}, {"steps": 77}, {"lr": 0.25}, {"optimizer": "lbfgs"}, {"optimizer": "adagrad"}])
def test_changed_jobs_are_those_that_would_have_been_submitted_so(changes: dict[str, Any]) -> None:
    """Every other field stays as it was; defaults of an optimizer give way to those of another one."""
    expected = read([{name: value for name, value in job.items() if name not in changes} | changes for job in JOBS])
    assert as_text(changed(Rows(read(JOBS)), **changes)) == as_text(expected.to_pylist())


def test_positions_tags_and_places_stay(tmp_path: Any) -> None:
    """Some rows of a file, in another order: each keeps what tells where it came from."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"polynomial": [1]}\n\n{"x": [1, null], "y": [1, 2], "tags": {"n": 1}}\n{"polynomial": [2]}\n')
    (batch,) = readers.from_jsonl(path)
    some = Rows(batch.take([2, 1]))
    for changes in ({}, {"lr": 0.5}):
        found = changed(some, **changes)
        assert [(job["index"], job["id"], job["tags"]) for job in found] == [(1, "1", '{"n":1}'), (2, "2", None)]
        assert [job["place"] for job in found] == [f"{path}:3", None]


@pytest.mark.parametrize("samples", [1, 5, 10**6])
@pytest.mark.parametrize("changes", [{}, {"steps": 5}])
def test_each_job_gets_its_own_samples(samples: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of those that jobs share, however few are taken at once."""
    monkeypatch.setattr(changes_module, "BATCH_SAMPLES", samples)
    points = {"x": [0.0, 1.0, 2.0], "y": [1.0, 3.0, 5.0], "weights": [1.0, 2.0, 1.0]}
    sweep = [{**points, "lr": 0.1 + n} for n in range(4)]
    jobs = read([*sweep, {"polynomial": [1.0]}, {"x": [9.0], "y": [1.0]}])
    shared = share_sets(Rows(jobs.slice(0, len(sweep))))
    assert shared.sets is not None
    found = changed(join([Rows(jobs.slice(len(sweep))), shared]), **changes)
    assert found == [job | changes for job in jobs.to_pylist()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0}, "changes: lr = 0: expected `float` > 0"),
        ({"steps": 1.5}, "changes: steps = 1.5: expected `int`"),
        ({"loss": "hinge"}, "changes: loss = 'hinge'"),
        ({"rate": 1}, "changes: rate = 1: no such field"),
        ({"id": "other"}, "changes: id = 'other': is each job's own and cannot be changed"),
        ({"samples": {"count": 3}}, "samples = .*each job's own"),
        ({"ridge": float("inf")}, "changes: ridge = inf: finite numbers"),
    ],
)
def test_changes_that_no_job_may_have_are_refused(changes: dict[str, object], message: str) -> None:
    """Before any job is looked at."""
    with pytest.raises(JobError, match=message):
        check_changes(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"degree": 2}, "job 'begun': init = .*degree \\+ 1 = 3 numbers"),
        ({"delta": 2.0}, "job 'robust': delta_sigma = 1.345: give delta or delta_sigma"),
        ({"nesterov": True}, "nesterov = True: momentum must be above 0"),
        ({"restarts": 1000, "steps": 1_000_000, "trace": "full"}, "losses to keep"),
    ],
)
def test_a_job_that_breaks_a_rule_with_the_changes_is_named(changes: dict[str, object], message: str) -> None:
    """As a bad line of a file is."""
    with pytest.raises(JobError, match=message):
        changed(Rows(read(JOBS)), **changes)


def test_a_start_may_be_changed(tmp_path: Any) -> None:
    """To the optimum, or to coefficients."""
    drawn = Rows(read([{"polynomial": [1.0, 2.0], "degree": 1, "init": init} for init in (None, "exact", [3.0, 4.0])]))
    assert [job["init_exact"] for job in changed(drawn, init="exact")] == [True] * 3
    assert [job["init"] for job in changed(drawn, init=[1.0, 2.0])] == [[1.0, 2.0]] * 3
    assert [(job["seed"], job["samples_seed"]) for job in changed(drawn, seed=5)] == [(5, 0)] * 3
