"""Descents as CUDA kernels, as far as a machine without a GPU can tell: NVIDIA's compiler takes them, keeps every rounding,
and the same text built for the CPU, a fit at a time, has the bits of the CPU.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.compiler import cxx_compiler
from fitq_worker.engine import fit
from fitq_worker.engine.descent.losses import LOSSES
from fitq_worker.engine.descent.optimizers import OPTIMIZERS
from fitq_worker.engine.native import program as programs
from fitq_worker.engine.native.kernels import KernelError
from fitq_worker.engine.native.program import Program

cuda = pytest.importorskip("fitq_worker.engine.native.cuda", reason="NVIDIA's compiler is not installed")
pytest.importorskip("cuda.bindings.nvrtc", reason="NVIDIA's compiler is not installed")

RULES = [name for name, rule in OPTIMIZERS.items() if rule.update]
#: A thread has at most 255 registers; the largest kernels keep numbers in memory for want of more, these do not.
UNSPILLED = [
    ("mse", "nadam", 2, False), ("mse", "nadam", 8, True), ("mse", "nadam", 30, False), ("huber", "nadam", 2, True),
]  # fmt: skip
#: Operations that are not IEEE 754's, or two roundings in one.
INEXACT = re.compile(r"\b(fma|mad)\.(rn|f32|f64)|\.approx\b")


def kernel(loss: str, optimizer: str, degree: int, triangular: bool = False, dtype: str = "float32") -> Program:
    return Program(loss, optimizer, degree, triangular and loss == "mse", dtype, one_schedule=True)


@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_optimizer_compiles_and_keeps_every_rounding(loss: str, optimizer: str) -> None:
    source = kernel(loss, optimizer, 2).write()
    assert cuda.compile_kernel(source, "sm_90").registers <= 255
    assert not INEXACT.search(cuda.compile_ptx(source, "compute_90"))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("case", UNSPILLED, ids=str)
def test_usual_kernels_stay_in_registers(case: Any, architecture: str) -> None:
    assert cuda.compile_kernel(kernel(*case).write(), architecture).spilled_bytes == 0


def test_a_refused_source_is_a_clear_error() -> None:
    with pytest.raises(KernelError, match=r"NVRTC cannot compile for sm_90: .*error"):
        cuda.compile_kernel("no code", "sm_90")


@pytest.mark.skipif(cxx_compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_fit_a_thread_has_the_bits_of_the_cpu(
    loss: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With subnormal numbers flushed by a comparison, as float64 needs on a GPU, and none flushed by the processor."""
    settings: dict[str, Any] = {"polynomial": [1.0, 2.0, 3.0], "degree": 3, "loss": loss, "dtype": dtype}
    jobs = [FitJob(**settings, seed=seed, steps=200 + seed % 3, ftol=1e-6 if seed % 2 else None) for seed in range(20)]
    eager = fit(jobs_batch(jobs), path="eager")
    write = programs.write_source
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        programs, "write_source", lambda program: f"#define ONE_FIT\n#define FLUSH_IN_SOFTWARE\n{write(program)}"
    )

    threads = fit(jobs_batch(jobs), path="compiled")

    assert threads.results.equals(eager.results)
    assert threads.traces.equals(eager.traces)
