"""Reading results while they come: completion order with cursors, input order, single jobs, in memory that has a bound."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from fitq.client import Client
from fitq.results import writers
from fitq.results.copying import copying
from fitq.results.streams import RESULTS, TRACES, InputOrder
from fitq.results.writers import FORMATS, writing
from fitq.submission import Submission
from fitq_shared import queue
from fitq_shared.errors import InputError, JobNotFinished, JobNotFound, SubmissionNotFound
from fitq_shared.jobs import frames, schemas
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows
from fitq_shared.settings import Settings
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.payload import payload_of
from fitq_shared.store.submitting import SubmittingStore

#: Jobs of two degrees in turn, so of two chunks: 0 has degree 0 and the even rows, 1 has the odd ones.
JOBS: list[dict[str, Any]] = [{"id": f"job-{number}", "polynomial": [1, 2], "degree": number % 2} for number in range(9)]
EVEN, ODD = ([job["id"] for job in JOBS[start::2]] for start in (0, 1))
ALL = [job["id"] for job in JOBS]

Finish = Callable[..., None]


@pytest.fixture
def submission(settings: Settings) -> Submission:
    return Client(settings).submit(JOBS)


def ids(batches: Iterator[tuple[str, pa.RecordBatch]]) -> list[list[str]]:
    """The ids in each batch."""
    return [batch["id"].to_pylist() for _, batch in batches]


def flat(batches: Iterator[tuple[str, pa.RecordBatch]]) -> list[str]:
    """The ids of all batches in their order."""
    return list(itertools.chain.from_iterable(ids(batches)))


# As a table.


def test_results_and_traces_come_in_the_order_of_the_input(submission: Submission, finish: Finish) -> None:
    """Whatever the order in which chunks were made and committed."""
    finish(submission.id)
    results, traces = submission.results(), submission.traces()
    assert results["id"].to_pylist() == traces["id"].to_pylist() == [job["id"] for job in JOBS]
    assert [len(row) for row in results["coefficients"].to_pylist()] == [job["degree"] + 1 for job in JOBS]
    assert results["device"].to_pylist() == [f"cpu of {job['degree']}" for job in JOBS]
    assert results.combine_chunks()["device"].to_pylist() == results["device"].to_pylist()
    assert traces.column_names == ["index", "id", "step", "loss"]
    assert traces.slice(4, 1).to_pylist()[0]["step"] == [0, 1, 2, 3]
    assert submission.wait().statuses == {"converged": 9}


def test_before_the_first_commit_there_are_no_rows(submission: Submission) -> None:
    """Empty tables with the usual columns, no error."""
    assert (submission.results().num_rows, submission.traces().num_rows) == (0, 0)


# In the order of completion.


def test_batches_come_in_the_order_of_completion(submission: Submission, finish: Finish) -> None:
    """A chunk is a batch; without `follow` what is stored is all."""
    finish(submission.id, 1)
    assert ids(submission.result_batches()) == [ODD]
    finish(submission.id, 0)
    assert ids(submission.result_batches()) == ids(submission.trace_batches()) == [ODD, EVEN]
    (_, results), (_, traces) = next(submission.result_batches()), next(submission.trace_batches())
    assert (results.schema, traces.schema) == (RESULTS.schema, TRACES.schema)
    assert traces["step"][0].as_py() == [0, 1, 2, 3]


def test_a_cursor_goes_on_behind_its_batch(submission: Submission, finish: Finish) -> None:
    """Also with another object, as in another process; behind the last batch there is nothing yet."""
    finish(submission.id, 1)
    ((cursor, _),) = submission.result_batches()
    assert ids(submission.result_batches(cursor)) == []
    finish(submission.id, 0)
    again = Submission(submission._store, submission.id)
    assert ids(again.result_batches(cursor)) == ids(again.trace_batches(cursor)) == [EVEN]


def test_following_waits_for_what_is_not_done_yet(submission: Submission, finish: Finish) -> None:
    """Each batch when its chunk is committed, the end when the submission is finished."""
    batches = submission.result_batches(follow=True)
    finish(submission.id, 1)
    assert next(batches)[1]["id"].to_pylist() == ODD
    late = threading.Timer(0.3, finish, (submission.id, 0))
    late.start()
    assert ids(batches) == [EVEN]
    late.join()


def test_a_chunk_that_a_server_has_forgotten_and_gets_again_is_given_once(
    submission: Submission, finish: Finish, redis_client: redis.Redis, settings: Settings
) -> None:
    """As after the loss of the end of the append-only file, which had its commit."""
    batches, names = submission.result_batches(follow=True), SubmissionKeys(settings.namespace, submission.id)
    jobs = redis_client.get(names.jobs(1)) or b""
    finish(submission.id, 1)
    assert next(batches)[1]["id"].to_pylist() == ODD
    redis_client.set(names.jobs(1), jobs)
    redis_client.hdel(names.committed, "1")
    redis_client.hincrby(names.manifest, "done_chunks", -1)
    redis_client.xtrim(names.log, 0)
    finish(submission.id, 1, 0)
    assert ids(batches) == [EVEN]


def test_what_is_no_cursor_is_said(submission: Submission) -> None:
    """Before anything is read; nor does the order of the input take one."""
    with pytest.raises(InputError, match="since = 'yesterday': not a cursor"):
        submission.result_batches("yesterday")
    with pytest.raises(InputError, match="either `since` or `ordered`"):
        submission.result_batches("1-0", ordered=True)


def test_a_submission_that_is_deleted_while_it_is_read_is_no_short_one(submission: Submission, finish: Finish) -> None:
    """The iteration ends with the error, not as if all had been given out."""
    finish(submission.id)
    batches = submission.result_batches()
    next(batches)
    submission.delete()
    with pytest.raises(SubmissionNotFound, match=submission.id):
        list(batches)


def test_chunks_without_traces_are_passed_over(settings: Settings, finish: Finish) -> None:
    """A cursor behind the others is there all the same."""
    jobs = [JOBS[0] | {"trace": "none"}, JOBS[1]]
    submission = Client(settings).submit(jobs)
    finish(submission.id)
    assert ids(submission.trace_batches()) == ids(submission.trace_batches(ordered=True)) == [[JOBS[1]["id"]]]


# In the order of the input.


def test_ordered_rows_wait_for_those_before_them(submission: Submission, finish: Finish) -> None:
    """The odd rows are stored first and come out between the even ones."""
    finish(submission.id, 1)
    late = threading.Timer(0.3, finish, (submission.id, 0))
    late.start()
    assert flat(submission.result_batches(follow=True, ordered=True)) == ALL
    late.join()
    assert flat(submission.trace_batches(follow=True, ordered=True)) == ALL


def test_without_following_the_order_leaves_out_what_is_not_stored(submission: Submission, finish: Finish) -> None:
    """What is stored is given; the cursor at the end is for what comes later."""
    finish(submission.id, 1)
    ((cursor, batch),) = submission.result_batches(ordered=True)
    assert batch["id"].to_pylist() == submission.results()["id"].to_pylist() == ODD
    finish(submission.id, 0)
    assert ids(submission.result_batches(cursor)) == [EVEN]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_comes_out_once_no_chunk_can_have_an_earlier_one(store: SubmittingStore, finish: Finish, seed: int) -> None:
    """Chunks of any rows, committed in any order: after each commit exactly the rows before the first open chunk are out."""
    random.seed(seed)
    rows_of = chunks_of_rows(40)
    fill(store, rows_of)
    stream, out = InputOrder(store, "sub", RESULTS._replace(at_once=2)), list[int]()
    waiting = set(range(len(rows_of)))
    for chunk in random.sample(sorted(waiting), len(waiting)):
        finish("sub", chunk)
        waiting.remove(chunk)
        for _, batch in stream.ready():
            out += batch["index"].to_pylist()
        assert out == list(range(min((rows_of[chunk][0] for chunk in waiting), default=40)))


def test_rows_that_waited_for_a_cancelled_chunk_are_given(submission: Submission, finish: Finish) -> None:
    """Those behind its first row, which nobody will fit any more."""
    finish(submission.id, 0)
    stream = InputOrder(submission._store, submission.id, RESULTS)
    assert flat(stream.ready()) == EVEN[:1]
    submission.cancel()
    assert flat(stream.ready()) == EVEN[1:]


def test_the_order_is_not_known_before_all_jobs_are_in(store: SubmittingStore, finish: Finish) -> None:
    """A chunk that is still to come may have an earlier row."""
    fill(store, [[1, 2]], close=False)
    finish("sub")
    stream = InputOrder(store, "sub", RESULTS)
    assert list(stream.ready()) == []
    add(store, 1, [0])
    store.close("sub")
    finish("sub", 1)
    assert flat(stream.ready()) == ["0", "1", "2"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("ordered", [True, False])
def test_memory_does_not_grow_with_the_submission(
    store: SubmittingStore, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, ordered: bool
) -> None:
    """Eighty chunks, each reaching into the next, and never more than a fourth of them in Arrow's memory."""
    monkeypatch.setattr(writers, "_ROW_GROUP_BYTES", 20_000)
    rows = list(range(2000))
    for row in range(24, 1999, 25):
        rows[row], rows[row + 1] = rows[row + 1], rows[row]
    fill(store, [sorted(rows[first : first + 25]) for first in range(0, 2000, 25)])
    finish("sub")
    submission, held, before = Submission(store, "sub"), [0], pa.total_allocated_bytes()
    with writing(tmp_path / "out", RESULTS.schema, format) as write:
        for _, batch in submission.result_batches(ordered=ordered):
            write(batch)
            held.append(pa.total_allocated_bytes() - before)
    assert len(held) > 5
    assert max(held) < submission.results().nbytes / 4


def test_copying_writes_what_is_there_and_shows_files_at_the_end(
    submission: Submission, finish: Finish, tmp_path: Path
) -> None:
    """Rows are passed on in the order of the input as soon as they can be; a block left by an error leaves no file."""
    files = tmp_path / "r.jsonl", tmp_path / "t.jsonl"
    passed: list[str] = []

    stream = partial(submission.stream, follow=True, ordered=True)

    def note(_cursor: str, batch: pa.RecordBatch) -> None:
        passed.extend(batch["id"].to_pylist())

    with suppress(KeyboardInterrupt), copying(stream, files, note) as copy:
        finish(submission.id, 0)
        copy()
        assert passed == ALL[:1]
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    passed.clear()
    with copying(stream, files, note) as copy:
        finish(submission.id, 1)
        copy()
        assert passed == ALL
        assert not files[0].exists()
    for file in files:
        assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ALL


# One job.


def test_one_job_is_found_by_its_id(submission: Submission, finish: Finish) -> None:
    """The same row as in the table."""
    finish(submission.id)
    assert str(submission.result("job-4")) == str(submission.results().to_pylist()[4])  # as text, in which NaN equals NaN
    assert submission.trace("job-4") == submission.traces().to_pylist()[4]


def test_a_job_that_is_not_done_is_told_from_one_that_is_not_there(submission: Submission, finish: Finish) -> None:
    """Each with what to do next."""
    finish(submission.id, 1)
    for ask in (submission.result, submission.trace):
        with pytest.raises(JobNotFinished, match="'job-0' is not fitted yet"):
            ask("job-0")
        with pytest.raises(JobNotFound, match="no job 'nobody': mistyped"):
            ask("nobody")


def test_a_job_without_a_trace_is_no_mistyped_one(settings: Settings, finish: Finish) -> None:
    """It has a result all the same."""
    submission = Client(settings).submit([JOBS[0] | {"trace": "none"}])
    finish(submission.id)
    assert submission.result("job-0")["status"] == "converged"
    with pytest.raises(JobNotFound, match="'job-0' keeps no trace"):
        submission.trace("job-0")


def chunks_of_rows(count: int) -> list[list[int]]:
    """The rows 0 to `count` - 1 as the planner would cut them, more or less: each goes on one of four piles."""
    chunks: list[list[int]] = []
    piles: list[list[int]] = [[], [], [], []]
    for row in range(count):
        pile = random.choice(piles)
        pile.append(row)
        if len(pile) == random.randint(1, 6):
            chunks.append(pile.copy())
            pile.clear()
    return chunks + [pile for pile in piles if pile]


def fill(store: SubmittingStore, rows_of: list[list[int]], close: bool = True) -> None:
    """A submission "sub" whose chunks have these rows of the input."""
    store.open("sub", "test")
    for chunk, rows in enumerate(rows_of):
        add(store, chunk, rows)
    if close:
        store.close("sub")


def add(store: SubmittingStore, chunk: int, rows: list[int]) -> None:
    jobs = frames.jobs_batch([FitJob(id=str(row), polynomial=[1.0]) for row in rows])
    jobs = jobs.set_column(0, schemas.JOB_SCHEMA.field("index"), pa.array(rows, pa.int64()))
    store.add_chunk("sub", payload_of(chunk, Rows(jobs)), queue.INTERACTIVE_LANE)
