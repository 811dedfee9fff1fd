"""A worker process is held to its share of the memory: what needs more fails, and the process lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from fitq import Client
from fitq_shared.jobs.schemas import Status
from fitq_worker.fleet.memory import LEAST_BYTES, MEMORY_VARIABLE, share_of, usable_bytes

if TYPE_CHECKING:
    from fitq_shared.settings import Settings
    from tests.conftest import Worker

#: Allocates the bytes of its argument after it is limited.
ALLOCATE = """
import sys
from fitq_worker.fleet.memory import limit_memory
limit_memory()
try:
    bytearray(int(sys.argv[1]))
except MemoryError:
    sys.exit(3)
"""


def allocate(size: int, limit: int) -> int:
    """Exit status of a process that allocates so much."""
    environment = os.environ | {MEMORY_VARIABLE: str(limit)}
    return subprocess.run([sys.executable, "-c", ALLOCATE, str(size)], env=environment, timeout=60, check=False).returncode


def test_an_allocation_beyond_the_limit_fails_and_others_do_not() -> None:
    assert [allocate(size << 20, 256 << 20) for size in (64, 512)] == [0, 3]


def test_a_limit_of_zero_is_none() -> None:
    assert allocate(512 << 20, 0) == 0


def test_processes_share_what_the_machine_has() -> None:
    """Less a tenth; however many they are, each gets what a fit of moderate size needs."""
    assert share_of(1) == max(LEAST_BYTES, int(usable_bytes() * 0.9))
    assert share_of(100_000) == LEAST_BYTES


def test_a_job_that_needs_more_memory_than_a_worker_may_use_ends_as_an_error_beside_others(
    settings: Settings, start_worker: Callable[..., Worker]
) -> None:
    """The worker lives, and fits what comes next."""
    worker = start_worker(settings, "--memory", "0.6")
    large = {"polynomial": [1.0, 2.0], "degree": 1, "samples": {"count": 10_000_000}, "id": "large"}
    small = {"polynomial": [1.0, 2.0], "degree": 1}
    submission = Client(settings).submit([small, large, {**small, "seed": 5}])
    assert submission.wait(120).statuses[Status.ERROR] == 1
    assert "needs more memory" in submission.result("large")["message"]
    assert worker.process.poll() is None
    assert "ended with status" not in worker.log.read_text()
