"""Readers and retries: a replaced row is dropped once the new one is stored, whoever reads and from where."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from fitq.client import Client
from fitq.results.streams import RESULTS, InputOrder
from fitq.submission import Submission
from fitq_shared.errors import JobNotFound
from fitq_shared.settings import Settings

Finish = Callable[..., None]

#: Jobs of two degrees in turn, so of two chunks: 0 has the even rows, 1 the odd ones. Two of them fail.
JOBS: list[dict[str, Any]] = [
    {"id": f"{'bad' if number in (2, 5) else 'job'}-{number}", "polynomial": [1, 2], "degree": number % 2}
    for number in range(8)
]
IDS = [job["id"] for job in JOBS]


@pytest.fixture
def submission(settings: Settings, finish: Finish) -> Submission:
    """A finished submission."""
    found = Client(settings).submit(JOBS)
    finish(found.id)
    return found


def rows(batches: Iterator[tuple[str, pa.RecordBatch]]) -> list[tuple[str, str]]:
    """Id and status of each row, in their order."""
    pairs = (zip(batch["id"].to_pylist(), batch["status"].to_pylist(), strict=True) for _, batch in batches)
    return list(itertools.chain.from_iterable(pairs))


def repair(submission: Submission, finish: Finish, *chunks: int) -> None:
    """Retry what has failed so that it converges."""
    submission.retry(changes={"missing": "drop"})
    finish(submission.id, *chunks)


def test_in_the_order_of_completion_a_retried_job_comes_where_its_retry_was_stored(
    submission: Submission, finish: Finish
) -> None:
    """Once; a batch of which every row was replaced does not come at all."""
    repair(submission, finish)
    found = rows(submission.result_batches())
    assert (len(found), dict(found)) == (8, dict.fromkeys(IDS, "converged"))
    assert [name for name, _ in found[-2:]] == ["bad-5", "bad-2"]
    submission.retry(ids=["bad-5", "bad-2"], jobs=JOBS)
    finish(submission.id)
    assert len(rows(submission.result_batches())) == 8
    assert {len(batch) for _, batch in submission.result_batches()} == {3, 1}


def test_a_cursor_leads_to_the_new_rows(submission: Submission, finish: Finish) -> None:
    """Who has read the earlier ones gets one more row for each retried job, and no other."""
    *_, (cursor, _) = submission.result_batches()
    repair(submission, finish)
    assert rows(submission.result_batches(cursor)) == [("bad-5", "converged"), ("bad-2", "converged")]
    assert [name for name, _ in rows(submission.result_batches(cursor))] == [
        row["id"] for _, batch in submission.trace_batches(cursor) for row in batch.to_pylist()
    ]


def test_who_follows_in_the_order_of_completion_gets_both_rows(submission: Submission, finish: Finish) -> None:
    """The later one counts; the iteration ends when the retry is done."""
    submission.retry(changes={"missing": "drop"})
    batches = submission.result_batches(follow=True)
    found = rows(iter([next(batches)]))
    late = threading.Timer(0.3, finish, (submission.id,))
    late.start()
    found += rows(batches)
    late.join()
    assert [name for name, _ in found].count("bad-2") == 2
    assert dict(found) == dict.fromkeys(IDS, "converged")


def test_what_is_read_at_once_has_each_job_once_whatever_is_stored_meanwhile(submission: Submission, finish: Finish) -> None:
    """In both orders: it is what was stored when the reading began."""
    submission.retry(changes={"missing": "drop"})
    for ordered in (True, False):
        batches = submission.result_batches(ordered=ordered)
        found = rows(iter([next(batches)]))
        if ordered:
            finish(submission.id, 2)
        found += rows(batches)
        assert sorted(name for name, _ in found) == sorted(IDS)
    newest = dict(rows(submission.result_batches()))
    assert {newest["bad-2"], newest["bad-5"]} == {"converged", "invalid"}


def test_a_follower_in_the_order_of_the_input_that_began_earlier_gives_each_job_once(
    submission: Submission, store: Any, settings: Settings, finish: Finish
) -> None:
    """A retry that begins after it knows its chunks is not its concern, even when it is stored first."""
    running = Client(settings).submit(JOBS)
    stream = InputOrder(store, running.id, RESULTS)
    assert rows(stream.ready()) == []
    finish(running.id, 0)
    assert running.retry(changes={"missing": "drop"}).jobs == 1
    finish(running.id, 2)
    finish(running.id, 1)
    found = rows(stream.ready())
    assert [name for name, _ in found] == IDS
    assert dict(found)["bad-2"] == "invalid"
    assert dict(rows(running.result_batches(ordered=True)))["bad-2"] == "converged"


def test_a_follower_in_the_order_of_the_input_waits_for_a_retry(submission: Submission, finish: Finish) -> None:
    """The new rows come in their places, and nothing before it is known whether they do."""
    submission.retry(changes={"missing": "drop"})
    late = threading.Timer(0.3, finish, (submission.id,))
    late.start()
    assert rows(submission.result_batches(follow=True, ordered=True)) == [(name, "converged") for name in IDS]
    late.join()


def test_a_follower_in_the_order_of_the_input_goes_on_without_a_retry_that_was_cancelled(
    submission: Submission, finish: Finish, store: Any
) -> None:
    """At once, even when another retry begins; the earlier rows are given then."""
    submission.retry(changes={"missing": "drop"})
    stream = InputOrder(store, submission.id, RESULTS)
    found = rows(stream.ready())
    assert [name for name, _ in found] == IDS[:2]
    submission.cancel()
    submission.retry()
    found += rows(stream.ready())
    assert [name for name, _ in found] == IDS
    assert dict(found)["bad-2"] == "invalid"


def test_a_trace_is_that_of_the_newest_fit(submission: Submission, finish: Finish) -> None:
    """A retry that keeps none leaves none."""
    submission.retry(ids=["bad-2"], changes={"missing": "drop", "trace": "none"})
    finish(submission.id)
    expected = [name for name in IDS if name != "bad-2"]
    assert submission.traces()["id"].to_pylist() == expected
    by_completion = [name for _, batch in submission.trace_batches() for name in batch["id"].to_pylist()]
    assert sorted(by_completion) == sorted(expected)
    with pytest.raises(JobNotFound, match="'bad-2' keeps no trace"):
        submission.trace("bad-2")
    assert submission.trace("bad-5")["id"] == "bad-5"


def test_readers_ask_for_replaced_rows_only_where_there_are_some(
    submission: Submission, finish: Finish, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without retries they cost no question."""
    asked: list[list[int]] = []

    def replaced(name: str, chunks: list[int]) -> list[bytes]:
        asked.append(chunks)
        found: list[bytes] = store.replaced(name, chunks)
        return found

    monkeypatch.setattr(submission._store, "replaced", replaced)
    submission.results()
    list(submission.result_batches())
    assert asked == []
    submission.retry(ids=["bad-2"])
    asked.clear()
    finish(submission.id)
    list(submission.result_batches())
    assert asked == [[0]]
