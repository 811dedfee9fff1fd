"""The pool's child ends when its device does not work, so that a fresh one can try."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import redis

from fitq import Client
from fitq_shared.errors import ClaimLost, ResultsUnreachable
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.rows import Rows
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.payload import Payload
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.chunks import tasks
from fitq_worker.chunks.batch import Chunk
from fitq_worker.chunks.leases import Leases
from fitq_worker.fleet.devices import DEVICE_FAILED_STATUS, DEVICE_VARIABLE

if TYPE_CHECKING:
    from tests.conftest import Worker

#: Fits a chunk with an engine that fails as torch does when a GPU has failed.
FIT_ON_A_FAILING_DEVICE = """
import torch
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows
from fitq_worker.chunks import batch

def fail(*arguments, **options):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

batch.fit = fail
rows = Rows(jobs_batch([FitJob(polynomial=[1.0, 2.0]).checked()]))
batch.fit_together([batch.Chunk("sub", 0, 1, 1, rows)], 3, "cuda:0", lambda: None, lambda trial: None)
"""


COMMIT = Commit(results=b"results", traces=b"", job_count=1, seconds=0.5, statuses={"converged": 1}, attempt=1)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_process_whose_device_does_not_work_ends_before_it_takes_a_chunk() -> None:
    """It would turn every chunk it takes into errors."""
    done = run("from fitq_worker.chunks.tasks import prepare; prepare()", **{DEVICE_VARIABLE: "cuda:99"})
    assert (done.returncode, "cuda:99 does not work" in done.stderr) == (DEVICE_FAILED_STATUS, True)


def test_a_process_whose_device_fails_during_a_fit_ends_without_results() -> None:
    """Such an error stays in the process; the chunk runs again in a fresh one."""
    done = run(FIT_ON_A_FAILING_DEVICE)
    assert (done.returncode, "the device failed, this process ends" in done.stderr) == (DEVICE_FAILED_STATUS, True)


@pytest.fixture
def claimed(store: SubmittingStore, fitting: FittingStore) -> Chunk:
    """A chunk that `me` has claimed."""
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, b"frame", 1, 0, 0), "lane")
    assert fitting.claim("sub", 0, "me") is not None
    return Chunk("sub", 0, 1, 1, Rows(jobs_batch([])))


def test_fitted_results_wait_for_room(
    store: SubmittingStore, fitting: FittingStore, claimed: Chunk, redis_client: redis.Redis
) -> None:
    """A full server costs time, not fits."""
    redis_client.config_set("maxmemory", 1)
    with ThreadPoolExecutor(1) as pool:
        stored = pool.submit(tasks._commit_patiently, fitting, claimed, COMMIT, Leases(fitting, "me", [claimed]))
        time.sleep(1.5)
        assert not stored.done()
        redis_client.config_set("maxmemory", 0)
        assert stored.result(timeout=30)
    assert store.result_frame("sub", 0) == b"results"


def test_results_of_a_deleted_submission_do_not_wait(
    store: SubmittingStore, fitting: FittingStore, claimed: Chunk, redis_client: redis.Redis
) -> None:
    """The claim is gone, and with it the reason to wait."""
    held = Leases(fitting, "me", [claimed])
    store.delete("sub")
    held.renew()
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ClaimLost):
            tasks._commit_patiently(fitting, claimed, COMMIT, held)
    finally:
        redis_client.config_set("maxmemory", 0)


def test_submissions_whose_files_cannot_be_written_do_not_hold_up_others(
    start_worker: Callable[..., Worker], settings: Settings, tmp_path: Path
) -> None:
    """After one chunk that waited in vain the worker leaves theirs alone for a while, and comes back to them."""
    folder = tmp_path / "results"
    elsewhere = msgspec.structs.replace(settings, results_url=f"file://{folder}")
    held_up = Client(elsewhere).submit([{"polynomial": [1.0], "degree": degree} for degree in range(4)])
    folder.mkdir(exist_ok=True)
    folder.rmdir()
    folder.write_text("a file where the folder was")
    worker = start_worker(settings, PYTHONPATH=_with_patience(tmp_path, files=2.0, avoid=5.0))
    deadline = time.monotonic() + 60
    while "given back" not in worker.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    Client(settings).submit([{"polynomial": [1.0], "degree": 2}]).wait(30)
    folder.unlink()
    assert held_up.wait(120).done_jobs == 4


def _with_patience(folder: Path, files: float, avoid: float) -> str:
    """A PYTHONPATH on which the worker's patience is as short as this."""
    (folder / "sitecustomize.py").write_text(
        f"import fitq_worker.chunks.tasks as tasks\ntasks.FILES_PATIENCE_SECONDS, tasks.AVOID_SECONDS = {files}, {avoid}\n"
    )
    return os.pathsep.join([str(folder), *sys.path])


def test_files_that_cannot_be_written_hold_a_worker_for_a_while_only(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other submissions keep their results elsewhere, and are waiting."""
    monkeypatch.setattr(tasks, "FILES_PATIENCE_SECONDS", 0.5)
    folder = tmp_path / "results"
    folder.mkdir()
    elsewhere = msgspec.structs.replace(settings, results_url=f"file://{folder}")
    store, fitting = SubmittingStore(elsewhere), FittingStore(elsewhere)
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, b"frame", 1, 0, 0), "lane")
    assert fitting.claim("sub", 0, "me") is not None
    folder.rmdir()
    folder.write_text("a file where the folder was")
    chunk = Chunk("sub", 0, 1, 1, Rows(jobs_batch([])))
    with pytest.raises(ResultsUnreachable):
        tasks._commit_patiently(fitting, chunk, COMMIT, Leases(fitting, "me", [chunk]))
