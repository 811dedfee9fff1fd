"""Attempts come at once, then less and less often, and the last one knows that it is the last."""

from __future__ import annotations

import time

from fitq_shared.waiting import attempts


def test_the_last_attempt_comes_at_the_deadline() -> None:
    """Pauses double until they are as long as they may be, and the last one is cut."""
    start = time.monotonic()
    times = [(time.monotonic() - start, is_last) for is_last in attempts(0.01, 0.04, deadline=start + 0.2)]
    assert [is_last for _, is_last in times] == [False] * (len(times) - 1) + [True]
    assert times[0][0] < times[-1][0]
    assert times[-1][0] >= 0.2
    # 0.01 + 0.02 + 0.04 + ... seconds, each a fifth more or less; a slow machine makes fewer attempts.
    assert 2 <= len(times) <= 9


def test_there_is_one_attempt_when_the_time_is_over_already() -> None:
    """Whoever gives no time still gets an answer."""
    assert list(attempts(1, 1, deadline=time.monotonic())) == [True]
