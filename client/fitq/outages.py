"""Outages: a server that does not answer, because it restarts or the like, is asked again for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from fitq_shared.errors import ServerRefuses, ServerUnreachable
from fitq_shared.waiting import attempts, persist

#: How long to go on asking while the server does not answer.
MAX_OUTAGE_SECONDS = 120.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 0.25

_Answer = TypeVar("_Answer")


def ride_out(ask: Callable[[], _Answer], deadline: float = float("inf")) -> _Answer:
    """Ask until the server answers, and return what `ask` does; for MAX_OUTAGE_SECONDS or until `deadline` (monotonic).

    Raises:
        ServerUnreachable, ServerRefuses: it did not answer in that time, or refused to.
    """
    give_up = min(time.monotonic() + MAX_OUTAGE_SECONDS, deadline)
    return persist(ask, (ServerUnreachable, ServerRefuses), attempts(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, give_up))
