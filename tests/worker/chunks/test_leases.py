"""Claims are kept while a worker fits."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest

from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.store import Store
from fitq_worker.chunks.leases import ClaimLost, Leases


class Claimed(NamedTuple):
    """The first chunk of a submission."""

    submission: str
    number: int = 0


def lease(store: Store, name: str) -> str:
    return SubmissionKeys(store.settings.namespace, name).lease(0)


def test_leases_are_renewed_until_the_last_one_is_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of one chunk does not end the fit of the others."""
    for name in ("a", "b"):
        store.redis.set(lease(store, name), "me", ex=1)
    hours = itertools.count(step=3600)
    monkeypatch.setattr("time.monotonic", lambda: next(hours))
    held = Leases(store, "me", [Claimed("a"), Claimed("b")])
    held.renew()
    assert all(store.redis.ttl(lease(store, name)) > 1 for name in ("a", "b"))
    store.redis.delete(lease(store, "a"))
    held.renew()
    store.redis.delete(lease(store, "b"))
    with pytest.raises(ClaimLost):
        held.renew()


def test_a_fresh_lease_costs_no_command(store: Store) -> None:
    """The engine calls after every block of steps."""
    Leases(store, "me", [Claimed("nobody's")]).renew()
