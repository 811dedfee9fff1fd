"""One job at which the engine raises, or with which workers die, costs no other job its fit."""

from __future__ import annotations

import itertools

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.errors import DrainEnded
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import Status
from fitq_worker.chunks import isolation
from fitq_worker.chunks.isolation import Trials, after_death, fit_all, fit_in_parts, parse_trials
from fitq_worker.engine import Fitted, fit

JOBS, MAX_ATTEMPTS = 12, 3


class WorkerDied(BaseException):
    """Stands for the end of the process, which nothing in it survives."""


def rows_of(count: int = JOBS, **fields: object) -> Rows:
    """Jobs whose ids are their numbers."""
    jobs = [{"polynomial": [1.0, 2.0], "seed": seed, "steps": 5, "degree": 1, **fields} for seed in range(count)]
    return Rows(jobs_batch([msgspec.convert(job, FitJob).checked() for job in jobs]))


def fit_unless(bad: set[int], error: BaseException) -> isolation.Fit:
    """An engine that raises where one of these jobs is in its batch."""

    def fit_some(rows: Rows) -> Fitted:
        if bad & set(map(int, rows.jobs["id"].to_pylist())):
            raise error
        return fit(rows.jobs)

    return fit_some


def statuses(fitted: Fitted) -> dict[str, list[int]]:
    """Positions of the jobs by status."""
    found = fitted.results["status"].to_pylist()
    return {status: [place for place, each in enumerate(found) if each == status] for status in set(found)}


def assert_as_usual(fitted: Fitted, rows: Rows, but: set[int]) -> None:
    """Every job but those has the results and the trace that it has without any failure, and its own place."""
    usual = fit(rows.jobs)
    good = pa.array([place for place in range(len(rows.jobs)) if place not in but])
    assert fitted.results["id"].to_pylist() == usual.results["id"].to_pylist()
    assert fitted.results.take(good) == usual.results.take(good)
    assert fitted.traces.take(good) == usual.traces.take(good)


@given(st.sets(st.integers(0, JOBS - 1), max_size=4))
def test_jobs_at_which_the_engine_raises_end_as_errors_alone(bad: set[int]) -> None:
    rows = rows_of()
    fitted = fit_all(rows, fit_unless(bad, ValueError("no such thing")), "cpu")
    assert statuses(fitted).get(Status.ERROR, []) == sorted(bad)
    assert_as_usual(fitted, rows, bad)
    for place in bad:
        assert fitted.results["message"][place].as_py() == "the engine failed: ValueError: no such thing"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_a_job_for_which_there_is_too_little_memory_says_so(error: Exception) -> None:
    fitted = fit_all(rows_of(2), fit_unless({1}, error), "cpu")
    assert "more memory than this worker process may use" in fitted.results["message"][1].as_py()


def test_jobs_without_traces_keep_none_where_one_fails() -> None:
    """Either all jobs of a chunk have traces or none."""
    rows = rows_of(trace="none")
    assert len(fit_all(rows, fit_unless({3}, ValueError("no")), "cpu").traces) == 0


def test_an_engine_that_always_raises_is_not_asked_once_for_every_job() -> None:
    """A chunk of thousands would take minutes to fail."""
    rows, calls = rows_of(500), itertools.count()

    def fit_none(some: Rows) -> Fitted:
        next(calls)
        raise ValueError("broken")

    fitted = fit_all(rows, fit_none, "cpu")
    assert fitted.results["status"].to_pylist() == [Status.ERROR] * 500
    assert next(calls) < 200


def fit_with_deaths(rows: Rows, deadly: set[int]) -> tuple[Fitted, int]:
    """What the last of the workers gives that fit these rows one after the other, and how many died before it."""
    note, fit_some = b"", fit_unless(deadly, WorkerDied())

    def keep(trial: bytes) -> None:
        nonlocal note
        note = trial

    for deaths in range(1, 300):  # the first death was not noted
        trials = after_death(parse_trials(note, len(rows.jobs)), len(rows.jobs), deaths, MAX_ATTEMPTS)
        try:
            return fit_in_parts(rows, trials, deaths, fit_some, "cpu", keep), deaths
        except WorkerDied:
            continue
    raise AssertionError("it never ended")


@given(st.sets(st.integers(0, JOBS - 1), min_size=1, max_size=3))
def test_jobs_with_which_workers_die_end_as_errors_alone(deadly: set[int]) -> None:
    rows = rows_of()
    fitted, deaths = fit_with_deaths(rows, deadly)
    assert statuses(fitted)[Status.ERROR] == sorted(deadly)
    assert_as_usual(fitted, rows, deadly)
    assert deaths <= 1 + 5 * len(deadly)  # log2 of 12 is below 4, and once alone


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_is_given_up_after_as_many_deaths_as_the_settings_say(jobs: int) -> None:
    """However soon it is alone."""
    _, deaths = fit_with_deaths(rows_of(jobs), {0})
    assert deaths == MAX_ATTEMPTS


def test_where_every_job_kills_its_worker_the_deaths_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """From MAX_DEATHS on a part with which a worker dies is given up whole."""
    monkeypatch.setattr(isolation, "MAX_DEATHS", 6)
    fitted, deaths = fit_with_deaths(rows_of(64), set(range(64)))
    assert statuses(fitted) == {Status.ERROR: list(range(64))}
    assert deaths < 20


def test_a_healthy_chunk_whose_workers_were_killed_from_outside_is_fitted_whole() -> None:
    """It is only cut; nothing of it is given up, for no part was being fitted."""
    rows = rows_of()
    trials = Trials()
    for deaths in range(1, 10):
        trials = after_death(trials, JOBS, deaths, MAX_ATTEMPTS)
    fitted = fit_in_parts(rows, trials, 9, lambda some: fit(some.jobs), "cpu", lambda trial: None)
    assert_as_usual(fitted, rows, but=set())


def test_a_part_that_is_given_back_is_not_blamed() -> None:
    """Its worker was told to stop; the next one goes on as if the part had not been tried."""
    trials, notes = after_death(Trials(), JOBS, 1, MAX_ATTEMPTS), list[bytes]()
    with pytest.raises(DrainEnded):
        fit_in_parts(rows_of(), trials, 1, fit_unless({0}, DrainEnded("told to stop")), "cpu", notes.append)
    assert [parse_trials(note, JOBS).trying for note in notes] == [0, None]
    assert after_death(parse_trials(notes[-1], JOBS), JOBS, 1, MAX_ATTEMPTS) == trials


@pytest.mark.parametrize(
    "note", [b"", b"no JSON", b"[]", b'{"cuts": "x"}', b'{"cuts": [5, 3]}', b'{"cuts": [0]}', b'{"cuts": [99]}', b"\xff"]
)
def test_a_note_that_is_none_of_the_chunk_is_as_good_as_none(note: bytes) -> None:
    assert parse_trials(note, JOBS) == Trials()
