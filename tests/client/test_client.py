"""Client and Submission against real servers: all or nothing in, everything in order out."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import redis

import fitq
from fitq import readers
from fitq.client import Client
from fitq_shared import queue
from fitq_shared.errors import (
    FileError,
    InputError,
    JobError,
    ServerUnreachable,
    SubmissionNotFound,
    SubmissionTimeout,
)
from fitq_shared.settings import Settings
from fitq_shared.store.submitting import SubmittingStore

if TYPE_CHECKING:
    from tests.conftest import RestartableServer

JOBS: list[dict[str, Any]] = [{"id": f"job-{number}", "polynomial": [1, 2], "degree": number % 2} for number in range(9)]
NOBODY = "redis://:secret@127.0.0.1:1/0"


@pytest.fixture
def client(settings: Settings) -> Client:
    return Client(settings)


def messages(store: SubmittingStore, redis_client: redis.Redis) -> dict[str, int]:
    """Messages waiting in each lane that has some."""
    waiting = {lane: redis_client.llen(f"{store.settings.namespace}:celery:{lane}") for lane in queue.LANES}
    return {lane: int(length) for lane, length in waiting.items() if length}


def test_the_public_surface_is_what_all_says() -> None:
    """Every name of `__all__` is there though it is loaded lazily, and nothing else pretends to be."""
    assert [getattr(fitq, name).__name__ for name in fitq.__all__] == [
        "Client",
        "FitJob",
        "Submission",
        "fitq_shared.errors",
        "p_values",
        "predict",
        "residuals",
    ]
    assert dir(fitq) == sorted(fitq.__all__)
    with pytest.raises(AttributeError, match="'fitq' has no attribute 'Clint'"):
        fitq.Clint  # noqa: B018


def test_a_submission_is_closed_and_its_chunks_are_enqueued(
    client: Client, store: SubmittingStore, redis_client: redis.Redis
) -> None:
    """Two shapes make two chunks; a small submission goes to the interactive lane."""
    submission = client.submit(JOBS)
    manifest = submission.status()
    assert (manifest.state, manifest.jobs, manifest.chunks, manifest.source) == ("closed", 9, 2, "Python")
    assert messages(store, redis_client) == {queue.INTERACTIVE_LANE: 2}
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", submission.id)


def test_a_large_submission_goes_to_a_bulk_lane(client: Client, store: SubmittingStore, redis_client: redis.Redis) -> None:
    """One more job than an interactive submission may have."""
    submission = client.submit(readers.from_recipe([1.0], queue.INTERACTIVE_JOBS + 1))
    assert messages(store, redis_client) == {queue.lane_of(submission.id, None): 1}


def test_the_id_is_known_before_the_first_job_is_stored(client: Client, store: SubmittingStore) -> None:
    """Who is killed while submitting can still find what he left."""
    seen: list[int] = []
    submission = client.submit(JOBS, on_open=lambda name: seen.append(store.manifest(name).jobs))
    assert seen == [0]
    assert [manifest.id for manifest in client.submissions()] == [submission.id]


def test_a_path_is_its_own_source(client: Client, tmp_path: Path) -> None:
    """`submit` takes the path of a file with jobs."""
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"polynomial": [1, 2]}\n')
    assert client.submit(path).status().source == str(path)


def test_wait_gives_up_after_the_timeout_and_the_submission_goes_on(client: Client) -> None:
    """The error says how far it was and how to wait again."""
    submission = client.submit(JOBS)
    with pytest.raises(SubmissionTimeout, match=r"0 of 9 fits are done.*goes on"):
        submission.wait(timeout_seconds=0.2)
    assert submission.status().state == "closed"


def test_a_deleted_submission_is_gone(client: Client) -> None:
    """Every question about it says so."""
    submission = client.submit(JOBS)
    submission.delete()
    for question in (submission.status, submission.results, submission.wait, lambda: client.submission(submission.id)):
        with pytest.raises(SubmissionNotFound, match=submission.id):
            question()
    assert client.submissions() == []


def broken(after: int, error: BaseException) -> Iterator[pa.RecordBatch]:
    """Batches enough for `after` chunks, then `error`."""
    if after:
        yield from readers.from_recipe([1.0], after * 8192)
    raise error


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("error", [JobError("broken"), KeyboardInterrupt(), ValueError("a reader's own")])
def test_an_error_while_submitting_leaves_nothing(
    client: Client, store: SubmittingStore, after: int, error: BaseException, redis_client: redis.Redis
) -> None:
    """Bad input or Ctrl-C, before the first chunk or after some: the error comes through and no key but messages stays."""
    with pytest.raises(type(error)):
        client.submit(broken(after, error))
    assert client.submissions() == []
    left = [key for key in redis_client.scan_iter(f"{store.settings.namespace}:*") if b":celery:" not in key]
    assert left == []


def test_nothing_to_submit_is_an_error(client: Client) -> None:
    """An empty list is a mistake of the caller."""
    with pytest.raises(InputError, match="no jobs"):
        client.submit([])
    with pytest.raises(FileError, match="No such file"):
        client.submit("none.jsonl")


def test_nobody_at_the_url_is_said_with_the_password_masked(tmp_path: Path) -> None:
    """The server is asked first, before a file is read."""
    with pytest.raises(ServerUnreachable, match=r"redis://:\*\*\*@127.0.0.1:1/0") as caught:
        Client(url=NOBODY).submit(tmp_path / "none.jsonl")
    assert "secret" not in str(caught.value)


def test_publishing_to_nobody_is_the_same_error() -> None:
    """kombu's own errors do not come through."""
    with pytest.raises(ServerUnreachable, match=r"no Redis answers at redis://:\*\*\*@127"):
        queue.publish(queue.client_app(Settings(redis_url=NOBODY)), queue.INTERACTIVE_LANE, "sub", [0])


def test_a_wait_outlives_a_restart_of_the_server(restartable: RestartableServer) -> None:
    """Only the server's own answer ends it: here, after the server was killed and came back, that the submission is gone."""
    submission = Client(restartable.settings).submit(JOBS)
    restartable.kill()
    seen: list[str] = []

    def wait() -> None:
        try:
            submission.wait()
        except SubmissionNotFound as error:
            seen.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(1)
    restartable.start()
    submission.delete()
    waiting.join()
    assert [submission.id in text for text in seen] == [True]


def test_a_follower_of_results_outlives_a_restart_of_the_server(
    restartable: RestartableServer, finish_on: Callable[..., None]
) -> None:
    """It asks again until the server is back, and neither loses nor repeats a batch."""
    submission = Client(restartable.settings).submit(JOBS)
    batches = submission.result_batches(follow=True)
    finish_on(restartable.settings, submission.id, 1)
    seen = [next(batches)[1]["id"].to_pylist()]
    finish_on(restartable.settings, submission.id, 0)
    restartable.kill()
    back = threading.Timer(0.5, restartable.start)
    back.start()
    seen += [batch["id"].to_pylist() for _, batch in batches]
    back.join()
    assert seen == [[job["id"] for job in JOBS[start::2]] for start in (1, 0)]


def test_a_server_that_dies_in_the_middle_leaves_nothing_that_looks_whole(restartable: RestartableServer) -> None:
    """What could not be deleted then is still open: nobody takes it for complete."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield from readers.from_recipe([1.0], 2 * 8192)
        restartable.kill()
        yield from readers.from_recipe([1.0], 8192)

    client = Client(restartable.settings)
    with pytest.raises(ServerUnreachable):
        client.submit(batches())
    restartable.start()
    assert [(manifest.state, manifest.finished) for manifest in client.submissions()] == [("open", False)]
