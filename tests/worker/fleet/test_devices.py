"""Which device a worker process gets, decided on plain values."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from fitq_shared.errors import DeviceError
from fitq_shared.settings import Settings
from fitq_worker.fleet import devices
from fitq_worker.fleet.devices import (
    CPU,
    DEVICE_VARIABLE,
    Device,
    Gpu,
    choose_devices,
    process_environment,
    usable_cores,
    visible_gpus,
)

if TYPE_CHECKING:
    from tests.conftest import Worker

GPUS = [Gpu(0, "GPU-aaaa", "H200", 140.0), Gpu(1, "GPU-abbb", "H200", 140.0), Gpu(2, "GPU-cccc", "L4", 22.5)]
CUDA = [Device("cuda:0", "GPU-aaaa", "H200, 140 GiB"), Device("cuda:1", "GPU-cccc", "L4, 22 GiB")]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("GPU-cccc,GPU-aaaa", [2, 0]),
        ("GPU-ab", [1]),
        ("GPU-a", []),
        ("0,7,1", [0]),
        ("0,-1,1", [0]),
        ("1,1", [1]),
    ],
)
def test_an_inherited_mask_limits_and_orders_the_gpus(mask: str | None, expected: list[int]) -> None:
    """CUDA_VISIBLE_DEVICES means the same here as in CUDA: indices, prefixes of UUIDs, nothing behind a bad entry."""
    assert [gpu.number for gpu in visible_gpus(GPUS, mask)] == expected


def test_auto_means_every_gpu_or_else_the_cpu() -> None:
    """A machine without GPUs is a worker all the same."""
    assert choose_devices("auto", CUDA) == CUDA
    assert choose_devices("auto", []) == [CPU]


def test_a_device_is_chosen_by_name() -> None:
    """`cuda:N` counts the visible GPUs."""
    assert choose_devices("cpu", CUDA) == [CPU]
    assert choose_devices("cuda:1", CUDA) == [CUDA[1]]


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    """The message says what there is."""
    with pytest.raises(DeviceError, match=r"no device 'cuda:2': this machine has cpu, cuda:0, cuda:1"):
        choose_devices("cuda:2", CUDA)


def test_a_gpu_process_sees_its_gpu_alone() -> None:
    """The UUID names it under any inherited mask, and it is the first one that the process sees."""
    environment = process_environment(CUDA[1], threads=4)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-cccc"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment[DEVICE_VARIABLE] == "cuda:0"
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "4"


def test_a_cpu_process_sees_no_gpu() -> None:
    """It neither uses one nor spends memory of one."""
    environment = process_environment(CPU, threads=1)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment[DEVICE_VARIABLE]) == ("", "cpu")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot restrict a process to some cores")
def test_cores_that_the_process_may_not_use_do_not_count() -> None:
    """A container that has one core of many starts one process."""
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("version_2", "version_1", "expected"),
    [
        ("200000 100000\n", None, 2),
        ("150000 100000\n", None, 1),
        ("50000 100000\n", None, 1),
        ("900000 100000\n", None, 8),
        ("max 100000\n", None, 8),
        ("", None, 8),
        (None, ("300000\n", "100000\n"), 3),
        (None, ("-1\n", "100000\n"), 8),
        (None, None, 8),
    ],
)
def test_a_quota_of_cpu_time_counts_in_whole_cores(
    version_2: str | None,
    version_1: tuple[str, str] | None,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a container's control group of either version says it; at least one, and never more than there are."""
    group, quota, period = (tmp_path / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"))
    texts = [(group, version_2), *zip((quota, period), version_1 or (), strict=False)]
    for path, text in texts:
        if text is not None:
            path.write_text(text)
    monkeypatch.setattr(devices, "_QUOTAS", [[group], [quota, period]])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert usable_cores() == expected


def test_threads_that_wait_do_not_spin() -> None:
    """Processes of two supervisors may have to share a core."""
    assert all(process_environment(device, 2)["OMP_WAIT_POLICY"] == "passive" for device in (CPU, *CUDA))


@pytest.mark.parametrize(("options", "threads"), [([], "1"), (["--threads", "3"], "3")])
def test_a_process_has_one_thread_unless_more_are_asked_for(
    options: list[str], threads: str, settings: Settings, start_worker: Callable[..., Worker]
) -> None:
    """Whatever the number of cores and of processes."""
    supervisor = psutil.Process(start_worker(settings, *options).process.pid)
    deadline, environment = time.monotonic() + 30, dict[str, str]()
    while "OMP_NUM_THREADS" not in environment:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        environment = next((child.environ() for child in supervisor.children()), environment)
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == (threads, threads)


def test_listing_devices_does_not_import_torch() -> None:
    """The supervisor must stay small and leave CUDA alone."""
    listing = "from fitq_worker.fleet import devices, supervisor; devices.cuda_devices()"
    code = f"import sys; {listing}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_torch_sees_the_gpus_that_are_listed() -> None:
    """NVML and CUDA agree on number, names and order."""
    import torch

    from fitq_worker.fleet.devices import cuda_devices

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    assert [device.description.rpartition(",")[0] for device in cuda_devices()] == names
