"""Retries in the store: results stay until they are replaced, nothing is counted twice, nothing stays behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
import redis

from fitq_shared.errors import ResultsLost, RetryRefused, SubmissionNotFound
from fitq_shared.settings import Settings
from fitq_shared.store import committed
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.frame_files import FrameFiles
from fitq_shared.store.keys import SubmissionKeys, active, expiries, taken
from fitq_shared.store.payload import Payload
from fitq_shared.store.replaced import parse
from fitq_shared.store.retrying import Earlier, RetryingStore
from fitq_shared.store.stranded import StrandedChunks
from fitq_shared.store.submitting import SubmittingStore

LANE = "fitq.interactive"
#: What is committed of a chunk with the jobs 0, 1 and 2 (or 3, 4 and 5), of which the last two failed.
COMMIT = Commit(b"results", b"traces", 3, 0.5, {"converged": 1, "diverged": 2}, attempt=1, kept=b"kept")
#: The two jobs that failed, fitted again.
AGAIN = Commit(b"again", b"", 2, 0.5, {"converged": 1, "invalid": 1}, attempt=1, kept=b"")
FAILED = {"diverged": 2}


@pytest.fixture
def retrying(settings: Settings) -> RetryingStore:
    """The part of the store that adds retries."""
    return RetryingStore(settings)


@pytest.fixture
def finished(store: SubmittingStore, fitting: FittingStore) -> str:
    """A finished submission of two chunks with three jobs each."""
    return fill(store, fitting)


def fill(store: SubmittingStore, fitting: FittingStore, name: str = "sub") -> str:
    store.open(name, "")
    for chunk in (0, 1):
        store.add_chunk(name, Payload(chunk, b"frame %d" % chunk, 3, 3 * chunk, 3 * chunk + 2), LANE)
        fitting.claim(name, chunk, "a")
        fitting.commit(name, chunk, COMMIT)
    store.close(name)
    return name


def payload(chunk: int = 0, frame: bytes = b"retry") -> Payload:
    """The failed jobs of a chunk, on their way to be fitted again."""
    return Payload(0, frame, 2, 3 * chunk + 1, 3 * chunk + 2, id_hashes=np.arange(2, dtype=np.uint64).tobytes())


def earlier(retrying: RetryingStore, submission: str, chunk: int = 0) -> list[Earlier]:
    """Where the newest results of these jobs are."""
    (value,) = retrying.replaced(submission, [chunk])
    return [Earlier(chunk, np.array([3 * chunk + 1, 3 * chunk + 2]), len(value))]


def add(retrying: RetryingStore, submission: str = "sub", chunk: int = 0) -> int:
    """Retry the failed jobs of a chunk; returns the number of the new one."""
    return retrying.add(submission, payload(chunk), earlier(retrying, submission, chunk), FAILED, LANE)


def test_a_retry_is_a_chunk_behind_the_others_and_the_totals_stay(
    store: SubmittingStore, finished: str, retrying: RetryingStore
) -> None:
    """The submission is not finished until it is committed; its results are there all the while."""
    before = store.manifest(finished)
    assert (add(retrying, chunk=0), add(retrying, chunk=1)) == (2, 3)
    manifest = store.manifest(finished)
    assert (before.finished, manifest.finished, manifest.retrying, manifest.all_chunks) == (True, False, 4, 4)
    totals = [(m.jobs, m.chunks, m.done_jobs, m.done_chunks, m.statuses, m.finished_at) for m in (before, manifest)]
    assert totals[0] == totals[1]
    assert store.result_frames(finished, [0, 1, 2]) == [b"results", b"results", None]


def test_the_commit_of_a_retry_moves_the_counts(
    store: SubmittingStore, fitting: FittingStore, finished: str, retrying: RetryingStore
) -> None:
    """From the old statuses to the new ones, once; a status that no fit has any more is not listed."""
    add(retrying, chunk=0)
    add(retrying, chunk=1)
    claim = fitting.claim(finished, 2, "a")
    assert claim is not None
    assert (claim.jobs_frame, claim.attempt) == (b"retry", 1)
    assert fitting.commit(finished, 2, AGAIN)
    assert not fitting.commit(finished, 2, AGAIN)
    assert fitting.claim(finished, 2, "a") is None
    manifest = store.manifest(finished)
    assert (manifest.statuses, manifest.retrying) == ({"converged": 3, "diverged": 2, "invalid": 1}, 2)
    assert fitting.commit(finished, 3, AGAIN)
    manifest = store.manifest(finished)
    assert (manifest.statuses, manifest.finished) == ({"converged": 4, "invalid": 2}, True)
    assert (manifest.jobs, manifest.done_jobs, manifest.chunks, manifest.done_chunks) == (6, 6, 2, 2)
    assert [commit.replaces for commit in store.commits(finished)] == [(), (), (0,), (1,)]
    entries = parse(store.replaced(finished, [0])[0])
    assert (entries["position"].tolist(), entries["by"].tolist()) == ([1, 2], [2, 2])


def test_of_two_retries_of_the_same_jobs_the_store_takes_one(
    store: SubmittingStore, finished: str, retrying: RetryingStore
) -> None:
    """Both found the jobs free; the second one finds that they are not any more."""
    seen = earlier(retrying, finished)
    retrying.add(finished, payload(), seen, FAILED, LANE)
    with pytest.raises(RetryRefused, match="somebody else"):
        retrying.add(finished, payload(frame=b"other"), seen, FAILED, LANE)
    assert store.manifest(finished).retrying == 2


def test_a_retry_whose_answer_was_lost_is_added_once(store: SubmittingStore, finished: str, retrying: RetryingStore) -> None:
    """The Redis client repeats the command, with the same number."""
    numbered, seen = payload()._replace(chunk=2), earlier(retrying, finished)
    verdicts = [retrying._add(finished, numbered, seen, FAILED, LANE) for _ in range(2)]
    assert verdicts == [b"added", b"duplicate"]
    assert (store.manifest(finished).retrying, store.manifest(finished).retry_chunks) == (2, 1)


def test_a_number_that_another_retry_took_meanwhile_is_not_used_twice(
    finished: str, retrying: RetryingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients read the same manifest; the slower one looks again."""
    stale = retrying.manifest(finished)
    add(retrying, chunk=0)
    fresh, answers = retrying.manifest, iter([stale])
    monkeypatch.setattr(retrying, "manifest", lambda name: next(answers, None) or fresh(name))
    assert add(retrying, chunk=1) == 3


def test_jobs_are_not_retried_while_others_are_being_added(
    store: SubmittingStore, fitting: FittingStore, retrying: RetryingStore, redis_client: redis.Redis
) -> None:
    """Numbers behind the last chunk are known when there is a last one. Nothing stays of what was refused."""
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, b"frame", 3, 0, 2), LANE)
    fitting.commit("sub", 0, COMMIT)
    before = set(redis_client.scan_iter(f"{store.settings.namespace}:*"))
    with pytest.raises(RetryRefused, match="still being submitted"):
        add(retrying)
    assert set(redis_client.scan_iter(f"{store.settings.namespace}:*")) == before
    store.delete("sub")
    with pytest.raises(SubmissionNotFound):
        retrying.add("sub", payload()._replace(sets_frame=b"sets"), [], FAILED, LANE)
    assert list(redis_client.scan_iter("*{sub}*")) == []


def test_a_running_submission_has_retries_too(
    store: SubmittingStore, fitting: FittingStore, retrying: RetryingStore
) -> None:
    """It is finished when its own chunks and the retries are, whichever come last."""
    for name, order in (("first", [1, 2]), ("last", [2, 1])):
        store.open(name, "")
        for chunk in (0, 1):
            store.add_chunk(name, Payload(chunk, b"frame %d" % chunk, 3, 3 * chunk, 3 * chunk + 2), LANE)
        store.close(name)
        fitting.commit(name, 0, COMMIT)
        assert add(retrying, name) == 2
        for chunk in order:
            assert not store.manifest(name).finished
            fitting.commit(name, chunk, AGAIN if chunk == 2 else COMMIT)
        assert store.manifest(name).finished
        assert store.manifest(name).done_jobs == 6


@pytest.mark.parametrize("ends", ["end", "end_retry", "cancel"])
def test_jobs_of_a_retry_that_was_ended_keep_their_results(
    store: SubmittingStore,
    fitting: FittingStore,
    finished: str,
    retrying: RetryingStore,
    redis_client: redis.Redis,
    ends: str,
) -> None:
    """Its worker loses the claim and cannot commit; nothing of it stays, and the jobs can be retried anew."""
    before, keys = store.manifest(finished), set(redis_client.scan_iter(f"{store.settings.namespace}:*"))
    number = add(retrying)
    fitting.claim(finished, number, "a")
    if ends == "end":
        retrying.end(finished, [number, number])
    elif ends == "end_retry":
        assert fitting.end_retry(finished, number)
        assert not fitting.end_retry(finished, number)
        assert not fitting.end_retry(finished, 0)
    else:
        assert store.cancel(finished).state == "closed"
    assert not fitting.renew(finished, number, "a")
    assert not fitting.commit(finished, number, AGAIN)
    assert fitting.claim(finished, number, "b") is None
    manifest = store.manifest(finished)
    assert msgspec.structs.replace(manifest, retry_chunks=0) == before
    names = SubmissionKeys(store.settings.namespace, finished)
    left = set(redis_client.scan_iter(f"{store.settings.namespace}:*")) - keys
    assert {name.decode() for name in left} == {names.replaced, names.ids(0)}
    assert add(retrying) == number + 1
    assert fitting.commit(finished, number + 1, AGAIN)
    assert store.manifest(finished).statuses == {"converged": 3, "diverged": 2, "invalid": 1}


def test_a_cancelled_submission_is_retried_and_stays_cancelled(
    store: SubmittingStore, fitting: FittingStore, retrying: RetryingStore, redis_client: redis.Redis
) -> None:
    """Its chunks that were never fitted stay so; those of the retry are fitted, with the sample sets that they share."""
    store.open("sub", "")
    for chunk in (0, 1):
        store.add_chunk("sub", Payload(chunk, b"frame", 3, 0, 2, sets_frame=b"sets %d" % chunk), LANE)
    fitting.commit("sub", 0, COMMIT)
    store.cancel("sub")
    kept, dropped = (entry.sets_digest for entry in sorted(store.index("sub")))
    assert (store.sets_frame("sub", kept), store.sets_frame("sub", dropped)) == (b"sets 0", None)
    number = add(retrying)
    assert fitting.claim("sub", 1, "a") is None
    assert fitting.claim("sub", number, "a") is not None
    assert not store.manifest("sub").finished
    assert fitting.commit("sub", number, AGAIN)
    manifest = store.manifest("sub")
    assert (manifest.state, manifest.finished, manifest.done_jobs) == ("cancelled", True, 3)
    assert manifest.statuses == {"converged": 2, "invalid": 1}
    store.delete("sub")
    assert list(redis_client.scan_iter("*{sub}*")) == []


def test_cancelling_a_running_submission_ends_its_retries_too(
    store: SubmittingStore, fitting: FittingStore, retrying: RetryingStore
) -> None:
    """Its state says that some jobs were never fitted."""
    store.open("sub", "")
    for chunk in (0, 1):
        store.add_chunk("sub", Payload(chunk, b"frame", 3, 0, 2), LANE)
    store.close("sub")
    fitting.commit("sub", 0, COMMIT)
    add(retrying)
    manifest = store.cancel("sub")
    assert (manifest.state, manifest.finished, manifest.retrying) == ("cancelled", True, 0)
    assert manifest.statuses == COMMIT.statuses


@pytest.mark.parametrize("stage", ["added", "claimed", "committed", "twice"])
def test_a_deleted_submission_leaves_nothing_of_its_retries(
    store: SubmittingStore,
    fitting: FittingStore,
    finished: str,
    retrying: RetryingStore,
    redis_client: redis.Redis,
    stage: str,
) -> None:
    """Wherever they are."""
    number = add(retrying)
    if stage != "added":
        fitting.claim(finished, number, "a")
    if stage in ("committed", "twice"):
        fitting.commit(finished, number, AGAIN._replace(kept=bytes(2**20)))
    if stage == "twice":
        retrying.add(finished, payload(frame=b"third"), [Earlier(number, np.array([1, 2]), 0)], {"invalid": 2}, LANE)
    assert store.size(finished)[0] == sum(redis_client.memory_usage(name) or 0 for name in redis_client.scan_iter("*{sub}*"))
    store.delete(finished)
    assert list(redis_client.scan_iter("*{sub}*")) == []
    left = {taken(store.settings.namespace).encode()}
    assert set(redis_client.scan_iter(f"{store.settings.namespace}:*")) <= left


@pytest.mark.parametrize("late", ["before", "after"])
def test_what_is_added_while_a_submission_is_deleted_goes_too(
    store: SubmittingStore,
    finished: str,
    retrying: RetryingStore,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    late: str,
) -> None:
    """A retry that came when the keys were listed, before or after these are removed."""
    unlink = store._unlink

    def unlink_and_add(names: list[str]) -> None:
        monkeypatch.setattr(store, "_unlink", unlink)
        seen = earlier(retrying, finished)
        if late == "before":
            retrying.add(finished, payload()._replace(sets_frame=b"sets"), seen, FAILED, LANE)
        unlink(names)
        if late == "after":
            retrying.add(finished, payload()._replace(sets_frame=b"sets"), [], FAILED, LANE)

    monkeypatch.setattr(store, "_unlink", unlink_and_add)
    store.delete(finished)
    assert list(redis_client.scan_iter("*{sub}*")) == []
    assert not redis_client.exists(active(store.settings.namespace))


def test_the_reconciler_looks_after_a_retried_submission(
    store: SubmittingStore, finished: str, retrying: RetryingStore, stranded: StrandedChunks, redis_client: redis.Redis
) -> None:
    """Again, after it had been finished; and not because it looked in just before."""
    assert list(stranded.unfinished()) == []
    add(retrying)
    assert list(stranded.unfinished()) == [finished]
    listed = active(store.settings.namespace)
    stranded._forget(keys=[SubmissionKeys(store.settings.namespace, finished).manifest, listed], args=[finished])
    assert redis_client.sismember(listed, finished)
    store.cancel(finished)
    assert list(stranded.unfinished()) == []
    assert not redis_client.exists(listed)


def test_a_retry_puts_the_expiry_off(settings: Settings, redis_client: redis.Redis) -> None:
    """When it begins, ends and is committed; none of its keys goes before the others."""
    brief = msgspec.structs.replace(settings, ttl_seconds=1000)
    store, fitting, retrying = SubmittingStore(brief), FittingStore(brief), RetryingStore(brief)
    fill(store, fitting)
    changes: list[Callable[[], object]] = [
        lambda: add(retrying),
        lambda: retrying.end("sub", [2]),
        lambda: add(retrying),
        lambda: fitting.commit("sub", 3, AGAIN),
    ]
    for change in changes:
        redis_client.zadd(expiries(settings.namespace), {"sub": 1.0})
        change()
        assert (redis_client.zscore(expiries(settings.namespace), "sub") or 0.0) > 2.0
    assert [name for name in redis_client.scan_iter("*{sub}*") if redis_client.ttl(name) != -1] == []


# Jobs that are kept.


def test_kept_jobs_are_stored_with_the_commit_and_checked(
    store: SubmittingStore, finished: str, redis_client: redis.Redis
) -> None:
    """As results are: a frame that was changed by hand is no frame of this submission."""
    assert store.kept_frames(finished, [0, 1]) == [b"kept", b"kept"]
    redis_client.set(SubmissionKeys(store.settings.namespace, finished).kept(1), b"Kept")
    with pytest.raises(ResultsLost, match="jobs to retry of chunk 1"):
        store.kept_frames(finished, [0, 1])


def test_a_lost_part_of_the_kept_jobs_stores_nothing(
    store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """All or nothing: the results of such a commit are not there either."""
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, b"frame", 3, 0, 2), LANE)
    names = SubmissionKeys(store.settings.namespace, "sub")
    touched = [names.manifest, names.committed, names.log, names.lease(0), names.enqueued, names.attempts, names.starts]
    touched += [names.trials, names.jobs(0), names.chunk_index, names.retries, expiries(store.settings.namespace)]
    for kind in committed.KINDS[:2]:
        redis_client.set(names.staged(kind, 0, 1), kind)
    frames = [names.staged(kind, 0, 1) for kind in committed.KINDS] + [names.frame(kind, 0) for kind in committed.KINDS]
    verdict = fitting._commit(keys=[*touched, *frames], args=["sub", 0, 1, "1", 1, 1, 1, 3, 0.5, 0, "diverged", 3])
    assert verdict == b"missing"
    assert store.result_frame("sub", 0) is None
    assert (store.manifest("sub").done_jobs, store.manifest("sub").statuses) == (0, {})
    assert fitting.claim("sub", 0, "a") is not None


def test_a_chunk_without_such_jobs_has_no_key_for_them(
    store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """It costs nothing."""
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, b"frame", 3, 0, 2), LANE)
    fitting.commit("sub", 0, COMMIT._replace(kept=b""))
    assert store.kept_frames("sub", [0]) == [None]
    assert list(redis_client.scan_iter("*{sub}:kept*")) == []


@pytest.mark.parametrize("entry", ["4", "4 7-f4cdb7ff 6-4b0bd3ff"])
def test_chunks_that_earlier_versions_have_committed_keep_no_jobs(entry: str) -> None:
    """And are read as ever: what is not known of a frame is not checked."""
    found = committed.parse(entry.encode())
    assert (found.attempt, found.kept) == (4, None)
    assert found.matches("kept", None)
    assert found.matches("results", b"") == (entry == "4")


def test_kept_jobs_are_files_where_results_are(settings: Settings, fitting: FittingStore, tmp_path: Path) -> None:
    """Of the attempt that counts; they go with the submission."""
    store = SubmittingStore(msgspec.structs.replace(settings, results_url=tmp_path.as_uri()))
    fill(store, fitting)
    assert not fitting.commit("sub", 0, COMMIT._replace(attempt=2))
    found = sorted(path.name for path in (tmp_path / "sub").iterdir())
    assert found == [f"{kind}-{chunk}-1.arrow" for kind, chunk in itertools.product(("kept", "results", "traces"), (0, 1))]
    assert store.kept_frames("sub", [0]) == [b"kept"]
    FrameFiles(tmp_path.as_uri(), "sub").remove("kept", 0, 1)
    with pytest.raises(ResultsLost, match="jobs to retry of chunk 0"):
        store.kept_frames("sub", [0])
    store.delete("sub")
    assert list(tmp_path.iterdir()) == []


def test_a_retried_chunk_that_was_ended_leaves_no_file(settings: Settings, fitting: FittingStore, tmp_path: Path) -> None:
    """Its worker has written and is told that nobody wants it."""
    elsewhere = msgspec.structs.replace(settings, results_url=tmp_path.as_uri())
    store, retrying = SubmittingStore(elsewhere), RetryingStore(elsewhere)
    fill(store, fitting)
    before = sorted((tmp_path / "sub").iterdir())
    number = add(retrying)
    store.cancel("sub")
    assert not fitting.commit("sub", number, AGAIN._replace(kept=b"kept"))
    assert sorted((tmp_path / "sub").iterdir()) == before


def test_the_ids_of_retried_jobs_lead_to_both_chunks(store: SubmittingStore, finished: str, retrying: RetryingStore) -> None:
    """The index of ids has an entry for each."""
    number = add(retrying)
    bucket = cast(bytes, store._redis.get(SubmissionKeys(store.settings.namespace, finished).ids(0)))
    assert np.frombuffer(bucket, np.dtype("<u4"))[1::2].tolist() == [number, number]
