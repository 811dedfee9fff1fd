"""Which device a worker process gets, decided on plain values."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fitq_shared.errors import DeviceError
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
