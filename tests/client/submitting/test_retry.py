"""Retries: the same ids again, from jobs that were kept or from the input, and all results are there at any time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import redis

from fitq import readers
from fitq.client import Client
from fitq.results.streams import RESULTS, TRACES, InputOrder
from fitq.submission import Submission
from fitq.submitting import retry, upload
from fitq_shared import queue
from fitq_shared.errors import (
    DifferentContent,
    InputError,
    JobError,
    JobNotFinished,
    JobNotFound,
    JobsNotKept,
    RetryRefused,
    ServerFull,
)
from fitq_shared.jobs.frames import decode, encode
from fitq_shared.jobs.schemas import JOB_SCHEMA, KEPT, RESULT_SCHEMA, SETS_SCHEMA, TRACE_SCHEMA, Status
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.submitting import SubmittingStore

Finish = Callable[..., None]

X, Y = [0.0, 1.0, None, 3.0], [1.0, 3.0, 5.0, 7.0]
#: Jobs of two degrees in turn, so of two chunks; of six, two fail and two fall short.
JOBS: list[dict[str, Any]] = [
    {"id": f"{name}-{number}", "x": X, "y": Y, "degree": number % 2, "lr": 0.5, "tags": {"n": number}}
    for number, name in enumerate(["good", "bad", "short", "short", "bad", "good"])
]


@pytest.fixture
def client(settings: Settings) -> Client:
    return Client(settings)


@pytest.fixture
def submission(client: Client, finish: Finish) -> Submission:
    """A finished submission of these jobs."""
    found = client.submit(JOBS)
    finish(found.id)
    return found


def waiting(fitting: FittingStore, submission: Submission) -> dict[str, dict[str, Any]]:
    """The jobs that are being retried, by id; this claims and gives back their chunks."""
    found: dict[str, dict[str, Any]] = {}
    done = set(fitting.committed_chunks(submission.id))
    for number in {entry.number for entry in fitting.index(submission.id)} - done:
        claim = fitting.claim(submission.id, number, "look")
        assert claim is not None
        fitting.give_back(submission.id, number, "look")
        jobs = decode(claim.jobs_frame, JOB_SCHEMA).to_pylist()
        if claim.sets_frame is not None:
            sets = decode(claim.sets_frame, SETS_SCHEMA).to_pylist()
            jobs = [job if job["sample_set"] is None else job | sets[job["sample_set"]] for job in jobs]
        found |= {job["id"]: job for job in jobs}
    return found


def statuses_of(submission: Submission) -> dict[str, str]:
    """Status by id, in the order of the input."""
    results = submission.results()
    return dict(zip(results["id"].to_pylist(), results["status"].to_pylist(), strict=True))


# Which jobs, and from where.


def test_failed_jobs_are_fitted_again_under_their_ids(
    submission: Submission, finish: Finish, fitting: FittingStore, store: SubmittingStore
) -> None:
    """They keep their place, samples and tags; the results that there are stay until they are replaced."""
    before = statuses_of(submission)
    assert submission.retry(changes={"missing": "drop"}) == (2, 0)
    manifest = submission.status()
    assert (manifest.finished, manifest.retrying, manifest.jobs, manifest.done_jobs) == (False, 2, 6, 6)
    assert statuses_of(submission) == before
    again = waiting(fitting, submission)
    assert {name: again[name]["index"] for name in again} == {"bad-1": 1, "bad-4": 4}
    assert {(job["lr"], job["missing"], tuple(job["x"])) for job in again.values()} == {(0.5, "drop", tuple(X))}
    assert again["bad-4"]["tags"] == '{"n":4}'
    finish(submission.id)
    manifest = submission.wait(timeout_seconds=5)
    assert manifest.statuses == {"converged": 4, "max_steps": 2}
    assert (manifest.jobs, manifest.done_jobs, manifest.chunks, manifest.done_chunks) == (6, 6, 2, 2)
    assert statuses_of(submission) == before | {"bad-1": "converged", "bad-4": "converged"}
    assert submission.results()["index"].to_pylist() == list(range(6))


def test_jobs_that_fail_again_are_retried_again(submission: Submission, finish: Finish) -> None:
    """Their history grows, the oldest first; the newest is the result."""
    for _ in range(2):
        assert submission.retry().jobs == 2
        finish(submission.id)
    assert submission.retry(["invalid"], changes={"missing": "drop"}).jobs == 2
    finish(submission.id)
    history = submission.history("bad-4")
    assert [row["attempt"] for row in history] == [1, 2, 3, 4]
    assert [row["status"] for row in history] == ["invalid"] * 3 + ["converged"]
    newest = submission.result("bad-4")
    assert "attempt" not in newest
    assert str(newest | {"attempt": 4}) == str(
        dict(sorted(history[-1].items(), key=lambda item: [*newest, "attempt"].index(item[0])))
    )
    assert submission.result("bad-4")["tags"] == {"n": 4}
    assert [row["attempt"] for row in submission.history("good-0")] == [1]
    assert submission.status().statuses == {"converged": 4, "max_steps": 2}


def test_jobs_that_were_not_kept_are_taken_from_the_input(
    submission: Submission, finish: Finish, fitting: FittingStore
) -> None:
    """By position and id; without it nothing is retried and the error says how many there are."""
    before = submission.status()
    with pytest.raises(JobsNotKept, match=r"has not kept 2 of the 4 jobs.*give the input once more"):
        submission.retry(["max_steps", "invalid"], changes={"steps": 5000})
    assert submission.status() == before
    assert submission.retry(["max_steps"], jobs=JOBS, changes={"steps": 5000}) == (2, 0)
    again = waiting(fitting, submission)
    assert {name: job["steps"] for name, job in again.items()} == {"short-2": 5000, "short-3": 5000}
    finish(submission.id)
    assert submission.status().statuses == {"converged": 4, "invalid": 2}


def test_the_input_may_be_a_file_that_is_read_as_far_as_it_is_needed(client: Client, finish: Finish, tmp_path: Path) -> None:
    """What comes after the last job that is wanted does not matter."""
    lines = [msgspec.json.encode(job).decode() for job in JOBS]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    submission = client.submit(path)
    finish(submission.id)
    assert submission.retry(["max_steps"], jobs=path).jobs == 2
    submission.cancel()
    batches = iter([next(readers.from_jsonl(path))])
    assert submission.retry(["max_steps"], jobs=batches).jobs == 2


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (JOBS[:3], "the input has 1 of the 2 jobs to retry"),
        ([*JOBS[:3], JOBS[3] | {"id": "other"}, *JOBS[4:]], "job 3 of the input is 'other', not 'short-3'"),
        ([job | {"id": f"{n}"} for n, job in enumerate(JOBS)], "job 2 of the input is '2', not 'short-2'"),
    ],
)
def test_another_input_is_refused(submission: Submission, jobs: list[dict[str, Any]], message: str) -> None:
    """Nothing is retried, and the results stay."""
    before = submission.status()
    with pytest.raises(InputError, match=rf"{message}; give the input it was submitted with"):
        submission.retry(["max_steps"], jobs=jobs)
    assert msgspec.structs.replace(submission.status(), retry_chunks=0) == before


def test_bad_input_far_down_takes_back_what_was_added(client: Client, finish: Finish, fitting: FittingStore) -> None:
    """The first chunks were on their way already."""
    jobs = [{"id": f"short-{number}", "polynomial": [1.0]} for number in range(20_000)]
    submission = client.submit(jobs)
    finish(submission.id)

    def broken() -> Iterator[pa.RecordBatch]:
        batches = list(readers.from_jobs(jobs))
        yield from batches[:-1]
        assert submission.status().retrying > 0
        raise JobError("broken")

    before = submission.status()
    with pytest.raises(JobError, match="broken"):
        submission.retry(["max_steps"], jobs=broken())
    assert (submission.status().finished, submission.status().retrying) == (True, 0)
    assert submission.status().statuses == before.statuses
    assert waiting(fitting, submission) == {}


def test_single_jobs_are_retried_whatever_their_status(submission: Submission, fitting: FittingStore) -> None:
    """Each once, even when it is named twice; one that is not there is said."""
    with pytest.raises(JobNotFound, match="no job 'nobody'"):
        submission.retry(ids=["bad-1", "nobody"])
    assert submission.retry(ids=["good-5", "bad-1", "good-5"], jobs=JOBS) == (2, 0)
    assert sorted(waiting(fitting, submission)) == ["bad-1", "good-5"]


def test_a_job_that_has_no_result_yet_cannot_be_retried(client: Client, finish: Finish) -> None:
    """Others of the same submission can, while it runs."""
    submission = client.submit(JOBS)
    finish(submission.id, 1)
    with pytest.raises(JobNotFinished, match="'bad-4' is not fitted yet"):
        submission.retry(ids=["bad-4"])
    assert submission.retry().jobs == 1
    finish(submission.id)
    assert submission.wait(timeout_seconds=5).done_jobs == 6
    assert [row["status"] for row in submission.history("bad-1")] == ["invalid"] * 2


def test_nothing_to_retry_is_no_error(submission: Submission, finish: Finish) -> None:
    """And changes nothing."""
    before = submission.status()
    assert submission.retry(["stalled", "diverged"]) == (0, 0)
    assert submission.retry([]) == (0, 0)
    assert submission.status() == before


def test_what_makes_no_sense_is_refused_before_anything_is_retried(submission: Submission, client: Client) -> None:
    """A status or field that does not exist, a value that no job may have, jobs that are still being added."""
    for arguments, message in (
        ({"statuses": ["lost"]}, "status = 'lost': expected one of converged"),
        ({"changes": {"colour": 1}}, "changes: colour = 1: no such field"),
        ({"changes": {"lr": -1}}, r"changes: lr = -1: expected `float` > 0"),
        ({"changes": {"x": [1.0]}}, "x = .*each job's own"),
        ({"changes": {"nesterov": True}}, "job 'bad-4': nesterov = True: momentum must be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            submission.retry(**arguments)
    assert submission.status().finished
    client.store.open("open", "")
    with pytest.raises(RetryRefused, match="still being submitted"):
        Submission(client.store, "open").retry()


# Again and again.


def test_a_job_that_is_being_retried_is_left_alone(submission: Submission, finish: Finish) -> None:
    """Its attempts come one after the other."""
    assert submission.retry() == (2, 0)
    assert submission.retry() == (0, 2)
    assert submission.retry(["invalid", "max_steps"], jobs=JOBS) == (2, 2)
    assert submission.status().retrying == 4
    finish(submission.id)
    assert submission.status().statuses == {"converged": 2, "invalid": 2, "max_steps": 2}
    assert [len(submission.history(job["id"])) for job in JOBS] == [1, 2, 2, 2, 2, 1]


def test_of_two_retries_at_once_one_is_told_to_try_again(
    submission: Submission, store: SubmittingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found the same jobs free; nothing is fitted twice."""
    kept = retry._kept

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(retry, "_kept", kept)
        assert submission.retry() == (2, 0)
        return kept(*arguments)

    monkeypatch.setattr(retry, "_kept", overtaken)
    with pytest.raises(RetryRefused, match="try again"):
        submission.retry()
    assert submission.status().retrying == 2
    assert submission.retry() == (0, 2)


def test_a_retry_that_was_killed_half_way_is_repeated(client: Client, finish: Finish, settings: Settings) -> None:
    """kill -9 between two chunks: every job is fitted again once in the end."""
    jobs: list[dict[str, Any]] = [{"id": f"bad-{number}", "polynomial": [1.0], "degree": number} for number in range(9)]
    submission = client.submit(jobs)
    finish(submission.id)
    code = f"""
import os, signal
from fitq.client import Client
from fitq_shared.store.retrying import RetryingStore
add, count = RetryingStore.add, 0
def add_and_die(*arguments):
    global count
    add(*arguments)
    count += 1
    if count == 4: os.kill(os.getpid(), signal.SIGKILL)
    return count
RetryingStore.add = add_and_die
Client().submission({submission.id!r}).retry()
"""
    environment = os.environ | settings.environment()
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert submission.status().retrying == 4
    assert submission.retry() == (5, 4)
    finish(submission.id)
    assert submission.wait(timeout_seconds=5).statuses == {"invalid": 9}
    assert [len(submission.history(job["id"])) for job in jobs] == [2] * 9


def test_a_full_server_leaves_what_was_added_to_be_fitted(
    client: Client, finish: Finish, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call adds the rest once there is room."""
    jobs = [{"id": f"bad-{number}", "polynomial": [1.0], "degree": number} for number in range(3)]
    submission = client.submit(jobs)
    finish(submission.id)
    enqueue = upload.enqueue

    def fill(*arguments: Any) -> None:
        enqueue(*arguments)
        redis_client.config_set("maxmemory", 1)

    monkeypatch.setattr(retry, "enqueue", fill)
    try:
        with pytest.raises(ServerFull):
            submission.retry()
    finally:
        redis_client.config_set("maxmemory", 0)
    monkeypatch.setattr(retry, "enqueue", enqueue)
    assert submission.status().retrying == 1
    assert submission.retry() == (2, 1)


def test_an_input_that_is_submitted_again_finds_its_submission_as_it_was(client: Client, finish: Finish) -> None:
    """Chunks of retries are not chunks of the input, whether they run or are done."""
    submission = client.submit(JOBS, key="night")
    finish(submission.id)
    submission.retry()
    assert client.submit(JOBS, key="night").id == submission.id
    assert not submission.status().finished
    finish(submission.id)
    assert client.submit(JOBS, resume=submission.id).status().statuses == {"converged": 2, "invalid": 2, "max_steps": 2}
    with pytest.raises(DifferentContent, match="has more"):
        client.submit([*JOBS, JOBS[0] | {"id": "more", "degree": 5}], key="night")


def test_a_cancelled_retry_leaves_the_results_there_are(submission: Submission, finish: Finish) -> None:
    """The submission is as it was, its jobs can be retried again."""
    before = submission.status()
    submission.retry()
    assert submission.cancel() == msgspec.structs.replace(before, retry_chunks=2)
    assert [row["attempt"] for row in submission.history("bad-1")] == [1]
    assert submission.retry(changes={"missing": "drop"}) == (2, 0)
    finish(submission.id)
    assert submission.status().statuses == {"converged": 4, "max_steps": 2}


def test_failed_jobs_of_a_cancelled_submission_are_retried(client: Client, finish: Finish) -> None:
    """It stays cancelled: its other jobs were never fitted."""
    submission = client.submit(JOBS)
    finish(submission.id, 1)
    submission.cancel()
    assert submission.retry(changes={"missing": "drop"}) == (1, 0)
    assert not submission.status().finished
    finish(submission.id, 2)
    manifest = submission.wait(timeout_seconds=5)
    assert (manifest.state, manifest.statuses) == ("cancelled", {"converged": 2, "max_steps": 1})


# What is stored.


def test_jobs_that_share_a_sample_set_share_it_again(
    client: Client, finish: Finish, fitting: FittingStore, redis_client: redis.Redis, settings: Settings
) -> None:
    """It was kept once, and is sent once; each job has its own samples again."""
    sweep = [{"id": f"bad-{n}" if n % 3 else f"good-{n}", "x": X, "y": Y, "degree": 1, "lr": 0.1 + n} for n in range(12)]
    others = [{"id": f"bad-other-{n}", "x": [float(n), 1.0], "y": [1.0, 2.0], "degree": 1} for n in range(3)]
    submission = client.submit([*sweep, *others])
    names = SubmissionKeys(settings.namespace, submission.id)
    assert redis_client.scard(names.sets) == 1
    finish(submission.id)
    assert submission.retry().jobs == 11
    again = waiting(fitting, submission)
    assert {name: (job["x"], job["y"], job["lr"]) for name, job in again.items() if "other" not in name} == {
        job["id"]: (X, Y, job["lr"]) for job in sweep if "bad" in str(job["id"])
    }
    assert [again[f"bad-other-{n}"]["x"] for n in range(3)] == [[n, 1.0] for n in range(3)]
    submission.delete()
    assert list(redis_client.scan_iter(f"*{{{submission.id}}}*")) == []


def test_jobs_whose_shared_samples_were_lost_are_not_kept(
    client: Client, finish: Finish, redis_client: redis.Redis, settings: Settings
) -> None:
    """They are taken from the input then."""
    sweep = [{"id": f"bad-{n}", "x": X, "y": Y, "lr": 0.1 + n} for n in range(6)]
    submission = client.submit(sweep)
    finish(submission.id)
    (lost,) = redis_client.scan_iter(f"*{{{submission.id}}}:sets:*")
    redis_client.delete(lost)
    with pytest.raises(JobsNotKept, match="6 of the 6"):
        submission.retry()
    assert submission.retry(jobs=sweep).jobs == 6


def test_results_in_files_are_retried_as_well(settings: Settings, finish_on: Finish, tmp_path: Path) -> None:
    """The jobs are kept there too."""
    elsewhere = msgspec.structs.replace(settings, results_url=tmp_path.as_uri())
    submission = Client(elsewhere).submit(JOBS)
    finish_on(settings, submission.id)
    assert sum(path.name.startswith("kept-") for path in (tmp_path / submission.id).iterdir()) == 2
    assert submission.retry(changes={"missing": "drop"}).jobs == 2
    finish_on(settings, submission.id)
    assert set(statuses_of(submission).values()) == {"converged", "max_steps"}
    submission.delete()
    assert list(tmp_path.iterdir()) == []


def test_many_jobs_are_retried_in_chunks_in_a_bulk_lane(
    client: Client, finish: Finish, redis_client: redis.Redis, settings: Settings
) -> None:
    """As a submission of as many jobs is; few ones take the interactive lane."""
    names = {lane: f"{settings.namespace}:celery:{lane}" for lane in queue.LANES}
    jobs = [{"id": f"bad-{number}", "polynomial": [1.0, 2.0]} for number in range(3000)]
    submission = client.submit(jobs)
    finish(submission.id)
    for name in names.values():
        redis_client.delete(name)
    submission.retry(ids=["bad-7"])
    assert {lane: redis_client.llen(name) for lane, name in names.items() if redis_client.exists(name)} == {
        queue.INTERACTIVE_LANE: 1
    }
    assert submission.retry() == (2999, 1)
    assert submission.status().retry_chunks > 2
    assert redis_client.exists(names[queue.lane_of(submission.id, None)])
    finish(submission.id)
    assert submission.results()["index"].to_pylist() == list(range(3000))


# Whatever happens, in any order.


class Scenario:
    """A submission whose jobs are fitted and retried at random, and what is expected of it."""

    def __init__(self, client: Client, fitting: FittingStore, seed: int, count: int = 30) -> None:
        self.random, self.fitting = random.Random(seed), fitting
        self.jobs: list[dict[str, Any]] = [
            {"polynomial": [1.0], "degree": self.random.randrange(3), "id": f"job-{number}"} for number in range(count)
        ]
        self.submission = client.submit(self.jobs)
        #: Status and mark of the results of each job, oldest first, and the marks of those with a trace.
        self.results: list[list[tuple[str, float]]] = [[] for _ in range(count)]
        self.traced: set[float] = set()

    def newest(self) -> dict[int, tuple[str, float]]:
        """The newest result of each job that has one."""
        return {position: found[-1] for position, found in enumerate(self.results) if found}

    def waiting(self) -> list[int]:
        """Chunks that are not committed."""
        known = {entry.number for entry in self.fitting.index(self.submission.id)}
        return sorted(known - set(self.fitting.committed_chunks(self.submission.id)))

    def commit(self, chunk: int) -> None:
        """Commit a chunk with random statuses and a mark of its own for each fit."""
        claim = self.fitting.claim(self.submission.id, chunk, "test")
        assert claim is not None
        jobs = decode(claim.jobs_frame, JOB_SCHEMA)
        rows, traces = [], []
        for job in jobs.to_pylist():
            status, mark = str(self.random.choice(list(Status))), self.random.random()
            self.results[job["index"]].append((status, mark))
            common = {"index": job["index"], "id": job["id"]}
            rows.append({**common, "status": status, "loss": mark, "chunk": chunk})
            if job["trace"] != "none":
                self.traced.add(mark)
                traces.append({**common, "trace": "full", "steps": 1, "made": 1, "loss": [mark, mark], "exponent": 0})
        kept = jobs.filter(pa.array([row["status"] in KEPT for row in rows]))
        frames = encode(pa.RecordBatch.from_pylist(rows, RESULT_SCHEMA)), pa.RecordBatch.from_pylist(traces, TRACE_SCHEMA)
        statuses = Counter(row["status"] for row in rows)
        self.fitting.commit(
            self.submission.id,
            chunk,
            Commit(
                frames[0],
                encode(frames[1]) if traces else b"",
                len(rows),
                0.1,
                statuses,
                claim.attempt,
                encode(kept) if len(kept) else b"",
            ),
        )

    def act(self) -> None:
        """Do one thing that users and workers do."""
        actions = (self._commit_some, self._retry_failed, self._retry_single, self._retry_from_input, self._cancel)
        self.random.choices(actions, weights=(4, 2, 1, 1, 1))[0]()

    def check(self) -> None:
        """Each job comes once with its newest result, and is counted once."""
        newest = self.newest()
        by_completion = rows_of(self.submission.result_batches())
        assert (dict(by_completion), len(by_completion)) == (newest, len(newest))
        assert rows_of(self.submission.result_batches(ordered=True)) == sorted(newest.items())
        assert self.submission.status().statuses == Counter(status for status, _ in newest.values())
        traces = [row["index"] for _, batch in self.submission.trace_batches() for row in batch.to_pylist()]
        assert sorted(traces) == [position for position, (_, mark) in sorted(newest.items()) if mark in self.traced]
        for row in self.submission.traces().to_pylist():
            assert row["loss"][-1] == pytest.approx(newest[row["index"]][1])

    def _commit_some(self) -> None:
        if chunks := self.waiting():
            self.commit(self.random.choice(chunks))

    def _retry_failed(self) -> None:
        self.submission.retry(self.random.sample(KEPT, 2), changes={"trace": self.random.choice(["none", "full"])})

    def _retry_single(self) -> None:
        done = [f"job-{position}" for position in self.newest()]
        self.submission.retry(ids=self.random.sample(done, min(3, len(done))), jobs=self.jobs)

    def _retry_from_input(self) -> None:
        steps = self.random.randint(1, 9)
        self.submission.retry(["converged", "max_steps", "invalid"], jobs=self.jobs, changes={"steps": steps})

    def _cancel(self) -> None:
        if self.submission.status().finished_at:  # or its other jobs would never be fitted
            self.submission.cancel()


def rows_of(batches: Iterator[tuple[str, pa.RecordBatch]]) -> list[tuple[int, tuple[str, float]]]:
    """Position, status and mark of each row, in their order."""
    return [
        (row["index"], (row["status"], row["loss"]))
        for _, batch in batches
        for row in batch.select(["index", "status", "loss"]).to_pylist()
    ]


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_retries_gives_the_newest_row_once(
    client: Client, fitting: FittingStore, seed: int, redis_client: redis.Redis
) -> None:
    """Retries, commits and cancelled retries in any order: streams, followers, counters and history agree with a model."""
    scenario = Scenario(client, fitting, seed)
    submission = scenario.submission
    scenario.commit(0)
    followed, follower = dict[int, tuple[str, float]](), submission.stream(RESULTS)
    resumed, cursor = dict[int, tuple[str, float]](), None
    for _ in range(30):
        scenario.act()
        scenario.check()
        if scenario.random.random() < 0.3:
            followed.update(rows_of(follower.ready()))
            news = list(submission.result_batches(cursor))
            resumed.update(rows_of(iter(news)))
            cursor = news[-1][0] if news else cursor
    while chunks := scenario.waiting():
        scenario.commit(chunks[-1])
    scenario.check()
    newest = scenario.newest()
    assert submission.status().finished
    assert rows_of(submission.result_batches(follow=True, ordered=True)) == sorted(newest.items())
    followed.update(rows_of(follower.ready()))
    resumed.update(rows_of(submission.result_batches(cursor)))
    assert followed == resumed == newest
    for job, results in zip(scenario.jobs, scenario.results, strict=True):
        history = submission.history(job["id"])
        assert [(row["attempt"], (row["status"], row["loss"])) for row in history] == list(enumerate(results, 1))
    submission.delete()
    assert list(redis_client.scan_iter(f"*{{{submission.id}}}*")) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_follower_in_the_order_of_the_input_waits_for_the_retries_that_run(
    client: Client, fitting: FittingStore, seed: int
) -> None:
    """It gives each job once: the retried result where that was committed, the earlier one where the retry was cancelled."""
    scenario = Scenario(client, fitting, seed, count=40)
    submission = scenario.submission
    for chunk in range(3):
        scenario.commit(chunk)
    submission.retry(["error", "invalid"])
    submission.retry(["converged"], jobs=scenario.jobs, changes={"trace": "none"})
    results, traces = (InputOrder(client.store, submission.id, kind) for kind in (RESULTS, TRACES))
    rows, losses = rows_of(results.ready()), list(traces.ready())
    assert len(rows) < 40
    running = scenario.waiting()
    scenario.random.shuffle(running)
    for chunk in running[: len(running) // 2]:
        scenario.commit(chunk)
        rows += rows_of(results.ready())
        losses += traces.ready()
    if seed % 2:
        submission.cancel()
    for chunk in scenario.waiting():
        scenario.commit(chunk)
    rows += rows_of(results.ready())
    assert rows == sorted(scenario.newest().items())
    losses += traces.ready()
    expected = [position for position, (_, mark) in rows if mark in scenario.traced]
    assert [position for _, batch in losses for position in batch["index"].to_pylist()] == expected
