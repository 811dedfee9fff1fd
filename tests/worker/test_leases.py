"""Claims are kept while a worker fits."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest

from fitq_shared.keys import SubmissionKeys
from fitq_shared.settings import Settings
from fitq_shared.store import Store
from fitq_worker.leases import ClaimLost, Leases


class Claimed(NamedTuple):
    """The chunk of a submission."""

    submission: str
    number: int = 0


@pytest.fixture
def store(settings: Settings) -> Store:
    """A store under which leases are renewed at every call."""
    return Store(msgspec.structs.replace(settings, lease_seconds=0))


def lease(store: Store, name: str) -> str:
    return SubmissionKeys(store.settings.namespace, name).lease(0)


def test_leases_are_renewed_until_the_last_one_is_lost(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of one chunk does not end the fit of the others."""
    store = Store(settings)
    for name in ("a", "b"):
        store.redis.set(lease(store, name), "me", ex=1)
    leases = Leases(store, "me", [Claimed("a"), Claimed("b")])
    monkeypatch.setattr("time.monotonic", lambda: float("inf"))
    leases.renew()
    assert all(store.redis.ttl(lease(store, name)) > 1 for name in ("a", "b"))
    store.redis.delete(lease(store, "a"))
    leases.renew()
    store.redis.delete(lease(store, "b"))
    with pytest.raises(ClaimLost):
        leases.renew()
