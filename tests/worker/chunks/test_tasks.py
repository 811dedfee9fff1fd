"""The pool's child before its first chunk."""

from __future__ import annotations

import os
import subprocess
import sys

from fitq_worker.fleet.devices import DEVICE_VARIABLE


def test_a_process_whose_device_does_not_work_ends_before_it_takes_a_chunk() -> None:
    """It would turn every chunk it takes into errors."""
    command = [sys.executable, "-c", "from fitq_worker.chunks.tasks import prepare; prepare()"]
    environment = {**os.environ, DEVICE_VARIABLE: "cuda:99"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 70
    assert "cuda:99 does not work" in done.stderr
