"""Kernels: built in the background by a process that outlives who asked for it, found by everybody afterwards."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.compiler import cxx_compiler
from fitq_worker.engine import compiled, fit, fused_reduction
from fitq_worker.engine.compiled import StepKernel
from fitq_worker.engine.fused_reduction import ReductionKernel

BUILD_SECONDS = 240
#: Kernels and how each is loaded.
KERNELS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "step block": (StepKernel("sgd", 1, False, "float64", True, "cpu"), compiled.load),
    "reduction": (ReductionKernel(), fused_reduction.load),
}


@pytest.mark.skipif(cxx_compiler() is None, reason="no C++ compiler: kernels cannot be built here")
@pytest.mark.parametrize("name", KERNELS)
def test_requested_kernel_is_built_in_the_background(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that asks returns at once and ends; the kernel comes all the same and gives the bits of eager."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel, load = KERNELS[name]
    module = type(kernel).__module__
    ask = f"import {module} as kernels; from fitq_worker.engine.kernels import request; request(kernels.{kernel!r})"

    subprocess.run([sys.executable, "-c", ask], env=dict(os.environ), check=True, timeout=60)

    deadline = time.monotonic() + BUILD_SECONDS
    while load(kernel) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert kernel.file.exists(), kernel.file.with_suffix(".log").read_text()
    jobs = jobs_batch([FitJob(polynomial=[2.0, 1.0], degree=1, optimizer="sgd", dtype="float64", steps=50)])
    assert fit(jobs, path="auto").results.equals(fit(jobs, path="eager").results)


@pytest.mark.parametrize("content", [b"", b"no library at all"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_broken_kernel_costs_speed_and_no_fit(name: str, content: bytes, tmp_path: Path) -> None:
    """A file that is cut short or is none is left alone with a warning, and fits run eager."""
    kernel, _ = KERNELS[name]
    code = f"""
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit
from {type(kernel).__module__} import {type(kernel).__name__}

kernel = {kernel!r}
kernel.file.parent.mkdir(parents=True)
kernel.file.write_bytes({content!r})
jobs = jobs_batch([FitJob(polynomial=[2.0, 1.0], degree=1, optimizer="sgd", dtype="float64", steps=50)])
assert fit(jobs, path="auto").results.equals(fit(jobs, path="eager").results)
assert kernel.file.read_bytes() == {content!r}
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be loaded" in done.stderr
