"""Whether this machine can fit. Light enough for a container's health check: neither torch nor Celery is imported."""

from __future__ import annotations

from typing import NamedTuple

from fitq_shared.errors import FitqError
from fitq_shared.masking import mask_url
from fitq_shared.settings import Settings
from fitq_shared.store.reader import Reader
from fitq_worker.compiler import cxx_compiler
from fitq_worker.fleet.devices import CPU, choose_devices, cuda_devices, usable_cores


class Finding(NamedTuple):
    """One thing looked at; only what is required makes the check fail."""

    what: str
    good: bool
    detail: str
    required: bool = True


def check_machine(settings: Settings, request: str = "auto") -> list[Finding]:
    """Look for the server, the devices that `request` names and a compiler for the engine's kernels."""
    return [_check_server(settings), _check_devices(request), _check_compiler()]


def _check_server(settings: Settings) -> Finding:
    try:
        Reader(settings).ping()
    except FitqError as error:
        return Finding("server", False, str(error))
    return Finding("server", True, mask_url(settings.redis_url))


def _check_devices(request: str) -> Finding:
    try:
        devices = choose_devices(request, cuda_devices())
    except FitqError as error:
        return Finding("devices", False, str(error))
    cores = f", {usable_cores()} cores" if devices == [CPU] else ""
    return Finding("devices", True, "; ".join(f"{device.name}: {device.description}" for device in devices) + cores)


def _check_compiler() -> Finding:
    found = cxx_compiler()
    detail = found or "no C++ compiler: fits run without compiled loops"
    return Finding("compiler", found is not None, detail, required=False)
