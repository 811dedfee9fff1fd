"""Submitting again, going on where it was broken off, and a server without room."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pytest
import redis
from click.testing import Result

from fitq import readers
from fitq.client import Client
from fitq.submitting import admission
from fitq.submitting.planner import plan
from fitq.submitting.upload import upload
from fitq_shared.errors import (
    DifferentContent,
    ResultsUnreachable,
    ServerFull,
    ServerUnreachable,
    SubmissionCancelled,
    SubmissionNotFound,
)
from fitq_shared.jobs.frames import decode
from fitq_shared.jobs.job import Samples
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import JOB_SCHEMA
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.payload import payload_of
from fitq_shared.store.submitting import SubmittingStore

if TYPE_CHECKING:
    from tests.conftest import RestartableServer

KILL_DEADLINE_SECONDS = 60


@pytest.fixture
def client(settings: Settings) -> Client:
    return Client(settings)


def jobs(count: int = 20_000) -> Iterator[pa.RecordBatch]:
    """Enough for several chunks."""
    return readers.from_recipe([1.0, 2.0], count)


def stored_indexes(fitting: FittingStore, submission: str) -> list[int]:
    """The places in the input of all jobs that wait in the store, sorted."""
    found: list[int] = []
    for chunk in fitting.index(submission):
        claim = fitting.claim(submission, chunk.number, "test")
        assert claim is not None
        found += decode(claim.jobs_frame, JOB_SCHEMA)["index"].to_pylist()
    return sorted(found)


def test_the_same_jobs_under_the_same_key_are_one_submission(client: Client, fitting: FittingStore) -> None:
    """Nothing is stored twice, and the submission that there is comes back."""
    first = client.submit(jobs(), key="sweep")
    again = client.submit(jobs(), key="sweep")
    assert again.id == first.id
    assert [manifest.id for manifest in client.submissions()] == [first.id]
    assert client.submit(jobs(), key="other").id != first.id
    assert stored_indexes(fitting, first.id) == list(range(20_000))


@pytest.mark.parametrize(
    "others",
    [
        lambda: readers.from_recipe([1.0, 3.0], 20_000),
        lambda: readers.from_recipe([1.0, 2.0], 20_001),
        lambda: readers.from_recipe([1.0, 2.0], 1024),
        lambda: readers.from_recipe([1.0, 2.0], 90_000),
    ],
)
def test_other_jobs_under_the_same_key_are_refused(client: Client, others: Callable[[], Iterator[pa.RecordBatch]]) -> None:
    """One changed number, one job more, fewer or more chunks: nothing that is there changes."""
    submission = client.submit(jobs(), key="sweep")
    before = submission.status()
    with pytest.raises(DifferentContent, match=rf"{submission.id} was made of other jobs: .*another key"):
        client.submit(others(), key="sweep")
    assert submission.status() == before


def test_a_beginning_of_jobs_that_come_at_the_same_time_is_refused(client: Client, store: SubmittingStore) -> None:
    """Another client adds its chunks after this one has looked what there is; the submission stays open for it."""
    submission = store.open("both", "test", "sweep")
    chunks = list(plan(jobs()))

    def beginning() -> Iterator[Rows]:
        for number, rows in enumerate(chunks):
            store.add_chunk(submission, payload_of(number, rows), "fitq.bulk.0")
        yield chunks[0]

    with pytest.raises(DifferentContent, match="the input has fewer"):
        upload(store, submission, beginning(), len(chunks[0].jobs))
    assert client.submission(submission).status().state == "open"
    upload(store, submission, chunks, None)
    assert client.submission(submission).status().state == "closed"


def test_an_upload_whose_server_forgets_a_chunk_can_be_resumed(
    client: Client, store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """A server that comes back without the end of its append-only file: the submission is not closed without the jobs."""

    def batches() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(jobs()):
            if number == 4:
                (manifest,) = client.submissions()
                names = SubmissionKeys(store.settings.namespace, manifest.id)
                redis_client.hdel(names.chunk_index, str(manifest.chunks - 1))
                redis_client.delete(names.jobs(manifest.chunks - 1))
                redis_client.hincrby(names.manifest, "chunks", -1)
                redis_client.hincrby(names.manifest, "jobs", -4096)
            yield batch

    with pytest.raises(ServerUnreachable, match="has forgotten jobs; try again") as caught:
        client.submit(batches())
    (manifest,) = client.submissions()
    assert caught.value.__notes__ == [f"{manifest.id} stays open: submit the same jobs again and resume it"]
    client.submit(jobs(), resume=manifest.id)
    assert stored_indexes(fitting, manifest.id) == list(range(20_000))


def test_a_deleted_submission_leaves_its_key_free(client: Client) -> None:
    """Submitting again makes a new one."""
    first = client.submit(jobs(10), key="sweep")
    first.delete()
    assert client.submit(jobs(10), key="sweep").id != first.id


def test_a_submission_that_is_not_there_cannot_be_resumed(client: Client) -> None:
    """Nothing is made under its id."""
    with pytest.raises(SubmissionNotFound, match="'gone'"):
        client.submit(jobs(10), resume="gone")
    assert client.submissions() == []


def test_an_upload_that_a_full_server_stopped_is_resumed(
    client: Client, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """The submission stays open, the error says how to go on, and going on adds what is missing."""

    def batches() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(jobs()):
            if number == 3:
                redis_client.config_set("maxmemory", 1)
            yield batch

    try:
        with pytest.raises(ServerFull, match=r"maxmemory reached") as caught:
            client.submit(batches())
    finally:
        redis_client.config_set("maxmemory", 0)
    (manifest,) = client.submissions()
    assert manifest.state == "open"
    assert caught.value.__notes__ == [f"{manifest.id} stays open: submit the same jobs again and resume it"]

    resumed = client.submit(jobs(), resume=manifest.id)

    assert (resumed.status().state, resumed.status().jobs) == ("closed", 20_000)
    assert stored_indexes(fitting, resumed.id) == list(range(20_000))


def test_an_upload_that_somebody_cancels_leaves_what_was_fitted(client: Client, finish: Callable[..., None]) -> None:
    """The client is told, and the fits that were done before stay."""

    def batches() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(jobs()):
            if number == 3:
                (manifest,) = client.submissions()
                finish(manifest.id, 0)
                client.submission(manifest.id).cancel()
            yield batch

    with pytest.raises(SubmissionCancelled, match="was cancelled"):
        client.submit(batches())
    (manifest,) = client.submissions()
    assert (manifest.state, manifest.done_chunks) == ("cancelled", 1)


def test_the_command_line_says_how_to_resume(fitq: Callable[..., Result], redis_client: redis.Redis) -> None:
    """After the error, which keeps its type, come the command that makes room and the one that goes on."""
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + 2**20)
    try:
        result = fitq("submit", "--polynomial", "1,2,3", "--count", "400000")
    finally:
        redis_client.config_set("maxmemory", 0)
    submission = result.stdout.strip()
    assert result.exit_code == 1
    assert re.search(r"Error: Redis at .* has no room .*; `fitq ls --size` and `fitq delete ID` make room\n", result.stderr)
    assert f"\n{submission} stays open" in result.stderr
    assert f"--resume {submission} goes on" in result.stderr


def test_an_upload_whose_client_was_killed_is_resumed(
    fitq: Callable[..., Result], store: SubmittingStore, fitting: FittingStore, settings: Settings
) -> None:
    """kill -9 in the middle: the id was printed first, and every job is there once in the end."""
    arguments = ["submit", "--polynomial", "1,2,3", "--count", "400000"]
    environment = os.environ | {"FITQ_REDIS_URL": settings.redis_url, "FITQ_NAMESPACE": settings.namespace}
    command = [sys.executable, "-c", "from fitq.cli import main; main()", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        submission = process.stdout.readline().strip()
        deadline = time.monotonic() + KILL_DEADLINE_SECONDS
        while store.manifest(submission).chunks < 3:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    killed = store.manifest(submission)
    assert (killed.state, killed.jobs < 400_000) == ("open", True)

    result = fitq(*arguments, "--resume", submission)

    assert (result.exit_code, result.stdout.strip()) == (0, submission)
    assert store.manifest(submission).state == "closed"
    assert stored_indexes(fitting, submission) == list(range(400_000))


def test_different_content_is_bad_input_on_the_command_line(fitq: Callable[..., Result], tmp_path: Path) -> None:
    """Exit code 2 and the next step; the same file again is fine."""
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"id": "a", "x": [0, 1, 2], "y": [0, 1, 2], "degree": 1}\n')
    assert fitq("submit", file, "--key", "k").exit_code == 0
    assert fitq("submit", file, "--key", "k").exit_code == 0
    file.write_text('{"id": "a", "x": [0, 1, 2], "y": [0, 1, 3], "degree": 1}\n')
    result = fitq("submit", file, "--key", "k")
    assert result.exit_code == 2
    assert re.search(r"made of other jobs: jobs 0 to 0 .*fitq delete", result.stderr)
    assert fitq("submit", file, "--key", "k", "--resume", "x").exit_code == 2


def test_results_that_can_never_have_room_are_refused_at_once(client: Client, redis_client: redis.Redis) -> None:
    """With numbers: what is used, the limit, what the results take."""
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + 20 * 2**20)
    try:
        with pytest.raises(ServerFull, match=r"no room for more jobs: \d+ MiB of \d+ MiB .* the results of [\d,]+ jobs"):
            client.submit(readers.from_recipe([1.0], 200_000, Samples(count=5)))
    finally:
        redis_client.config_set("maxmemory", 0)


def test_an_upload_waits_for_room_and_stops_when_nothing_is_fitted(
    client: Client, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
) -> None:
    """Jobs would have room once others are fitted, but no worker runs."""
    monkeypatch.setattr(admission, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(admission, "CHECK_BYTES", 1)
    random_samples = [{"x": [float(n), 0.5, 1 / 3], "y": [n / 7] * 3, "trace": "none"} for n in range(5000)]
    batches = list(readers.from_jobs(random_samples * 8))
    results = sum(map(admission.result_bytes, plan(batches)))
    room = int(results / (1 - admission.RESERVE)) + 2**20
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + room)
    try:
        with pytest.raises(ServerFull, match=r"nothing was fitted in 1 s: is a worker running"):
            client.submit(iter(batches))
    finally:
        redis_client.config_set("maxmemory", 0)


def test_what_an_earlier_upload_has_stored_needs_room_as_well(
    client: Client, store: SubmittingStore, redis_client: redis.Redis
) -> None:
    """One more chunk would have room, were it not for the results of those that are there and not fitted yet."""
    submission = client.submit(readers.from_recipe([1.0], 60_000))
    chunks = list(plan(readers.from_recipe([1.0], 60_000)))
    resumed = admission.Admission(store, submission.status())
    for chunk, rows in enumerate(chunks):
        resumed.count(rows, payload_of(chunk, rows))
    last = payload_of(len(chunks) - 1, chunks[-1])
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + 20 * 2**20)
    try:
        with pytest.raises(ServerFull, match="the results of 60,000 jobs"):
            resumed.wait_for_room(last)
        alone = admission.Admission(store, submission.status())
        alone.count(chunks[0], last)
        alone.wait_for_room(last)
    finally:
        redis_client.config_set("maxmemory", 0)


def test_results_that_could_not_be_written_are_refused_before_anything_is_stored(
    settings: Settings, store: SubmittingStore, tmp_path: Path
) -> None:
    """With the setting to look at; a place that can be written is left as it was."""
    (tmp_path / "file").write_text("no folder")
    elsewhere = msgspec.structs.replace(settings, results_url=f"file://{tmp_path}/file/results")
    with pytest.raises(ResultsUnreachable, match="check FITQ_RESULTS_URL"):
        Client(elsewhere).submit([{"polynomial": [1.0]}])
    assert store.manifests() == []
    there = msgspec.structs.replace(settings, results_url=f"file://{tmp_path}/results")
    Client(there).submit([{"polynomial": [1.0]}])
    assert list((tmp_path / "results").iterdir()) == []


def test_what_other_submissions_will_still_need_is_not_given_away(client: Client, redis_client: redis.Redis) -> None:
    """The results of another one that waits for workers; once it is cancelled there is room."""
    other = client.submit(readers.from_recipe([1.0], 60_000))
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + 20 * 2**20)
    try:
        with pytest.raises(ServerFull, match="beside those of other submissions"):
            client.submit(readers.from_recipe([1.0], 5_000))
        other.cancel()
        client.submit(readers.from_recipe([1.0], 5_000))
    finally:
        redis_client.config_set("maxmemory", 0)


def test_the_results_of_a_retry_need_room_beside_the_earlier_ones(
    client: Client, store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """All jobs are done, and none of them is that of the retry."""
    submission = client.submit(jobs(10))
    fitting.commit(submission.id, 0, Commit(b"results", b"", 60_000, 0.1, {"max_steps": 60_000}, 1))
    held_back, upload = (admission.Admission(store, submission.status(), retry=retry) for retry in (True, False))
    for chunk, rows in enumerate(plan(readers.from_recipe([1.0], 60_000))):
        payload = payload_of(chunk, rows)
        held_back.count(rows, payload)
        upload.count(rows, payload)
    store._redis.hset(SubmissionKeys(store.settings.namespace, submission.id).manifest, "retrying", 60_000)
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + 20 * 2**20)
    try:
        upload.wait_for_room(payload)
        with pytest.raises(ServerFull, match="the results of 60,000 jobs"):
            held_back.wait_for_room(payload)
    finally:
        redis_client.config_set("maxmemory", 0)


def test_a_submission_is_on_the_disk_before_submit_returns(restartable: RestartableServer) -> None:
    """The server is asked to say so where it keeps an append-only file."""
    Client(restartable.settings).submit([{"polynomial": [1.0]}])
    with redis.Redis.from_url(restartable.settings.redis_url) as server:
        if tuple(map(int, server.info("server")["redis_version"].split(".")[:2])) < (7, 2):
            pytest.skip("Redis cannot tell before version 7.2")
        assert server.info("commandstats")["cmdstat_waitaof"]["calls"] == 1


def test_a_job_is_found_by_its_id(client: Client, store: SubmittingStore) -> None:
    """In one step: the chunk that has it, and none for an id that no job has."""
    submission = client.submit(jobs()).id
    for chunk in store.index(submission):
        for name in (chunk.first, chunk.last):
            assert chunk.number in store.chunks_with_id(submission, str(name))
    assert store.chunks_with_id(submission, "no such job") == []
    found = [store.chunks_with_id(submission, str(number)) for number in range(0, 20_000, 7)]
    assert sum(len(chunks) for chunks in found) <= len(found) + 1  # a wrong one once in millions


def test_chunks_that_share_a_sample_set_store_it_once(
    client: Client, store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """A sweep over one large set: its bytes are in the server once, and every claim has them."""
    x = [n / 100 for n in range(2000)]
    sweep = ({"x": x, "y": [value**2 for value in x], "lr": 0.01 + n * 1e-6} for n in range(3000))
    submission = client.submit(sweep).id
    names = SubmissionKeys(store.settings.namespace, submission)
    assert redis_client.scard(names.sets) == 1
    assert len(store.index(submission)) > 1
    claims = [fitting.claim(submission, chunk.number, "test") for chunk in store.index(submission)]
    assert len({claim.sets_frame for claim in claims if claim is not None and claim.sets_frame is not None}) == 1
    assert all(claim is not None and claim.sets_frame is not None for claim in claims)


def test_the_same_jobs_have_the_same_digest() -> None:
    """In another process as well: nothing but the jobs goes into it."""
    code = """
from fitq import readers
from fitq.submitting.planner import plan
from fitq.submitting.upload import upload
from fitq_shared.store.payload import payload_of
print(*(payload_of(chunk, rows).digest for chunk, rows in enumerate(plan(readers.from_recipe([1.0, 2.0], 20_000)))))
"""
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    here = [payload_of(chunk, rows).digest for chunk, rows in enumerate(plan(jobs()))]
    assert here == there
    assert len(set(here)) == len(here)
