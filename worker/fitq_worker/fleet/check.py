"""Whether this machine can fit. Light enough for a container's health check: neither torch nor Celery is imported."""

from __future__ import annotations

from typing import NamedTuple

from fitq_shared.errors import FitqError
from fitq_shared.masking import mask_url
from fitq_shared.settings import Settings
from fitq_shared.store.checking import CheckingStore, ServerSetup
from fitq_worker.compiler import cxx_compiler
from fitq_worker.fleet.devices import CPU, choose_devices, cuda_devices, usable_cores


class Finding(NamedTuple):
    """One thing looked at; only what is required makes the check fail."""

    what: str
    good: bool
    detail: str
    required: bool = True


def check_machine(settings: Settings, request: str = "auto") -> list[Finding]:
    """Try server and files for results as a worker uses them; look for the devices that `request` names and a compiler."""
    return [*_check_server(settings), *_check_results(settings), _check_devices(request), _check_compiler()]


def _check_server(settings: Settings) -> list[Finding]:
    checking = CheckingStore(settings)
    try:
        checking.work()
        setup = checking.setup()
    except FitqError as error:
        return [Finding("server", False, str(error))]
    return [Finding("server", True, mask_url(settings.redis_url)), _check_eviction(setup), _check_disk(setup)]


def _check_eviction(setup: ServerSetup) -> Finding:
    if setup.evicts:
        why = f"maxmemory-policy is {setup.eviction_policy}: a full server would drop jobs and results; set it to noeviction"
        return Finding("memory", False, why)
    if setup.eviction_policy != "noeviction":
        why = f"maxmemory-policy is {setup.eviction_policy}, without maxmemory; set it to noeviction before there is one"
        return Finding("memory", False, why, required=False)
    limit = f"maxmemory is {setup.memory_limit / 2**20:,.0f} MiB" if setup.memory_limit else "no maxmemory"
    return Finding("memory", True, f"{limit}, nothing is evicted")


def _check_disk(setup: ServerSetup) -> Finding:
    kept = setup.append_only_file
    detail = (
        "append-only file" if kept else "no append-only file: submissions are gone when the server ends; set appendonly yes"
    )
    return Finding("disk", kept, detail, required=False)


def _check_results(settings: Settings) -> list[Finding]:
    if not settings.results_url:
        return []
    try:
        CheckingStore(settings).write_files()
    except FitqError as error:
        return [Finding("results", False, str(error))]
    return [Finding("results", True, mask_url(settings.results_url))]


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
