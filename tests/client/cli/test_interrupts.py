"""A signal that comes at a bad moment waits for a better one."""

from __future__ import annotations

import signal

import pytest

from fitq.cli.interrupts import held


def interrupt(times: int, done: list[str]) -> None:
    """Do something during which Ctrl-C comes so often."""
    with held():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        done.append("all of it")


def test_ctrl_c_in_the_block_acts_at_its_end() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt(1, done)
    assert done == ["all of it"]


def test_a_second_one_breaks_in() -> None:
    """Where what is being done never ends."""
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt(2, done)
    assert done == []


def test_terminations_are_held_too_and_get_their_usual_handler() -> None:
    came: list[int] = []
    usual = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with held():
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, usual)


def test_without_a_signal_nothing_happens() -> None:
    usual = signal.getsignal(signal.SIGINT)
    with held():
        pass
    assert signal.getsignal(signal.SIGINT) is usual
