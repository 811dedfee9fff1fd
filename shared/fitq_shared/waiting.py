"""Waiting: the pauses between looks at something that others bring about."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

_Result = TypeVar("_Result")


def attempts(first_seconds: float, longest_seconds: float, deadline: float = float("inf")) -> Iterator[bool]:
    """Let the caller try now, and again after pauses that double from the first to the longest.

    Each attempt is told whether it is the last one: the first at `deadline` (of `time.monotonic`) or after it. Pauses
    vary by a fifth, so that many who wait for the same thing do not all look at once.
    """
    pause = first_seconds
    while time.monotonic() < deadline:
        yield False
        remaining = max(deadline - time.monotonic(), 0.0)
        time.sleep(min(pause * random.uniform(0.8, 1.2), remaining))
        pause = min(2 * pause, longest_seconds)
    yield True


def persist(
    act: Callable[[], _Result],
    error: type[Exception] | tuple[type[Exception], ...],
    tries: Iterator[bool],
    on_failure: Callable[[Exception], object] = lambda failure: None,
) -> _Result:
    """What `act` returns, tried again after each `error`; the one of the last of `tries` (see `attempts`) is raised.

    `on_failure` is called with the errors before it.
    """
    for is_last in tries:
        try:
            return act()
        except error as failure:
            if is_last:
                raise
            on_failure(failure)
    raise ValueError("there was no last attempt")
