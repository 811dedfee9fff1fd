"""Dead letters are kept, bounded and counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fitq_shared.settings import Settings
from fitq_shared.store import dead_letters
from fitq_shared.store.dead_letters import KEPT_BYTES, DeadLetters
from fitq_shared.store.garbage import GarbageStore


@pytest.fixture
def letters(settings: Settings) -> Iterator[DeadLetters]:
    letters = DeadLetters(settings)
    yield letters
    letters.disconnect()


def test_the_newest_are_kept_and_all_are_counted(letters: DeadLetters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "KEPT", 3)
    for number in range(5):
        letters.bury("lane", b"%d" % number)
    assert letters.newest() == [b"lane 4", b"lane 3", b"lane 2"]
    assert letters.count() == 5


def test_of_a_long_one_the_beginning_is_kept(letters: DeadLetters) -> None:
    letters.bury("lane", b"x" * 10 * KEPT_BYTES)
    assert letters.newest() == [b"lane " + b"x" * KEPT_BYTES]


def test_they_are_no_garbage(letters: DeadLetters, settings: Settings) -> None:
    """Somebody may want to know what they were."""
    letters.bury("lane", b"{}")
    garbage = GarbageStore(settings)
    assert garbage.find().keys == []
    garbage.disconnect()
