"""Compiled code: built once in a process of its own, kept on disk, and taken from there by every later process.

Building takes from two seconds (the reduction) to half a minute (a block of steps), so nobody waits for it: `request`
starts it in the background, and fits go on without the code until its file is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import IO, Protocol

import torch

from fitq_worker.compiler import cxx_compiler

log = logging.getLogger(__name__)


class Kernel(Hashable, Protocol):
    """Something to compile: a tuple of JSON values whose module builds it when it is run with them."""

    @property
    def file(self) -> Path:
        """Where it is kept."""

    def compile(self, target: Path) -> None:
        """Build it into a new file."""


def request(kernel: Kernel) -> None:
    """Have the kernel built in the background, and return at once."""
    if not kernel.file.exists() and _compiler() and not _is_being_built(kernel):
        _start_build(kernel)


def build(kernel: Kernel) -> None:
    """Compile a kernel and store its file; nothing is done when another process has stored it."""
    with _lock(kernel) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kernel.file.exists():
            unfinished = kernel.file.with_name(f"unfinished-{os.getpid()}-{kernel.file.name}")
            kernel.compile(unfinished)
            os.replace(unfinished, kernel.file)


def build_in_background(kernel: Kernel) -> None:
    """Build with the lowest priority: the processor is for fits."""
    os.nice(19)
    build(kernel)


def kernel_file(name: str, suffix: str, device: str, sources: tuple[str, ...]) -> Path:
    """The file of a kernel in the user's cache: by name, torch version, processor and the source files it is made of."""
    return _cache() / f"{name}-{_fingerprint(device, sources)}{suffix}"


def _lock(kernel: Kernel) -> IO[str]:
    """The file whose lock the building process holds; the lock goes with the process, however that ends."""
    kernel.file.parent.mkdir(parents=True, exist_ok=True)
    return kernel.file.with_suffix(".lock").open("w")


def _is_being_built(kernel: Kernel) -> bool:
    """Whether another process is building it: all workers of a machine ask for the same kernels when they start."""
    with _lock(kernel) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@cache
def _start_build(kernel: Kernel) -> subprocess.Popen[bytes]:
    """Build in a process that outlives this one; at most once in the life of this process.

    It is returned to be kept: Python warns of a process that is dropped while it runs.
    """
    log.info("building kernel %s in the background", kernel.file.name)
    with kernel.file.with_suffix(".log").open("wb") as output:
        command = [sys.executable, "-m", type(kernel).__module__, json.dumps(kernel)]
        return subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)


@cache
def _compiler() -> bool:
    found = cxx_compiler() is not None
    if not found:
        log.warning("no C++ compiler (g++ or clang++): the engine runs eager, about ten times slower; results are the same")
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fitq" / "kernels"


@cache
def _fingerprint(device: str, sources: tuple[str, ...]) -> str:
    processor = _instructions() if device == "cpu" else torch.cuda.get_device_name()
    digest = hashlib.sha256(f"{torch.__version__} {processor} {sys.version_info[:2]}".encode())
    for name in sources:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]


def _instructions() -> str:
    """What the processor can do: machines that share a home folder may differ, and kernels are built for one."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    listed = [line for line in lines if line.startswith(("flags", "Features"))]
    return listed[0] if listed else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
