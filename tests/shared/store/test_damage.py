"""Records that something else has written: an error that names the submission, and others are not harmed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.errors import SubmissionDamaged
from fitq_shared.jobs.ids import bucket_of
from fitq_shared.store.committed import parse
from fitq_shared.store.damage import records_of
from fitq_shared.store.fitting import FittingStore
from fitq_shared.store.keys import SubmissionKeys, expiries
from fitq_shared.store.payload import Payload
from fitq_shared.store.reader import indexed_chunk
from fitq_shared.store.stranded import StrandedChunks
from fitq_shared.store.submitting import SubmittingStore

LANE = "fitq.interactive"
DIGEST = b"0123456789abcdef"


@pytest.fixture
def names(store: SubmittingStore) -> SubmissionKeys:
    """The keys of a submission of one chunk with three jobs, beside one that nobody harms."""
    for name in ("sub", "other"):
        store.open(name, "")
        store.add_chunk(name, Payload(0, b"frame", 3, 0, 2), LANE)
    return SubmissionKeys(store.settings.namespace, "sub")


@pytest.mark.parametrize(
    "entry",
    [b"", b"0 2", b"0 2 3", b"a b c d", b"2 0 3 " + DIGEST, b"0 2 4 " + DIGEST, b"0 2 0 " + DIGEST, b"-1 2 3 " + DIGEST,
     b"0 99999999 32769 " + DIGEST, b"0 " + b"9" * 5000 + b" 3 " + DIGEST, b"0 2 3 " + DIGEST + b" {other}:x", b"\xff"],
)  # fmt: skip
def test_a_chunk_whose_entry_something_else_has_written_is_refused(
    store: SubmittingStore, fitting: FittingStore, names: SubmissionKeys, redis_client: redis.Redis, entry: bytes
) -> None:
    """Its numbers are sizes to the worker, and its digests parts of keys."""
    redis_client.hset(names.chunk_index, "0", entry)
    with pytest.raises(SubmissionDamaged, match="sub: what is stored of it cannot be read"):
        fitting.claim("sub", 0, "me")
    with pytest.raises(SubmissionDamaged):
        store.index("sub")
    assert fitting.claim("other", 0, "me") is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [("jobs", b"many"), ("jobs", b"-1"), ("created_at", b"nan"), ("created_at", b"1e300"), ("state", b"odd"),
     ("source", b"\xff"), ("status:odd", b"x"), ("chunks", b"9" * 30)],
)  # fmt: skip
def test_a_manifest_that_something_else_has_written_is_refused(
    store: SubmittingStore,
    stranded: StrandedChunks,
    names: SubmissionKeys,
    redis_client: redis.Redis,
    field: str,
    value: bytes,
) -> None:
    """Workers look after the others, and do not try to delete it for ever."""
    redis_client.hset(names.manifest, field, value)
    with pytest.raises(SubmissionDamaged):
        store.manifest("sub")
    assert list(stranded.unfinished()) == ["other"]
    redis_client.zadd(expiries(store.settings.namespace), {"sub": 1.0})
    store.delete_expired()
    assert store.delete_expired() == []


def test_what_is_noted_of_commits_and_messages_is_refused_too(
    store: SubmittingStore, stranded: StrandedChunks, names: SubmissionKeys, redis_client: redis.Redis
) -> None:
    """The log, committed chunks, the index of ids, messages sent."""
    redis_client.hset(names.committed, "0", b"one")
    redis_client.hset(names.enqueued, "0", b"lane")
    redis_client.set(names.ids(bucket_of("a")), b"not eight")
    redis_client.xadd(names.log, {"chunk": b"0"})
    asks: list[Callable[[], object]] = [
        lambda: store.result_frame("sub", 0),
        lambda: stranded.unclaimed("sub"),
        lambda: store.chunks_with_id("sub", "a"),
        lambda: store.commits("sub"),
    ]
    for ask in asks:
        with pytest.raises(SubmissionDamaged):
            ask()


def test_offers_that_something_else_has_written_are_dropped(
    store: SubmittingStore, fitting: FittingStore, names: SubmissionKeys, redis_client: redis.Redis
) -> None:
    """They are hints."""
    store.offer("shape", "other", 0)
    (key,) = redis_client.scan_iter(f"{store.settings.namespace}:waiting:*")
    redis_client.sadd(key, b"\xff", b"", b"one two three", b"other x", b"other 99999999999999999999")
    assert fitting.take_offers("shape", "sub", 0) == [("other", 0)]


@given(st.binary(max_size=60) | st.from_regex(rb"[0-9 a-f-]{0,40}", fullmatch=True))
def test_any_bytes_are_an_entry_or_damage(value: bytes) -> None:
    """Of the index and of committed chunks."""
    for read in (lambda: indexed_chunk(3, value), lambda: parse(value)):
        with contextlib.suppress(SubmissionDamaged), records_of("sub"):
            read()
