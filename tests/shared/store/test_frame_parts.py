"""Frames in parts: whole or not there, whatever their size."""

from __future__ import annotations

import secrets

import pytest
import redis

from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.frame_parts import PART_BYTES, get_frames, keys_of_parts, part_count, set_frame
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.payload import Payload
from fitq_shared.store.submitting import SubmittingStore

SIZES = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES]


@pytest.fixture
def frames(store: SubmittingStore, redis_client: redis.Redis) -> dict[str, bytes]:
    """Frames of every awkward size, stored."""
    stored = {f"{store.settings.namespace}:frame-{size}": secrets.token_bytes(size) for size in SIZES}
    with redis_client.pipeline() as pipeline:
        for key, frame in stored.items():
            set_frame(pipeline, key, frame, None)
        pipeline.execute()
    return stored


def test_frames_come_back_whole_in_their_order(frames: dict[str, bytes], redis_client: redis.Redis) -> None:
    """Several at once, and none where there is none."""
    assert get_frames(redis_client, [*frames, "nothing"]) == [*frames.values(), None]


def test_no_value_is_larger_than_a_part(frames: dict[str, bytes], redis_client: redis.Redis) -> None:
    """That is what the parts are for."""
    keys = keys_of_parts(redis_client, list(frames))
    assert len(keys) == sum(part_count(frame) for frame in frames.values())
    assert max(redis_client.strlen(key) for key in keys) == PART_BYTES


@pytest.mark.parametrize("lost", ["", ":1", ":3"])
def test_a_frame_without_one_of_its_parts_is_not_there(
    store: SubmittingStore, frames: dict[str, bytes], lost: str, redis_client: redis.Redis
) -> None:
    """The first, one in the middle, or the last, which is empty."""
    key = f"{store.settings.namespace}:frame-{3 * PART_BYTES}"
    redis_client.delete(key + lost)
    assert get_frames(redis_client, [key]) == [None]


def test_large_frames_take_the_way_of_small_ones(
    store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """Claimed, committed, read and deleted; nothing stays behind."""
    jobs, results, traces = (secrets.token_bytes(size) for size in (3 * PART_BYTES, 2 * PART_BYTES + 5, PART_BYTES))
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, jobs, 1, 0, 0), "lane")
    claim = fitting.claim("sub", 0, "worker")
    assert claim is not None
    assert claim.jobs_frame == jobs
    commit = Commit(results, traces, 1, 0.1, {"converged": 1}, claim.attempt)
    assert fitting.commit("sub", 0, commit)
    assert not fitting.commit("sub", 0, commit._replace(attempt=2))
    assert (store.result_frame("sub", 0), store.trace_frame("sub", 0)) == (results, traces)
    names = SubmissionKeys(store.settings.namespace, "sub")
    assert keys_of_parts(redis_client, [names.jobs(0)]) == []
    store.delete("sub")
    assert list(redis_client.scan_iter(f"{store.settings.namespace}:*sub*")) == []
