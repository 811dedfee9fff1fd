"""Attempts come at once, then less and less often, and the last one knows that it is the last."""

from __future__ import annotations

import time

import pytest

from fitq_shared.waiting import attempts, persist


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


def test_what_fails_is_tried_again_until_the_last_attempt() -> None:
    """The errors before it are handed over, the last one is raised, and others come through at once."""
    seen: list[Exception] = []

    def fail() -> None:
        raise KeyError(len(seen))

    with pytest.raises(KeyError, match="2"):
        persist(fail, KeyError, iter([False, False, True]), seen.append)
    assert [error.args for error in seen] == [(0,), (1,)]
    assert persist(lambda: len(seen), KeyError, iter([False])) == 2
    with pytest.raises(KeyError):
        persist(fail, OSError, iter([False, True]))
