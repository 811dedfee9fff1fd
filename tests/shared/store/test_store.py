"""The store's promises, on every server: nothing is counted twice, nothing stays behind, nobody takes another's chunk."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import msgspec
import pytest
import redis

from fitq_shared.errors import (
    AccessDenied,
    DifferentContent,
    ResultsLost,
    ServerFull,
    ServerRefuses,
    ServerUnreachable,
    SubmissionCancelled,
    SubmissionNotFound,
)
from fitq_shared.settings import Settings
from fitq_shared.store import reader
from fitq_shared.store import stranded as stranded_module
from fitq_shared.store.fitting import Claim, Commit, FittingStore
from fitq_shared.store.keys import SubmissionKeys, expiries, taken
from fitq_shared.store.payload import Payload
from fitq_shared.store.reader import IndexedChunk, Reader
from fitq_shared.store.stranded import StrandedChunks, WaitingChunk
from fitq_shared.store.submitting import SubmittingStore

LANE = "fitq.interactive"
COMMIT = Commit(
    results=b"results", traces=b"traces", job_count=3, seconds=0.5, statuses={"converged": 2, "diverged": 1}, attempt=1
)


@pytest.fixture
def submission(store: SubmittingStore) -> str:
    """An open submission of two chunks with three jobs each."""
    store.open("sub", "jobs.jsonl")
    for chunk in (0, 1):
        store.add_chunk("sub", Payload(chunk, b"frame %d" % chunk, 3, 0, 2), LANE)
    return "sub"


def entry_of(store: Reader, chunk: int) -> IndexedChunk:
    """The entry in the index of a chunk of the submission."""
    (entry,) = (entry for entry in store.index("sub") if entry.number == chunk)
    return entry


def test_an_open_submission_counts_the_jobs_and_chunks_added(store: SubmittingStore, submission: str) -> None:
    """The manifest says what was submitted, before anything is fitted."""
    manifest = store.manifest(submission)
    assert (manifest.source, manifest.state, manifest.jobs, manifest.chunks) == ("jobs.jsonl", "open", 6, 2)
    assert (manifest.done_jobs, manifest.started_at, manifest.finished) == (0, None, False)


def test_adding_a_chunk_twice_counts_it_once(store: SubmittingStore, submission: str) -> None:
    """A command that the Redis client repeats because its answer was lost changes nothing."""
    store.add_chunk(submission, Payload(1, b"frame 1", 3, 0, 2), LANE)
    assert (store.manifest(submission).jobs, store.manifest(submission).chunks) == (6, 2)


def test_another_chunk_of_the_same_number_is_refused(store: SubmittingStore, submission: str, fitting: FittingStore) -> None:
    """Two clients that fill one submission with different jobs do not mix them, even when the first ones are fitted."""
    fitting.commit(submission, 1, COMMIT)
    with pytest.raises(DifferentContent, match=r"jobs 7 to 9 of the input .*delete it first"):
        store.add_chunk(submission, Payload(1, b"other", 3, 7, 9), LANE)
    with pytest.raises(DifferentContent):
        store.add_chunk(submission, Payload(0, b"other", 3, 0, 2), LANE)
    assert fitting.claim(submission, 0, "a") == Claim(b"frame 0", 1, 1, entry_of(store, 0))
    store.add_chunk(submission, Payload(1, b"frame 1", 3, 0, 2), LANE)
    assert (store.manifest(submission).jobs, store.manifest(submission).chunks) == (6, 2)


def test_a_commit_removes_the_jobs_and_says_which_attempt_it_was(
    store: SubmittingStore, submission: str, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """Jobs are not needed once their results are there, and the memory of the server is."""
    names = SubmissionKeys(store.settings.namespace, submission)
    fitting.commit(submission, 0, COMMIT._replace(attempt=2))
    assert (redis_client.exists(names.jobs(0)), redis_client.exists(names.jobs(1))) == (0, 1)
    ((_, entry),) = cast("list[tuple[bytes, dict[bytes, bytes]]]", redis_client.xrange(names.log))
    assert entry == {b"chunk": b"0", b"jobs": b"3", b"attempt": b"2"}


def test_the_size_of_a_submission_falls_when_its_jobs_are_fitted(
    store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """It is what the server itself says of all its keys."""
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, bytes(100_000), 3, 0, 2), LANE)
    assert store.size("sub")[0] > 100_000
    fitting.commit("sub", 0, COMMIT._replace(results=bytes(10_000)))
    assert 10_000 < store.size("sub")[0] < 100_000
    assert store.size("sub")[1] == 0
    names = redis_client.scan_iter(f"{store.settings.namespace}:{{sub}}:*")
    assert store.size("sub")[0] == sum(redis_client.memory_usage(name) or 0 for name in names)


def test_a_chunk_cannot_be_added_to_a_deleted_submission(store: SubmittingStore, submission: str) -> None:
    """A submission deleted while it is being filled does not come back as half a manifest."""
    store.delete(submission)
    with pytest.raises(SubmissionNotFound, match="'sub'"):
        store.add_chunk(submission, Payload(2, b"frame 2", 3, 0, 2), LANE)
    assert store.manifests() == []


def test_a_claim_hands_out_the_job_frame_and_counts_attempts(
    store: SubmittingStore, submission: str, fitting: FittingStore
) -> None:
    """A worker gets back the chunk that it holds already, as a further attempt."""
    assert fitting.claim(submission, 1, "a") == Claim(b"frame 1", 1, 1, entry_of(store, 1))
    assert fitting.claim(submission, 1, "a") == Claim(b"frame 1", 2, 2, entry_of(store, 1))
    assert store.manifest(submission).started_at is not None


def test_a_claimed_chunk_is_refused_to_other_workers(submission: str, fitting: FittingStore) -> None:
    """Only one worker fits a chunk at a time, and a refusal is no attempt."""
    fitting.claim(submission, 0, "a")
    assert fitting.claim(submission, 0, "b") is None
    assert fitting.claim(submission, 0, "a") == Claim(b"frame 0", 2, 2, entry_of(fitting, 0))


def test_the_chunk_of_a_worker_that_stopped_renewing_can_be_claimed(
    store: SubmittingStore, submission: str, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """The claim is a lease that expires by itself."""
    lease = SubmissionKeys(store.settings.namespace, submission).lease(0)
    fitting.claim(submission, 0, "a")
    assert 0 < redis_client.ttl(lease) <= store.settings.lease_seconds
    redis_client.delete(lease)  # as its expiry does
    assert fitting.claim(submission, 0, "b") == Claim(b"frame 0", 2, 2, entry_of(store, 0))
    assert not fitting.renew(submission, 0, "a")


def test_only_the_holder_renews_a_claim(
    store: SubmittingStore, submission: str, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """Renewing starts the lease again."""
    lease = SubmissionKeys(store.settings.namespace, submission).lease(0)
    fitting.claim(submission, 0, "a")
    redis_client.expire(lease, 1)
    assert not fitting.renew(submission, 0, "b")
    assert redis_client.ttl(lease) <= 1
    assert fitting.renew(submission, 0, "a")
    assert redis_client.ttl(lease) > 1


def test_a_commit_stores_the_frames_and_counts_the_fits(
    store: SubmittingStore, submission: str, fitting: FittingStore
) -> None:
    """After a commit the chunk is done and nobody may claim it."""
    fitting.claim(submission, 1, "a")
    assert fitting.commit(submission, 1, COMMIT)
    assert (store.result_frame(submission, 1), store.trace_frame(submission, 1)) == (b"results", b"traces")
    manifest = store.manifest(submission)
    assert (manifest.done_jobs, manifest.done_chunks, manifest.fit_seconds) == (3, 1, 0.5)
    assert manifest.statuses == {"converged": 2, "diverged": 1}
    assert list(store.committed_chunks(submission)) == [1]
    assert fitting.claim(submission, 1, "a") is None


def test_a_second_commit_of_a_chunk_is_dropped(store: SubmittingStore, submission: str, fitting: FittingStore) -> None:
    """The first result counts; a later one changes nothing."""
    fitting.commit(submission, 0, COMMIT)
    assert not fitting.commit(submission, 0, COMMIT._replace(results=b"other", statuses={"error": 3}))
    assert store.result_frame(submission, 0) == b"results"
    assert store.manifest(submission).statuses == {"converged": 2, "diverged": 1}
    assert list(store.committed_chunks(submission)) == [0]


def test_a_chunk_without_traces_has_no_trace_frame(store: SubmittingStore, submission: str, fitting: FittingStore) -> None:
    """No empty frames are kept."""
    fitting.commit(submission, 0, COMMIT._replace(traces=b""))
    assert store.trace_frame(submission, 0) is None


def test_a_submission_finishes_with_its_last_commit_once_it_is_closed(
    store: SubmittingStore, submission: str, fitting: FittingStore
) -> None:
    """Neither closing alone nor the commits alone end it."""
    fitting.commit(submission, 0, COMMIT)
    store.close(submission)
    assert not store.manifest(submission).finished
    fitting.commit(submission, 1, COMMIT)
    assert store.manifest(submission).finished


def test_a_submission_finishes_when_it_is_closed_after_its_last_commit(
    store: SubmittingStore, submission: str, fitting: FittingStore
) -> None:
    """Workers may be faster than the client that submits."""
    fitting.commit(submission, 0, COMMIT)
    fitting.commit(submission, 1, COMMIT)
    assert not store.manifest(submission).finished
    store.close(submission)
    assert store.manifest(submission).finished


def test_a_deleted_submission_leaves_no_key_behind(
    store: SubmittingStore, submission: str, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """Workers that still have a chunk of it find nothing to claim, renew or commit."""
    fitting.claim(submission, 0, "a")
    fitting.commit(submission, 1, COMMIT)
    store.delete(submission)
    left = list(redis_client.scan_iter(f"{store.settings.namespace}:*"))
    assert left == [taken(store.settings.namespace).encode()]  # one number for each lane
    assert fitting.claim(submission, 0, "a") is None
    assert not fitting.renew(submission, 0, "a")
    assert not fitting.commit(submission, 0, COMMIT)
    with pytest.raises(SubmissionNotFound, match="mistyped, deleted or expired"):
        store.delete(submission)


def test_commits_are_listed_in_their_order_across_pages(
    store: SubmittingStore, monkeypatch: pytest.MonkeyPatch, fitting: FittingStore
) -> None:
    """The log is read page by page without loss or repetition."""
    monkeypatch.setattr(reader, "_LOG_PAGE", 2)
    store.open("sub", "")
    order = [3, 0, 4, 1, 2]
    for chunk in order:
        store.add_chunk("sub", Payload(chunk, b"frame", 3, 0, 2), LANE)
        fitting.commit("sub", chunk, COMMIT)
    assert list(store.committed_chunks("sub")) == order


def test_submissions_are_listed_newest_first_without_the_expired(store: SubmittingStore, redis_client: redis.Redis) -> None:
    """A manifest that has expired disappears from the list."""
    for name in ("first", "second", "third"):
        store.open(name, "")
    redis_client.delete(SubmissionKeys(store.settings.namespace, "second").manifest)
    assert [manifest.id for manifest in store.manifests()] == ["third", "first"]


def test_a_submission_expires_as_a_whole(settings: Settings, redis_client: redis.Redis) -> None:
    """Nothing of it goes earlier, however old its first frames are, and nothing stays; others are not touched."""
    brief = msgspec.structs.replace(settings, ttl_seconds=100)
    store, fitting = SubmittingStore(brief), FittingStore(brief)
    for name in ("old", "young"):
        store.open(name, "", key=f"key of {name}")
        store.add_chunk(name, Payload(0, b"frame 0", 3, 0, 2), LANE)
        fitting.claim(name, 0, "a")
        fitting.commit(name, 0, COMMIT)
    names = list(redis_client.scan_iter(f"{settings.namespace}:*"))
    assert [name for name in names if redis_client.ttl(name) != -1] == []
    redis_client.zadd(expiries(settings.namespace), {"old": 1.0})
    assert store.delete_expired() == ["old"]
    assert [manifest.id for manifest in store.manifests()] == ["young"]
    assert [name for name in redis_client.scan_iter(f"{settings.namespace}:*") if b"old" in name] == []
    assert store.delete_expired() == []


def test_every_change_puts_the_expiry_off(settings: Settings, redis_client: redis.Redis) -> None:
    """A submission that was forgotten long ago and is filled, fitted or closed now lives on."""
    brief = msgspec.structs.replace(settings, ttl_seconds=100)
    store, fitting, listed = SubmittingStore(brief), FittingStore(brief), expiries(settings.namespace)
    store.open("sub", "")
    changes = (
        lambda: store.add_chunk("sub", Payload(0, b"frame 0", 3, 0, 2), LANE),
        lambda: fitting.commit("sub", 0, COMMIT),
        lambda: store.close("sub"),
    )
    for change in changes:
        redis_client.zadd(listed, {"sub": 1.0})
        change()
        assert (redis_client.zscore(listed, "sub") or 0.0) > time.time() + 50


def test_without_a_time_to_live_nothing_expires(settings: Settings, redis_client: redis.Redis) -> None:
    """FITQ_TTL_SECONDS=0."""
    store = SubmittingStore(msgspec.structs.replace(settings, ttl_seconds=0))
    store.open("sub", "")
    store.close("sub")
    assert redis_client.zcard(expiries(settings.namespace)) == 0
    assert store.delete_expired() == []


def test_a_closed_submission_takes_no_more_chunks(store: SubmittingStore, submission: str) -> None:
    """What it has may be added again, as by an upload that is repeated."""
    store.close(submission)
    store.add_chunk(submission, Payload(1, b"frame 1", 3, 0, 2), LANE)
    with pytest.raises(DifferentContent, match="complete"):
        store.add_chunk(submission, Payload(2, b"frame 2", 3, 6, 8), LANE)
    assert store.manifest(submission).chunks == 2


def test_an_attempt_that_was_given_back_does_not_count_as_a_death(submission: str, fitting: FittingStore) -> None:
    """The number of the attempt goes on: frames of two attempts must not have one name."""
    fitting.claim(submission, 0, "a")
    fitting.give_back(submission, 0, "a")
    found = fitting.claim(submission, 0, "b")
    assert found is not None
    assert (found.attempt, found.starts) == (2, 1)


def test_one_who_lost_a_claim_gives_back_his_own_start_only(submission: str, fitting: FittingStore) -> None:
    """The claim of the other worker stays."""
    fitting.claim(submission, 0, "a")
    fitting.give_back(submission, 0, "another")
    assert fitting.renew(submission, 0, "a")


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "swapped"])
def test_results_that_are_gone_or_damaged_are_an_error(
    store: SubmittingStore, submission: str, fitting: FittingStore, redis_client: redis.Redis, damage: str
) -> None:
    """It names the chunk; the other chunk can be read."""
    names = SubmissionKeys(store.settings.namespace, submission)
    fitting.commit(submission, 0, COMMIT)
    fitting.commit(submission, 1, COMMIT._replace(results=b"others!"))
    frames = {"cut": b"resul", "flipped": b"resulTs", "swapped": b"others!"}
    redis_client.delete(names.results(0))
    if damage != "gone":
        redis_client.set(names.results(0), frames[damage])
    with pytest.raises(ResultsLost, match="results of chunk 0"):
        store.result_frames(submission, [0, 1])
    assert store.result_frame(submission, 1) == b"others!"
    assert store.trace_frame(submission, 0) == b"traces"
    redis_client.delete(names.traces(1))
    with pytest.raises(ResultsLost, match="traces of chunk 1"):
        store.trace_frames(submission, [0, 1])


def test_traces_that_nobody_kept_are_not_lost(store: SubmittingStore, submission: str, fitting: FittingStore) -> None:
    """A chunk whose jobs keep none has no frame."""
    fitting.commit(submission, 0, COMMIT._replace(traces=b""))
    assert store.trace_frames(submission, [0, 1]) == [None, None]


def test_results_of_a_version_without_digests_can_be_read(
    store: SubmittingStore, submission: str, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """It noted the attempt alone."""
    fitting.commit(submission, 0, COMMIT)
    redis_client.hset(SubmissionKeys(store.settings.namespace, submission).committed, "0", "1")
    assert store.result_frame(submission, 0) == b"results"


def test_a_chunk_is_unclaimed_when_it_is_neither_fresh_nor_committed_nor_leased(
    store: SubmittingStore, submission: str, monkeypatch: pytest.MonkeyPatch, fitting: FittingStore, stranded: StrandedChunks
) -> None:
    """Such chunks may have lost their message."""
    assert stranded.unclaimed(submission) == []
    monkeypatch.setattr(stranded_module, "DELIVERY_GRACE_SECONDS", -1)
    assert sorted(chunk.number for chunk in stranded.unclaimed(submission)) == [0, 1]
    fitting.claim(submission, 0, "a")
    assert [(chunk.number, chunk.lane) for chunk in stranded.unclaimed(submission)] == [(1, LANE)]
    fitting.commit(submission, 0, COMMIT)
    fitting.commit(submission, 1, COMMIT)
    assert stranded.unclaimed(submission) == []


def test_a_chunk_is_fresh_again_after_a_new_message(
    store: SubmittingStore, submission: str, redis_client: redis.Redis, stranded: StrandedChunks
) -> None:
    """The time of the last message counts."""
    names = SubmissionKeys(store.settings.namespace, submission)
    redis_client.hset(names.enqueued, "0", f"{LANE} 1.0")
    assert stranded.unclaimed(submission) == [WaitingChunk(0, LANE, 1.0)]
    stranded.note_message(submission, WaitingChunk(0, LANE, 1.0))
    assert stranded.unclaimed(submission) == []


def test_finished_submissions_are_not_active(
    store: SubmittingStore, submission: str, fitting: FittingStore, stranded: StrandedChunks
) -> None:
    """Workers look after unfinished ones only."""
    assert list(stranded.unfinished()) == [submission]
    fitting.commit(submission, 0, COMMIT)
    fitting.commit(submission, 1, COMMIT)
    store.close(submission)
    assert list(stranded.unfinished()) == []


def test_a_full_server_is_reported_as_such_and_nothing_is_stored(full_server: SubmittingStore) -> None:
    """The message says what to do."""
    with pytest.raises(ServerFull, match="delete finished submissions"):
        full_server.add_chunk("sub", Payload(0, b"frame", 3, 0, 2), LANE)
    assert full_server.manifest("sub").chunks == 0


def test_a_wrong_password_is_reported_with_the_password_masked(settings: Settings) -> None:
    """What the server says is in the message, the password is not."""
    host = settings.redis_url.rpartition("@")[2]
    with pytest.raises(AccessDenied, match=r"does not let us in") as caught:
        SubmittingStore(msgspec.structs.replace(settings, redis_url=f"redis://:geheim@{host}")).ping()
    assert "geheim" not in str(caught.value)


def test_an_unreachable_server_is_reported_with_the_password_masked() -> None:
    """Nobody listens at the port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://:geheim@127.0.0.1:{unused.getsockname()[1]}/0"
        with pytest.raises(ServerUnreachable, match=r"no Redis answers at redis://:\*\*\*@127") as caught:
            SubmittingStore(Settings(redis_url=url)).ping()
    assert "geheim" not in str(caught.value)


def test_a_cancelled_submission_keeps_what_is_fitted_and_drops_the_rest(
    store: SubmittingStore, submission: str, fitting: FittingStore, redis_client: redis.Redis, stranded: StrandedChunks
) -> None:
    """Nobody claims, commits or adds any more, and the reconciler does not look for it."""
    fitting.commit(submission, 0, COMMIT)
    fitting.claim(submission, 1, "a")
    manifest = store.cancel(submission)
    assert (manifest.state, manifest.finished, manifest.done_jobs, manifest.jobs) == ("cancelled", True, 3, 6)
    assert not fitting.renew(submission, 1, "a")
    assert not fitting.commit(submission, 1, COMMIT)
    assert fitting.claim(submission, 1, "b") is None
    assert store.result_frames(submission, [0, 1]) == [b"results", None]
    assert list(stranded.unfinished()) == []
    names = SubmissionKeys(store.settings.namespace, submission)
    assert redis_client.exists(names.jobs(1), names.lease(1), names.enqueued, names.starts) == 0
    with pytest.raises(SubmissionCancelled, match="takes no more jobs"):
        store.add_chunk(submission, Payload(2, b"frame 2", 3, 0, 2), LANE)
    with pytest.raises(SubmissionCancelled, match="takes no more jobs"):
        store.close(submission)
    assert store.cancel(submission) == manifest


def test_a_finished_submission_cannot_be_cancelled(store: SubmittingStore, submission: str, fitting: FittingStore) -> None:
    """There is nothing left to cancel."""
    fitting.commit(submission, 0, COMMIT)
    fitting.commit(submission, 1, COMMIT)
    store.close(submission)
    assert store.cancel(submission).state == "closed"
    with pytest.raises(SubmissionNotFound):
        store.cancel("another")


def test_a_user_who_may_not_do_it_is_told_what(settings: Settings, redis_client: redis.Redis) -> None:
    """And who is, and what to do."""
    redis_client.acl_setuser("viewer", enabled=True, passwords=["+geheim"], keys=["*"], commands=["+ping", "+hello"])
    host = settings.redis_url.rpartition("@")[2]
    try:
        viewer = SubmittingStore(msgspec.structs.replace(settings, redis_url=f"redis://viewer:geheim@{host}"))
        viewer.ping()
        with pytest.raises(AccessDenied, match=r"does not let user .viewer. run HGETALL .*docs.access.md"):
            viewer.manifest("sub")
    finally:
        redis_client.acl_deluser("viewer")


def test_a_replica_refuses_and_is_called_one(store: SubmittingStore, redis_client: redis.Redis) -> None:
    """It answers, so that it is not unreachable."""
    redis_client.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(ServerRefuses, match="it is a replica"):
            store.open("sub", "")
    finally:
        redis_client.replicaof("NO", "ONE")


def test_a_server_that_is_busy_with_a_script_refuses(store: SubmittingStore, redis_client: redis.Redis) -> None:
    """Until the script ends or is killed."""
    before = str(redis_client.config_get("busy-reply-threshold")["busy-reply-threshold"])
    redis_client.config_set("busy-reply-threshold", 1)
    with redis.Redis.from_url(store.settings.redis_url) as busy, ThreadPoolExecutor(1) as pool:
        endless = pool.submit(busy.eval, "while true do end", 0)
        try:
            time.sleep(0.2)
            with pytest.raises(ServerRefuses, match="a script keeps it busy"):
                store.manifest("sub")
        finally:
            redis_client.script_kill()
        with pytest.raises(redis.exceptions.ResponseError):
            endless.result()
        redis_client.config_set("busy-reply-threshold", before)


@pytest.fixture
def full_server(store: SubmittingStore, redis_client: redis.Redis) -> Iterator[SubmittingStore]:
    """A store with an open submission on a server that refuses writes."""
    store.open("sub", "")
    redis_client.config_set("maxmemory", 1)
    yield store
    with redis.Redis.from_url(store.settings.redis_url) as client:
        client.config_set("maxmemory", 0)
