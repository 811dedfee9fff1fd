"""Which devices there are, and the environment that ties a process to one of them; torch is not imported here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fitq_shared.errors import DeviceError

#: The variable that tells a worker process which device to hand to the engine.
DEVICE_VARIABLE = "FITQ_WORKER_DEVICE"
#: Exit status of a worker process whose device does not work, or does so no longer.
DEVICE_FAILED_STATUS = 70


_GROUPS = Path("/sys/fs/cgroup")
#: Quota and period in microseconds, in one file or in two.
_QUOTAS = [[_GROUPS / "cpu.max"], [_GROUPS / "cpu/cpu.cfs_quota_us", _GROUPS / "cpu/cpu.cfs_period_us"]]


class Gpu(NamedTuple):
    """One GPU as the driver sees it; `number` counts in the order of the PCI bus."""

    number: int
    uuid: str
    name: str
    memory_gib: float


class Device(NamedTuple):
    """What a worker process computes on; `uuid` is None for the CPU."""

    name: str
    uuid: str | None
    description: str


CPU = Device("cpu", None, "CPU")


def installed_gpus() -> list[Gpu]:
    """All GPUs of the machine, asked of NVML; none where there is no NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_gpu(number) for number in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(installed: Sequence[Gpu], mask: str | None) -> list[Gpu]:
    """The GPUs that a CUDA_VISIBLE_DEVICES of `mask` leaves, in its order.

    An entry is an index or the beginning of a UUID. As in CUDA, an entry that fits no GPU hides all that follow it.
    """
    if mask is None:
        return list(installed)
    visible: list[Gpu] = []
    for entry in (text.strip() for text in mask.split(",")):
        found = [gpu for gpu in installed if entry and (entry == str(gpu.number) or gpu.uuid.startswith(entry))]
        if len(found) != 1 or found[0] in visible:
            break
        visible += found
    return visible


def cuda_devices(environment: Mapping[str, str] = os.environ) -> list[Device]:
    """The GPUs that this process may use, `cuda:0` being the first one that the environment leaves visible."""
    gpus = visible_gpus(installed_gpus(), environment.get("CUDA_VISIBLE_DEVICES"))
    return [Device(f"cuda:{index}", gpu.uuid, f"{gpu.name}, {gpu.memory_gib:.0f} GiB") for index, gpu in enumerate(gpus)]


def choose_devices(request: str, gpus: Sequence[Device]) -> list[Device]:
    """The devices that `request` names: `auto` is every GPU or else the CPU; `cpu` and `cuda:N` are that one.

    Raises:
        DeviceError: there is no such device.
    """
    if request == "auto":
        return list(gpus) or [CPU]
    for device in (CPU, *gpus):
        if device.name == request:
            return [device]
    known = ", ".join(device.name for device in (CPU, *gpus))
    raise DeviceError(f"no device {request!r}: this machine has {known}; `fitq-worker devices` lists them")


def usable_cores() -> int:
    """CPU cores that this process may run on; fewer where its container has a quota of CPU time, and at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota_in_cores(cores)))


def _quota_in_cores(cores: int) -> int:
    """The quota of Linux's control groups, version 2 or 1, in whole cores; `cores` where there is none."""
    for paths in _QUOTAS:
        try:
            quota, period = " ".join(path.read_text() for path in paths).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and period.isdigit():  # not "max" or -1, which are no quota
            return int(quota) // int(period)
    return cores


def process_environment(device: Device, threads: int) -> dict[str, str]:
    """What ties a process to `device` when set before it starts, with at most `threads` threads for array work."""
    # Threads that wait let others compute: those that spin took two supervisors on the same cores ten times as long.
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    if device.uuid is None:
        return limits | {DEVICE_VARIABLE: "cpu", "CUDA_VISIBLE_DEVICES": ""}
    # A UUID means the same GPU under any inherited mask and numbering; the process sees it as its only one.
    mask = {"CUDA_VISIBLE_DEVICES": device.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return limits | mask | {DEVICE_VARIABLE: "cuda:0"}


def _gpu(number: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30
    return Gpu(number, pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle), memory)
