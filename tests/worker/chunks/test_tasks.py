"""The pool's child ends when its device does not work, so that a fresh one can try."""

from __future__ import annotations

import os
import subprocess
import sys

from fitq_worker.fleet.devices import DEVICE_FAILED_STATUS, DEVICE_VARIABLE

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
batch.fit_together([batch.Chunk("sub", 0, 1, rows)], 3, "cuda:0", lambda: None)
"""


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
    assert (done.returncode, "sub chunk 0: the device failed" in done.stderr) == (DEVICE_FAILED_STATUS, True)
