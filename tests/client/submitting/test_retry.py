"""Retries: the same ids again, from jobs that were kept or from the input, and all results are there at any time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
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
from fitq.results.streams import RESULTS, CompletionOrder, InputOrder
from fitq.submission import Submission
from fitq.submitting import retry
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

KILL_DEADLINE_SECONDS = 60
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
    assert [path for path in submission.results()["index"].to_pylist()] == list(range(6))


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
    with pytest.raises(DifferentContent, match=message):
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
            submission.retry(**arguments)  # type: ignore[arg-type]
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
    jobs = [{"id": f"bad-{number}", "polynomial": [1.0], "degree": number % 9} for number in range(9)]
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
    enqueue = retry.enqueue

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


class Model:
    """What is expected of each job: the status and the mark of its results, oldest first."""

    def __init__(self, count: int) -> None:
        self.results: list[list[tuple[str, float]]] = [[] for _ in range(count)]

    def newest(self) -> dict[int, tuple[str, float]]:
        """The newest result of each job that has one."""
        return {position: found[-1] for position, found in enumerate(self.results) if found}


def commit(fitting: FittingStore, submission: str, chunk: int, model: Model, generator: random.Random) -> None:
    """Commit a chunk with random statuses and a mark of its own for each fit, and note them."""
    claim = fitting.claim(submission, chunk, "test")
    assert claim is not None
    jobs = decode(claim.jobs_frame, JOB_SCHEMA)
    rows, traces = [], []
    for job in jobs.to_pylist():
        status, mark = str(generator.choice(list(Status))), generator.random()
        model.results[job["index"]].append((status, mark))
        common = {"index": job["index"], "id": job["id"]}
        rows.append({**common, "status": status, "loss": mark, "chunk": chunk})
        if job["trace"] != "none":
            traces.append({**common, "trace": "full", "steps": 1, "made": 1, "loss": [mark, mark], "exponent": 0})
    kept = [row["status"] in KEPT for row in rows]
    fitting.commit(
        submission,
        chunk,
        Commit(
            encode(pa.RecordBatch.from_pylist(rows, RESULT_SCHEMA)),
            encode(pa.RecordBatch.from_pylist(traces, TRACE_SCHEMA)) if traces else b"",
            len(rows),
            0.1,
            Counter(row["status"] for row in rows),
            claim.attempt,
            encode(jobs.filter(pa.array(kept))) if any(kept) else b"",
        ),
    )


def rows_of(batches: Iterator[tuple[str, pa.RecordBatch]]) -> list[tuple[int, tuple[str, float]]]:
    """Position, status and mark of each row, in their order."""
    return [
        (row["index"], (row["status"], row["loss"]))
        for _, batch in batches
        for row in batch.select(["index", "status", "loss"]).to_pylist()
    ]


@pytest.mark.parametrize("seed", range(8))
def test_any_sequence_of_retries_gives_the_newest_row_once(
    client: Client, fitting: FittingStore, seed: int, redis_client: redis.Redis
) -> None:
    """Retries, commits, cancelled retries and readers in any order: streams, counters and history are those of a model."""
    generator = random.Random(seed)
    jobs = [{"polynomial": [1.0], "degree": generator.randrange(3), "id": f"job-{number}"} for number in range(30)]
    submission, model = client.submit(jobs), Model(len(jobs))
    commit(fitting, submission.id, 0, model, generator)
    follower, followed = CompletionOrder(client.store, submission.id, RESULTS), dict[int, tuple[str, float]]()
    cursor: str | None = None
    resumed: dict[int, tuple[str, float]] = {}

    for _ in range(40):
        open_chunks = sorted(
            {entry.number for entry in fitting.index(submission.id)} - set(fitting.committed_chunks(submission.id))
        )
        action = generator.choice(["commit", "commit", "commit", "retry", "retry", "ids", "input", "cancel", "read"])
        if action == "commit" and open_chunks:
            commit(fitting, submission.id, generator.choice(open_chunks), model, generator)
        elif action == "retry":
            submission.retry(generator.sample(KEPT, 2), changes={"trace": generator.choice(["none", "full"])})
        elif action == "ids":
            done = [f"job-{position}" for position in model.newest()]
            submission.retry(ids=generator.sample(done, min(3, len(done))), jobs=jobs)
        elif action == "input":
            submission.retry(["converged", "max_steps", "invalid"], jobs=jobs, changes={"steps": generator.randint(1, 9)})
        elif action == "cancel" and submission.status().finished_at:
            submission.cancel()
        elif action == "read":
            followed.update(rows_of(follower.ready()))
            for cursor, batch in submission.result_batches(cursor):
                resumed.update(rows_of(iter([(cursor, batch)])))

        newest = model.newest()
        by_completion = rows_of(submission.result_batches())
        assert (dict(by_completion), len(by_completion)) == (newest, len(newest))
        assert rows_of(submission.result_batches(ordered=True)) == sorted(newest.items())
        assert submission.status().statuses == Counter(status for status, _ in newest.values())

    while open_chunks := {entry.number for entry in fitting.index(submission.id)} - set(
        fitting.committed_chunks(submission.id)
    ):
        commit(fitting, submission.id, open_chunks.pop(), model, generator)
    assert submission.status().finished
    newest = model.newest()
    assert rows_of(submission.result_batches(follow=True, ordered=True)) == sorted(newest.items())
    followed.update(rows_of(follower.ready()))
    resumed.update(rows_of(submission.result_batches(cursor)))
    assert followed == resumed == newest
    traces = {row["index"]: row["loss"][-1] for row in submission.traces().to_pylist()}
    by_completion = [row["index"] for _, batch in submission.trace_batches() for row in batch.to_pylist()]
    assert sorted(by_completion) == sorted(traces)
    for position, mark in traces.items():
        assert mark == pytest.approx(newest[position][1])
    for position, job in enumerate(jobs):
        history = submission.history(str(job["id"]))
        assert [(row["status"], row["loss"]) for row in history] == model.results[position]
        assert [row["attempt"] for row in history] == list(range(1, len(history) + 1))
    submission.delete()
    assert list(redis_client.scan_iter(f"*{{{submission.id}}}*")) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_follower_in_the_order_of_the_input_waits_for_the_retries_that_run(
    client: Client, fitting: FittingStore, seed: int
) -> None:
    """It gives each job once: the retried result where that was committed, the earlier one where the retry was cancelled."""
    generator = random.Random(seed)
    jobs = [{"polynomial": [1.0], "degree": generator.randrange(3), "id": f"job-{number}"} for number in range(40)]
    submission, model = client.submit(jobs), Model(len(jobs))
    for chunk in range(3):
        commit(fitting, submission.id, chunk, model, generator)
    submission.retry(["error", "invalid"])
    submission.retry(["converged"], jobs=jobs, changes={"trace": "none"})
    stream = InputOrder(client.store, submission.id, RESULTS)
    rows = rows_of(stream.ready())
    running = sorted({entry.number for entry in fitting.index(submission.id)} - {0, 1, 2})
    generator.shuffle(running)
    for chunk in running[: len(running) // 2]:
        commit(fitting, submission.id, chunk, model, generator)
        rows += rows_of(stream.ready())
    if seed % 2:
        submission.cancel()
    else:
        for chunk in running[len(running) // 2 :]:
            commit(fitting, submission.id, chunk, model, generator)
    rows += rows_of(stream.ready())
    assert rows == sorted(model.newest().items())
