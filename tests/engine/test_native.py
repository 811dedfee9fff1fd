"""Native descents: the bits of the eager ones, whatever the job; built in the background, missed by nobody."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor

from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.compiler import cxx_compiler
from fitq_worker.engine import fit
from fitq_worker.engine.arithmetic import without_subnormals
from fitq_worker.engine.descent.losses import LOSSES
from fitq_worker.engine.descent.optimizers import OPTIMIZERS
from fitq_worker.engine.native.kernels import KernelError, build, library_file, load
from fitq_worker.engine.native.program import Program
from fitq_worker.engine.native.tracing import TraceError, argument, expressions

pytestmark = pytest.mark.skipif(cxx_compiler() is None, reason="no C++ compiler: kernels cannot be built here")

BUILD_SECONDS = 120
KERNEL = Program("mse", "sgd", 1, False, "float64", True)
#: What a script needs to fit a job that the kernel above is for.
ONE_JOB = """
import logging; logging.basicConfig(format="%(message)s")
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit
from fitq_worker.engine.native.kernels import library_file, request
from fitq_worker.engine.native.program import Program
kernel = Program("mse", "sgd", 1, False, "float64", True)
jobs = jobs_batch([FitJob(polynomial=[2.0, 1.0], degree=1, optimizer="sgd", dtype="float64", steps=50)])
"""
#: Settings beside the loss and the optimizer: each basis, dtype, schedule and number of coefficients at least once.
SETTINGS: list[dict[str, Any]] = [
    {"degree": 2},
    {"degree": 0, "basis": "power"},
    {"degree": 3, "basis": "chebyshev", "dtype": "float64"},
    {"degree": 6, "basis": "legendre", "schedule": "cosine"},
    {"degree": 1, "ridge": 0.1, "weight_decay": 0.01},
]


def jobs_of(count: int, **settings: Any) -> list[FitJob]:
    """Jobs with 1 to 40 noisy or clean points, more than a tile of them, with uneven numbers of steps."""
    random, jobs = np.random.default_rng(3), []
    for seed in range(count):
        x = 3.0 * random.normal(size=int(random.integers(1, 40)))
        y = np.polyval([1.0, 2.0, 3.0], x) + (seed % 3) * random.normal(size=len(x))
        jobs.append(FitJob(x=x.tolist(), y=y.tolist(), seed=seed, steps=150 + seed % 7, trace="points:9", **settings))
    return jobs


def assert_same_bits(jobs: list[FitJob]) -> None:
    batch = jobs_batch(jobs)
    native, eager = fit(batch, path="compiled"), fit(batch, path="eager")
    assert native.traces.equals(eager.traces)
    assert native.results.equals(eager.results)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_optimizer_has_the_bits_of_eager(loss: str, optimizer: str) -> None:
    assert_same_bits(jobs_of(70, loss=loss, optimizer=optimizer, degree=2))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_setting_has_the_bits_of_eager(loss: str, settings: dict[str, Any]) -> None:
    assert_same_bits(jobs_of(20, loss=loss, **settings))


@pytest.mark.parametrize("loss", LOSSES)
def test_fits_stop_where_eager_ones_stop(loss: str) -> None:
    """Fits of a tile that reach ftol or gtol, that diverge, that are never looked at, and that run out of steps."""
    criteria: list[dict[str, Any]] = [
        {"ftol": 1e-3, "patience": 20},
        {"gtol": 0.1},
        {"ftol": 1e-9, "gtol": 1e-9, "lr": 1e3},
        {},
    ]
    jobs = [
        structs.replace(job, **criteria[place % 4], steps=40 * (1 + place % 11))
        for place, job in enumerate(jobs_of(70, loss=loss, degree=2))
    ]
    assert_same_bits(jobs)
    ends = fit(jobs_batch(jobs), path="compiled").results["status"].to_pylist()
    assert len(set(ends)) > 1, "the jobs were to end in different ways"


def test_own_schedules_have_the_bits_of_eager() -> None:
    jobs = [structs.replace(job, beta1=0.8 + 0.01 * (place % 9)) for place, job in enumerate(jobs_of(70))]
    assert_same_bits(jobs)


def test_long_descents_go_on_where_the_last_call_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into calls of a few tiles and steps, a descent has the bits of the whole."""
    batch = jobs_batch(jobs_of(600, ftol=1e-6, patience=40))
    whole = fit(batch, path="compiled")
    monkeypatch.setattr("fitq_worker.engine.native.descent._CALL_UPDATES", {"cpu": 1 << 14})
    blocks: list[int] = []

    cut = fit(batch, path="compiled", on_block=lambda: blocks.append(1))

    assert len(blocks) > 10
    assert cut.results.equals(whole.results)
    assert cut.traces.equals(whole.traces)


def test_what_native_code_does_not_know_is_said() -> None:
    numbers = argument(["a", "b"], (2,), torch.float32)
    for impossible in (
        lambda: numbers.erfinv(),
        lambda: numbers.sum(),
        lambda: numbers.sort(dim=-1),
        lambda: numbers * torch.rand(2),
    ):
        with pytest.raises(TraceError):
            impossible()


def test_operations_in_place_are_followed() -> None:
    numbers: Tensor = argument(["a", "b"], (2,), torch.float32)
    copy = numbers.clone()
    copy[0] -= numbers[1]
    assert [each.text for each in expressions(copy)] == ["{} - {}", "b"]
    assert [each.text for each in expressions(numbers)] == ["a", "b"]


@pytest.mark.parametrize("flushing", [False, True])
@pytest.mark.parametrize("path", ["eager", "compiled"])
def test_a_caller_keeps_its_mode_and_threads(path: Any, flushing: bool) -> None:
    """A descent takes subnormal numbers as 0, which is nobody else's business."""
    threads = torch.get_num_threads()
    torch.set_flush_denormal(flushing)
    try:
        fit(jobs_batch(jobs_of(3)), path=path)
        assert (sys.float_info.min * 0.5 == 0.0) == flushing
        assert torch.get_num_threads() == threads
    finally:
        torch.set_flush_denormal(False)


def test_subnormal_numbers_are_nothing_to_a_descent() -> None:
    with without_subnormals():
        assert not (torch.tensor([1e-40]) * 1.0).any()
    assert (torch.tensor([1e-40]) * 1.0).all()


def test_a_requested_kernel_is_built_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks goes on at once; a process that ends meanwhile ends well, and leaves it to the next."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ask = """
request(kernel)
assert not library_file(kernel).exists()
"""
    run(tmp_path, ask)
    assert load(KERNEL) is not None
    assert_same_bits(jobs_of(3, optimizer="sgd", degree=1, dtype="float64"))


def run(cache: Path, code: str, **environment: str) -> str:
    """Run code in a process with a kernel cache of its own; what it logged."""
    given = os.environ | {"XDG_CACHE_HOME": str(cache)} | environment
    done = subprocess.run(
        [sys.executable, "-c", ONE_JOB + code], env=given, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("content", [b"", b"no library at all", b"\x7fELF\x02\x01\x01"])
def test_a_broken_kernel_costs_speed_and_no_fit(content: bytes, tmp_path: Path) -> None:
    """A file that was cut short, or is none, counts as missing."""
    run(
        tmp_path,
        f"""
library_file(kernel).parent.mkdir(parents=True)
library_file(kernel).write_bytes({content!r})
assert fit(jobs, path="auto").results.equals(fit(jobs, path="eager").results)
""",
    )
    assert load(KERNEL) is not None or not library_file(KERNEL).exists()


def test_a_library_that_cannot_be_loaded_is_one_line_and_an_eager_fit(tmp_path: Path) -> None:
    logged = run(
        tmp_path,
        """
from fitq_worker.engine.native import kernels
library_file(kernel).parent.mkdir(parents=True)
library_file(kernel).write_bytes(b"no library" + kernels._SEAL)
assert fit(jobs, path="auto").results.equals(fit(jobs, path="eager").results)
""",
    )
    assert logged.count("cannot be loaded") == 1


@pytest.mark.parametrize(
    ("compiler", "said"), [("false", "cannot build kernel sgd"), ("/nowhere/g++", "no C++ compiler (g++ or clang++)")]
)
def test_a_compiler_that_fails_is_one_line_and_an_eager_fit(compiler: str, said: str, tmp_path: Path) -> None:
    logged = run(
        tmp_path,
        """
request(kernel); request(kernel)
assert fit(jobs, path="auto").results.equals(fit(jobs, path="eager").results)
""",
        CXX=compiler,
        PATH="" if compiler != "false" else os.environ["PATH"],
    )
    assert logged.count(said) == 1, logged


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = tmp_path / "fitq"
    in_the_way.write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KernelError, match="XDG_CACHE_HOME"):
        build(KERNEL)


def test_kernels_that_nobody_uses_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = library_file(KERNEL).parent
    folder.mkdir(parents=True)
    old, recent = folder / "old-version.so", folder / "recent-version.so"
    old.touch()
    recent.touch()
    year_ago = time.time() - 365 * 24 * 3600
    os.utime(old, (year_ago, year_ago))

    build(KERNEL)

    assert not old.exists()
    assert recent.exists()


def test_sample_sets_too_long_for_a_tile_run_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile holds the samples of many fits side by side, however few there are."""
    batch = jobs_batch(jobs_of(3, loss="huber"))
    native = fit(batch, path="compiled")
    monkeypatch.setattr("fitq_worker.engine.native.descent._MOST_NUMBERS", 1)
    assert fit(batch, path="compiled").results.equals(native.results)
