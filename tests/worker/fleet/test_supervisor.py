"""A worker process that dies is started again, later each time."""

from __future__ import annotations

import sys
import time

import pytest

from fitq_worker.fleet import supervisor
from fitq_worker.fleet.devices import CPU
from fitq_worker.fleet.supervisor import WorkerProcess


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> WorkerProcess:
    """A worker process that ends at once, whatever is done."""
    monkeypatch.setattr(supervisor, "_command", lambda node: [sys.executable, "-c", "raise SystemExit(7)"])
    monkeypatch.setattr(supervisor, "FIRST_RESTART_SECONDS", 0.05)
    return WorkerProcess("cpu-0", CPU, threads=1, memory=0)


def test_a_process_that_ends_is_restarted_with_growing_delay(dying: WorkerProcess, caplog: pytest.LogCaptureFixture) -> None:
    """The log says with which status it ended and when it is started again."""
    deadline = time.monotonic() + 30
    while len(caplog.messages) < 3:
        assert time.monotonic() < deadline
        dying.start_if_due()
        time.sleep(0.01)
    assert all(message.startswith("cpu-0 ended with status 7, restart in") for message in caplog.messages)
    delays = [record.args[2] for record in caplog.records if isinstance(record.args, tuple)]
    assert delays == [0.05, 0.1, 0.2]
