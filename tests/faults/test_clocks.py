"""Clocks that are wrong delay nothing: time comes from the server."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitq import Client
from fitq.submission import Submission
from tests.faults.clients import fitq
from tests.faults.fleet import Fleet, Place, environment_of, with_wrong_clock
from tests.faults.load import make_work, rows_by_position
from tests.faults.server import Server as FaultyServer

if TYPE_CHECKING:
    from tests.conftest import Server

DAY_SECONDS = 86_400.0
#: Far less than any clock here is wrong.
DEADLINE_SECONDS = 120


@pytest.fixture
def faulty(server: Server, tmp_path: Path) -> Iterator[FaultyServer]:
    """A server under whose settings deaths are soon noticed."""
    faulty = FaultyServer(server.binary, tmp_path)
    yield faulty
    faulty.kill()


@pytest.mark.parametrize(("client_seconds", "worker_seconds"), [(DAY_SECONDS, -DAY_SECONDS), (-DAY_SECONDS, DAY_SECONDS)])
def test_chunks_of_dead_workers_run_again_in_time_whatever_the_clocks_say(
    faulty: FaultyServer, tmp_path: Path, client_seconds: float, worker_seconds: float
) -> None:
    """The clock of the client is a day ahead and that of the worker a day behind, or the other way round."""
    work = make_work(tmp_path, "robust")
    environment = with_wrong_clock(environment_of(faulty.settings), client_seconds, tmp_path)
    submit = subprocess.run(fitq("submit", str(work.file)), env=environment, capture_output=True, text=True, check=True)
    submission = Client(faulty.settings).submission(submit.stdout.strip())
    fleet = Fleet(faulty.settings, tmp_path, [Place(1, worker_seconds)])
    try:
        wait_until_started(submission)
        fleet.kill_supervisor(0)
        submission.wait(timeout_seconds=DEADLINE_SECONDS)
    finally:
        fleet.kill()
    assert rows_by_position(batch for _, batch in submission.result_batches()) == work.results


def wait_until_started(submission: Submission) -> None:
    """Return when a worker has claimed the first chunk."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while submission.status().started_at is None:
        assert time.monotonic() < deadline, "no worker has begun"
        time.sleep(0.02)
