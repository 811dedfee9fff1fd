"""Small chunks that wait are handed out by shape, each once."""

from __future__ import annotations

import redis

from fitq_shared.store.fitting import FittingStore
from fitq_shared.store.keys import offers
from fitq_shared.store.offers import EXPIRES_SECONDS, MAX_TOGETHER
from fitq_shared.store.submitting import SubmittingStore


def test_what_was_offered_is_taken_once(store: SubmittingStore, fitting: FittingStore) -> None:
    """Together with the first chunk of the shape that is fitted, which takes itself off the list."""
    for number in range(3):
        store.offer("shape", "sub", number)
    store.offer("another shape", "sub", 3)
    assert sorted(fitting.take_offers("shape", "sub", 1)) == [("sub", 0), ("sub", 2)]
    assert fitting.take_offers("shape", "sub", 1) == []
    assert fitting.take_offers("another shape", "sub", 4) == [("sub", 3)]


def test_a_batch_is_bounded(store: SubmittingStore, fitting: FittingStore) -> None:
    """The others are left to whoever comes next."""
    for number in range(MAX_TOGETHER + 10):
        store.offer("shape", "sub", number)
    assert len(fitting.take_offers("shape", "sub", 0)) == MAX_TOGETHER - 1
    assert len(fitting.take_offers("shape", "sub", 0)) >= 9


def test_offers_expire(store: SubmittingStore, redis_client: redis.Redis) -> None:
    """Those of submissions that were deleted do not stay for ever."""
    store.offer("shape", "sub", 0)
    assert 0 < redis_client.ttl(offers(store.settings.namespace, "shape")) <= EXPIRES_SECONDS
