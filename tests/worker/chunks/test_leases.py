"""Claims are kept while a worker fits."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import NamedTuple

import msgspec
import pytest
import redis

from fitq_shared.errors import ClaimLost
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import FittingStore
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.payload import Payload
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.chunks.leases import STALLED_STATUS, Leases


class Claimed(NamedTuple):
    """The first chunk of a submission."""

    submission: str
    number: int = 0


def lease(fitting: FittingStore, name: str) -> str:
    return SubmissionKeys(fitting.settings.namespace, name).lease(0)


def test_leases_are_renewed_until_the_last_one_is_lost(fitting: FittingStore, redis_client: redis.Redis) -> None:
    """The loss of one chunk does not end the fit of the others."""
    for name in ("a", "b"):
        redis_client.set(lease(fitting, name), "me", ex=1)
    held = Leases(fitting, "me", [Claimed("a"), Claimed("b")])
    held.renew()
    assert all(redis_client.ttl(lease(fitting, name)) > 1 for name in ("a", "b"))
    redis_client.delete(lease(fitting, "a"))
    held.renew()
    held.check()
    redis_client.delete(lease(fitting, "b"))
    held.renew()
    with pytest.raises(ClaimLost):
        held.check()


def test_a_long_step_keeps_its_claim(settings: Settings, redis_client: redis.Redis) -> None:
    """A worker that is slow, and does not come to check, is not taken for dead."""
    fitting = FittingStore(msgspec.structs.replace(settings, lease_seconds=1))
    redis_client.set(lease(fitting, "a"), "me", ex=1)
    with Leases(fitting, "me", [Claimed("a")]):
        time.sleep(2.5)
        assert redis_client.get(lease(fitting, "a")) == b"me"


def test_fits_that_hang_end_the_process() -> None:
    """With a status of its own; nobody else would ever get the chunk."""
    script = (
        "import time; from fitq_worker.chunks import leases; from fitq_shared.settings import Settings\n"
        "class Store: settings = Settings(lease_seconds=1)\n"
        "leases.STALL_SECONDS = 0.1\n"
        "with leases.Leases(Store(), 'me', []): time.sleep(30)"
    )
    ended = subprocess.run([sys.executable, "-c", script], timeout=20, check=False, capture_output=True)
    assert ended.returncode == STALLED_STATUS


def test_whoever_looks_after_its_claims_learns_that_the_drain_has_ended() -> None:
    """In the process that fits, which is forked from the one that is told: once for the drain, twice for its end."""
    script = (
        "import os, sys, time; from fitq_shared.errors import DrainEnded; from fitq_shared.settings import Settings\n"
        "from fitq_worker.chunks.leases import Leases; from fitq_worker.fleet.drain import tell_to_stop\n"
        "class Store: settings = Settings()\n"
        "held = Leases(Store(), 'me', [('sub', 0)])\n"
        "if os.fork():\n"
        "    tell_to_stop(); time.sleep(1); print('told again', flush=True); tell_to_stop(); os.wait()\n"
        "else:\n"
        "    try:\n"
        "        while True: held.check(); time.sleep(0.01)\n"
        "    except DrainEnded: print('ended', flush=True)"
    )
    told = subprocess.run([sys.executable, "-c", script], timeout=20, check=True, capture_output=True, text=True)
    assert told.stdout.split("\n")[:2] == ["told again", "ended"]


def test_claims_are_given_back(store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis) -> None:
    """Whoever comes next need not wait, and nobody died."""
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, b"frame", 1, 0, 0), "lane")
    assert fitting.claim("sub", 0, "me") is not None
    Leases(fitting, "me", [Claimed("sub")]).give_back()
    claim = fitting.claim("sub", 0, "another")
    assert claim is not None
    assert claim.starts == 1
