"""The engine on a CUDA device; `pytest -m gpu` is the whole check on a GPU node."""

from typing import Any, Literal

import numpy as np
import pytest

from fitq_shared.jobs.fields import Basis
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit

pytestmark = pytest.mark.gpu


def notebook_jobs(basis: Basis, count: int = 500) -> list[FitJob]:
    return [FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed, basis=basis, steps=300 + seed % 3) for seed in range(count)]


@pytest.mark.parametrize("path", ["eager", "compiled"])
@pytest.mark.parametrize("basis", ["orthogonal", "power"])
def test_device_agrees_with_the_cpu(basis: Basis, path: Literal["eager", "compiled"]) -> None:
    """Exact solutions to 1e-9; descents to rounding, 1e-4 of the initial loss along the whole trace."""
    jobs = jobs_batch(notebook_jobs(basis))

    on_cpu, on_gpu = fit(jobs, path="eager"), fit(jobs, "cuda:0", path=path)

    for cpu, gpu in zip(on_cpu.results.to_pylist(), on_gpu.results.to_pylist(), strict=True):
        assert gpu["device"].startswith("cuda:0 ")
        assert gpu["exact_coefficients"] == pytest.approx(cpu["exact_coefficients"], rel=1e-9)
        assert gpu["initial_loss"] == pytest.approx(cpu["initial_loss"], rel=1e-9)
    for cpu, gpu in zip(on_cpu.traces.to_pylist(), on_gpu.traces.to_pylist(), strict=True):
        ours, theirs = (np.ldexp(row["loss"], row["exponent"]) for row in (cpu, gpu))
        assert np.abs(ours - theirs).max() <= 1e-4 * ours[0]


@pytest.mark.parametrize("path", ["eager", "compiled"])
def test_batch_does_not_matter_on_the_device(path: Literal["eager", "compiled"]) -> None:
    """A job alone and in a batch gives the same bits on the same device and path."""
    jobs = jobs_batch(notebook_jobs("orthogonal"))
    whole = fit(jobs, "cuda:0", path=path)

    for place in (0, 17, 499):
        alone = fit(jobs.slice(place, 1), "cuda:0", path=path)

        assert alone.results.equals(whole.results.slice(place, 1))
        assert alone.traces.equals(whole.traces.slice(place, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["mse", "huber", "log_cosh"])
def test_a_compiled_descent_has_the_bits_of_the_cpu(loss: Any, dtype: Any) -> None:
    """Whatever the device: sums have one order, every rounding is IEEE 754's, and subnormal numbers are 0."""
    settings: dict[str, Any] = {"polynomial": [1.0, 2.0, 3.0], "loss": loss, "dtype": dtype}
    jobs = jobs_batch([FitJob(**settings, seed=seed, steps=300 + seed % 3) for seed in range(200)])

    assert fit(jobs, "cuda:0", path="compiled").traces.equals(fit(jobs, path="compiled").traces)
