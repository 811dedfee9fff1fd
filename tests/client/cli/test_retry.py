"""`fitq retry` and `fitq results --history`: what people and scripts see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pyarrow import parquet

from fitq.cli.exit_codes import BAD_INPUT, CANCELLED, FAILED_FITS, FAILURE, OK, TIMEOUT
from fitq_shared.settings import Settings
from fitq_shared.store.submitting import SubmittingStore

Fitq = Callable[..., Result]
Finish = Callable[..., None]

LINES = [
    {"id": "good", "x": [0, 1, 2], "y": [1, 3, 5], "degree": 1},
    {"id": "bad", "x": [0, None], "y": [1, 2], "degree": 1, "tags": {"site": "A"}},
    {"id": "short", "x": [0, 1, 2], "y": [1, 3, 5], "degree": 1},
]


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A file of jobs of which one fails and one falls short."""
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    return path


@pytest.fixture
def finished(fitq: Fitq, jobs: Path, finish: Finish) -> str:
    """The id of a finished submission of that file."""
    submission = fitq("submit", jobs).stdout.strip()
    finish(submission)
    return submission


def statuses(fitq: Fitq, submission: str) -> dict[str, str]:
    rows = [json.loads(line) for line in fitq("results", submission).stdout.splitlines()]
    return {row["id"]: row["status"] for row in rows}


def test_failed_jobs_are_retried_by_default(fitq: Fitq, finished: str, finish: Finish) -> None:
    """The line says what runs, `status`, `wait` and `watch` follow it, the exit codes are those of all fits."""
    assert fitq("wait", finished).exit_code == FAILED_FITS
    done = fitq("retry", finished, "--set", "missing=drop")
    assert done.exit_code == OK
    assert done.stdout.startswith(f"{finished}  retrying  3 of 3 fits  1 being retried  ")
    assert done.stderr.splitlines()[0] == "1 job is fitted again; next:"
    assert "1 being retried" in fitq("status", finished).stdout
    assert fitq("wait", finished, "--timeout", "0.1").exit_code == TIMEOUT
    assert "1 are being retried" in fitq("wait", finished, "--timeout", "0.1").stderr
    assert "retrying" in fitq("ls").stdout
    assert "not finished" in fitq("results", finished).stderr
    again = json.loads(fitq("retry", finished, "--failed", "--json").stdout)
    assert (again["retried"], again["retried_before"], again["retrying"], again["finished"]) == (0, 1, 1, False)
    finish(finished)
    assert fitq("wait", finished).exit_code == OK
    assert fitq("watch", finished).exit_code == OK
    assert statuses(fitq, finished) == {"good": "converged", "bad": "converged", "short": "max_steps"}


def test_jobs_of_a_status_come_from_the_input(fitq: Fitq, finished: str, finish: Finish, jobs: Path) -> None:
    """With the options of `submit`; without the input the message says how many it lacks and what to type."""
    lacking = fitq("retry", finished, "--status", "max_steps", "--set", "steps=5000")
    assert lacking.exit_code == BAD_INPUT
    assert f"{finished} has not kept 1 of the 1 jobs" in lacking.stderr
    assert f"`fitq retry {finished} INPUT`" in lacking.stderr
    done = fitq("retry", finished, jobs, "--status", "max_steps", "--set", "steps=5000")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (OK, "1 job is fitted again; next:")
    finish(finished)
    assert statuses(fitq, finished) == {"good": "converged", "bad": "invalid", "short": "converged"}
    jobs.write_text(jobs.read_text().replace("good", "other"))
    other = fitq("retry", finished, jobs, "--id", "good")
    assert other.exit_code == BAD_INPUT
    assert "job 0 of the input is 'other', not 'good'" in other.stderr


def test_several_statuses_and_ids(fitq: Fitq, finished: str, jobs: Path) -> None:
    """Each option is repeatable; --failed and --status go together."""
    done = fitq("retry", finished, jobs, "--failed", "--status", "max_steps", "--json")
    assert json.loads(done.stdout)["retried"] == 2
    fitq("cancel", finished)
    done = fitq("retry", finished, jobs, "--id", "good", "--id", "bad", "--json")
    assert json.loads(done.stdout)["retried"] == 2


def test_a_cancelled_retry_leaves_a_finished_submission(fitq: Fitq, finished: str) -> None:
    """It is no cancelled one: every job has a result."""
    fitq("retry", finished)
    done = fitq("cancel", finished)
    assert (done.exit_code, "finished  3 of 3 fits" in done.stdout) == (OK, True)
    assert fitq("wait", finished).exit_code == FAILED_FITS


def test_a_retried_submission_that_was_cancelled_says_so_at_the_end(fitq: Fitq, tmp_path: Path, finish: Finish) -> None:
    """Some of its jobs were never fitted."""
    path = tmp_path / "two.jsonl"
    path.write_text('{"id": "bad", "polynomial": [1], "degree": 1}\n{"polynomial": [1], "degree": 0}\n')
    submission = fitq("submit", path).stdout.strip()
    finish(submission, 0)
    fitq("cancel", submission)
    assert fitq("retry", submission, "--set", "missing=drop").exit_code == OK
    assert fitq("status", submission).stdout.startswith("retrying  1 of 2 fits  1 being retried")
    finish(submission, 2)
    assert fitq("wait", submission).exit_code == CANCELLED
    assert statuses(fitq, submission) == {"bad": "converged"}


def test_the_history_of_a_job(fitq: Fitq, finished: str, finish: Finish, tmp_path: Path) -> None:
    """All of its results in each format, with the number of the attempt before all else."""
    fitq("retry", finished, "--set", "missing=drop")
    finish(finished)
    lines = [json.loads(line) for line in fitq("results", finished, "--id", "bad", "--history").stdout.splitlines()]
    assert [(line["attempt"], line["status"], line["tags"]) for line in lines] == [
        (1, "invalid", {"site": "A"}),
        (2, "converged", {"site": "A"}),
    ]
    assert next(iter(lines[0])) == "attempt"
    newest = json.loads(fitq("results", finished, "--id", "bad").stdout)
    assert newest == {name: value for name, value in lines[1].items() if name != "attempt"}
    cells = fitq("results", finished, "--id", "bad", "--history", "--format", "csv").stdout.splitlines()
    assert cells[0].startswith('"attempt","index","id"')
    assert fitq("results", finished, "--id", "bad", "--history", "-o", tmp_path / "h.parquet").exit_code == OK
    assert parquet.read_table(tmp_path / "h.parquet")["attempt"].to_pylist() == [1, 2]
    for wrong in (["--history"], ["--history", "--id", "bad", "--traces"]):
        assert fitq("results", finished, *wrong).exit_code == BAD_INPUT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "lost"], "status = 'lost': expected one of converged, max_steps"),
        (["--id", "nobody"], "no job 'nobody'"),
        (["--id", "bad", "--failed"], "--id names jobs whatever their status"),
        (["--id", "bad", "--status", "error"], "--id names jobs whatever their status"),
        (["--lr", "0.1"], "--lr says how to read INPUT, and there is none; --set changes jobs that are kept"),
        (["--group", "a"], "--group says how to read INPUT"),
        (["--tags"], "--tags says how to read INPUT"),
        (["--set", "lr=-1"], "changes: lr = -1.0: expected `float` > 0"),
        (["--set", "lr=1", "--set", "lr=2"], "--set gives lr two values"),
        (["--set", "x=1"], "expected FIELD=VALUE"),
        (["--set", "nesterov=true"], "job 'bad': nesterov = True: momentum must be above 0"),
        (["none.jsonl", "--failed"], "No such file"),
    ],
)
def test_what_cannot_be_retried_is_exit_code_2_and_nothing_is(
    fitq: Fitq, finished: str, store: SubmittingStore, arguments: list[str], message: str
) -> None:
    """One message, no traceback."""
    done = fitq("retry", finished, *arguments)
    assert (done.exit_code, done.stdout, message in done.stderr) == (BAD_INPUT, "", True), done.stderr
    assert "Traceback" not in done.stderr
    assert store.manifest(finished).finished


def test_a_submission_that_is_not_there_or_still_open(fitq: Fitq, store: SubmittingStore, settings: Settings) -> None:
    """Mistyped is bad input; one that is still being submitted can be retried later."""
    assert fitq("retry", "nobody").exit_code == BAD_INPUT
    store.open("open", "")
    early = fitq("retry", "open")
    assert (early.exit_code, "still being submitted" in early.stderr) == (FAILURE, True)
    assert "`fitq status open`" in early.stderr


def test_nothing_to_retry_is_fine(fitq: Fitq, finished: str) -> None:
    """It says so."""
    done: Any = fitq("retry", finished, "--status", "stalled")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (OK, "nothing to retry")
