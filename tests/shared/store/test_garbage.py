"""What killed processes leave behind is found and removed, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import redis

from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.garbage import Garbage, GarbageStore
from fitq_shared.store.keys import SubmissionKeys, named
from fitq_shared.store.payload import Payload
from fitq_shared.store.submitting import SubmittingStore

COMMIT = Commit(results=b"results", traces=b"traces", job_count=1, seconds=0.5, statuses={"converged": 1}, attempt=2)


@pytest.fixture
def garbage(settings: Settings) -> GarbageStore:
    return GarbageStore(settings)


@pytest.fixture
def filed(settings: Settings, tmp_path: Path) -> Settings:
    """The same namespace with results in files."""
    return msgspec.structs.replace(settings, results_url=f"file://{tmp_path}")


def add(store: SubmittingStore, name: str, key: str = "") -> None:
    """A submission of one chunk."""
    store.open(name, "", key)
    store.add_chunk(name, Payload(0, b"jobs", 1, 0, 0, sets_frame=b"sets"), "lane")
    store.close(name)


def keys_of(client: redis.Redis, settings: Settings) -> set[bytes]:
    """Every key of the namespace."""
    return set(client.scan_iter(f"{settings.namespace}:*"))


def test_submissions_in_any_state_are_no_garbage(
    store: SubmittingStore, fitting: FittingStore, garbage: GarbageStore, redis_client: redis.Redis
) -> None:
    """Being opened, filled, fitted, finished or cancelled: not a key is touched."""
    store.open("opened", "", key="mine")
    for name in ("waiting", "claimed", "finished", "cancelled"):
        add(store, name)
    fitting.claim("claimed", 0, "worker")
    fitting.commit("finished", 0, COMMIT)
    store.cancel("cancelled")
    before = keys_of(redis_client, store.settings)
    found = garbage.find()
    assert found == Garbage([], [])
    garbage.remove(found)
    assert keys_of(redis_client, store.settings) == before


def test_keys_of_a_submission_that_is_no_more_are_garbage(
    store: SubmittingStore, garbage: GarbageStore, redis_client: redis.Redis
) -> None:
    """A sample set that a client has stored just before it died, and a name; those of another stay."""
    add(store, "deleted", key="old")
    add(store, "kept", key="new")
    namespace = store.settings.namespace
    stray = SubmissionKeys(namespace, "deleted").shared_sets("0123")
    redis_client.set(stray, b"frame")
    store.delete("deleted")
    redis_client.set(named(namespace, "old"), "deleted")
    before = keys_of(redis_client, store.settings)
    found = garbage.find()
    assert sorted(found.keys) == sorted([stray, named(namespace, "old")])
    garbage.remove(found)
    assert before - keys_of(redis_client, store.settings) == {key.encode() for key in found.keys}


def test_files_of_attempts_that_were_not_committed_are_garbage(filed: Settings, tmp_path: Path) -> None:
    """And halves of files; those of a submission that is being fitted may be on their way."""
    store, fitting, garbage = SubmittingStore(filed), FittingStore(filed), GarbageStore(filed)
    for name in ("finished", "running"):
        add(store, name)
        fitting.claim(name, 0, "worker")
    fitting.commit("finished", 0, COMMIT)
    (tmp_path / "running").mkdir()
    for name in ("finished", "running"):
        for stray in ("results-0-1.arrow", "traces-0-2.arrow.5f6e", "results-9-1.arrow"):
            (tmp_path / name / stray).write_bytes(b"stray")
    garbage.remove(garbage.find())
    assert sorted(path.name for path in (tmp_path / "finished").iterdir()) == ["results-0-2.arrow", "traces-0-2.arrow"]
    assert len(list((tmp_path / "running").iterdir())) == 3
    assert store.result_frame("finished", 0) == b"results"


def test_folders_that_no_submission_has_are_told_apart_from_others(filed: Settings, tmp_path: Path) -> None:
    """They may be those of another fitq, so that they are asked for by themselves."""
    store, garbage = SubmittingStore(filed), GarbageStore(filed)
    add(store, "known")
    for name in ("known", "unknown", ".hidden"):
        (tmp_path / name).mkdir()
    assert garbage.find_folders() == ["unknown"]
    garbage.remove_folders(["unknown"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "known"]


def test_a_namespace_is_not_that_of_another_that_begins_alike(
    settings: Settings, store: SubmittingStore, redis_client: redis.Redis
) -> None:
    """`fitq` and `fitq-2` share a server."""
    add(store, "theirs")
    redis_client.delete(SubmissionKeys(settings.namespace, "theirs").manifest)
    shorter = msgspec.structs.replace(settings, namespace=settings.namespace[:-1])
    assert GarbageStore(shorter).find() == Garbage([], [])
    assert GarbageStore(settings).find().keys != []
