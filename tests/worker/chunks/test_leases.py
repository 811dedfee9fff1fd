"""Claims are kept while a worker fits."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import redis

from fitq_shared.errors import ClaimLost
from fitq_shared.store.fitting import FittingStore
from fitq_shared.store.keys import SubmissionKeys
from fitq_worker.chunks.leases import Leases


class Claimed(NamedTuple):
    """The first chunk of a submission."""

    submission: str
    number: int = 0


def lease(fitting: FittingStore, name: str) -> str:
    return SubmissionKeys(fitting.settings.namespace, name).lease(0)


def test_leases_are_renewed_until_the_last_one_is_lost(
    fitting: FittingStore, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
) -> None:
    """The loss of one chunk does not end the fit of the others."""
    for name in ("a", "b"):
        redis_client.set(lease(fitting, name), "me", ex=1)
    hours = itertools.count(step=3600)
    monkeypatch.setattr("time.monotonic", lambda: next(hours))
    held = Leases(fitting, "me", [Claimed("a"), Claimed("b")])
    held.renew()
    assert all(redis_client.ttl(lease(fitting, name)) > 1 for name in ("a", "b"))
    redis_client.delete(lease(fitting, "a"))
    held.renew()
    redis_client.delete(lease(fitting, "b"))
    with pytest.raises(ClaimLost):
        held.renew()


def test_a_fresh_lease_costs_no_command(fitting: FittingStore) -> None:
    """The engine calls after every block of steps."""
    Leases(fitting, "me", [Claimed("nobody's")]).renew()
