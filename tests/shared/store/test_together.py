"""Small chunks that wait are handed out by shape, each once."""

from __future__ import annotations

from fitq_shared.store.keys import waiting
from fitq_shared.store.store import Store
from fitq_shared.store.together import EXPIRES_SECONDS, MAX_TOGETHER, offer, take_others


def test_what_was_offered_is_taken_once(store: Store) -> None:
    """Together with the first chunk of the shape that is fitted, which takes itself off the list."""
    for number in range(3):
        offer(store, "shape", "sub", number)
    offer(store, "another shape", "sub", 3)
    assert sorted(take_others(store, "shape", ("sub", 1))) == [("sub", 0), ("sub", 2)]
    assert take_others(store, "shape", ("sub", 1)) == []
    assert take_others(store, "another shape", ("sub", 4)) == [("sub", 3)]


def test_a_batch_is_bounded(store: Store) -> None:
    """The others are left to whoever comes next."""
    for number in range(MAX_TOGETHER + 10):
        offer(store, "shape", "sub", number)
    assert len(take_others(store, "shape", ("sub", 0))) == MAX_TOGETHER - 1
    assert len(take_others(store, "shape", ("sub", 0))) >= 9


def test_offers_expire(store: Store) -> None:
    """Those of submissions that were deleted do not stay for ever."""
    offer(store, "shape", "sub", 0)
    assert 0 < store.redis.ttl(waiting(store.settings.namespace, "shape")) <= EXPIRES_SECONDS
