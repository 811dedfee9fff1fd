"""Waiting: the pauses between looks at something that others bring about."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator


def attempts(first_seconds: float, longest_seconds: float, deadline: float = float("inf")) -> Iterator[bool]:
    """Let the caller try now, and again after pauses that double from the first to the longest.

    Each attempt is told whether it is the last one: the first at `deadline` (of `time.monotonic`) or after it. Pauses
    vary by a fifth, so that many who wait for the same thing do not all look at once.
    """
    pause = first_seconds
    while (left := deadline - time.monotonic()) > 0:
        yield False
        time.sleep(min(pause * random.uniform(0.8, 1.2), max(left, 0.0)))
        pause = min(2 * pause, longest_seconds)
    yield True
