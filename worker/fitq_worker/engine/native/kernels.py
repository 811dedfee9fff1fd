"""Kernels: source code made into a library, kept on disk for every later process, and loaded.

Building takes about a second of a C++ compiler, in front of nobody: fits run eager until the library is there.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import subprocess
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

import torch

from fitq_shared.errors import FitqError
from fitq_worker.compiler import cxx_compiler

log = logging.getLogger(__name__)

#: Which code runs: a kernel if there is one, none in any case, or one that is built first if need be.
CodePath = Literal["auto", "eager", "compiled"]

#: Every rounding is kept: no contraction to fused operations, nothing reordered.
_OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
#: The registers of the processor that builds, in their full width.
_PROCESSOR = ("-march=native", "-mprefer-vector-width=512") if platform.machine() == "x86_64" else ("-mcpu=native",)
#: What a complete library ends with; loading one that was cut short would end the process.
_SEAL = b"a whole fitq kernel"
#: Kernels that nobody has loaded for so long are removed: those of other versions, and of other work.
_UNUSED_SECONDS = 30 * 24 * 3600
_ENGINE = Path(__file__).parents[1]
#: What has been loaded, by kernel and folder; None where loading failed, which is said once.
_LOADED: dict[tuple[Kernel, str], ctypes.CDLL | None] = {}


class KernelError(FitqError):
    """A kernel cannot be built."""


class Kernel(Hashable, Protocol):
    """Something to compile."""

    @property
    def name(self) -> str:
        """A word for it."""

    @property
    def made_from(self) -> tuple[str, ...]:
        """The files and folders of the engine that it is made from."""

    def write(self) -> str:
        """Its source code."""


def find_library(kernel: Kernel, path: CodePath, *, worth_building: bool = True) -> ctypes.CDLL | None:
    """The library of a kernel; None where there is none yet or none is wanted.

    Raises:
        KernelError: `path` is "compiled" and it cannot be built.
    """
    if path == "eager":
        return None
    ready = load(kernel)
    if ready is None and path == "compiled":
        build(kernel)
        ready = load(kernel)
    if ready is None and path == "auto" and worth_building:
        request(kernel)
    return ready


def load(kernel: Kernel) -> ctypes.CDLL | None:
    """The library of a kernel, or None while there is none."""
    key = kernel, _folder()
    if key not in _LOADED:
        file = library_file(kernel)
        if not _is_whole(file):
            return None
        _LOADED[key] = _load(file)
    return _LOADED[key]


def request(kernel: Kernel) -> None:
    """Have a kernel that is missing built in the background, and return at once; once in the life of a process."""
    if _has_compiler():
        _start_build(kernel)


def build(kernel: Kernel) -> None:
    """Build a kernel, unless it is there already.

    Raises:
        KernelError: there is no compiler, it failed, or the library cannot be written.
    """
    file = library_file(kernel)
    if _is_whole(file):
        return
    try:
        with _lock(file):
            if not _is_whole(file):
                _compile(kernel, file)
                _remove_unused(file.parent)
    except OSError as error:
        raise KernelError(
            f"kernel {kernel.name} cannot be kept ({error}); make {file.parent} writable, or set XDG_CACHE_HOME"
        ) from error


def library_file(kernel: Kernel) -> Path:
    """Where it is kept: named by what it is, torch's version, the processor and the source files that it is made from."""
    return Path(_folder()) / f"{kernel.name}-{_fingerprint(kernel.made_from)}.so"


def _compile(kernel: Kernel, file: Path) -> None:
    compiler = cxx_compiler()
    if compiler is None:
        raise KernelError("there is no C++ compiler; install g++ or clang++")
    source, unfinished = file.with_suffix(".cpp"), file.with_name(f"unfinished-{os.getpid()}-{file.name}")
    source.write_text(kernel.write())
    command = [compiler, *_OPTIONS, *_PROCESSOR, str(source), "-o", str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), f"it ended with {done.returncode}")
        raise KernelError(f"{compiler} cannot build kernel {kernel.name}: {first.strip()}; its source is {source}")
    with unfinished.open("ab") as library:
        library.write(_SEAL)
    unfinished.replace(file)


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Held while a library is built: all workers of a machine ask for the same ones when they start."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _start_build(kernel: Kernel) -> None:
    # No daemon: a process that ends meanwhile waits the second, for a thread that dies inside torch takes it down.
    threading.Thread(target=_build_or_warn, args=(kernel,), name=f"build {kernel.name}").start()


def _build_or_warn(kernel: Kernel) -> None:
    start = time.monotonic()
    try:
        build(kernel)
    except FitqError as error:
        log.warning("%s; going on without it, about ten times slower; results are the same", error)
    else:
        log.info("kernel %s was built in %.1f s", kernel.name, time.monotonic() - start)


def _load(file: Path) -> ctypes.CDLL | None:
    try:
        os.utime(file)
    except OSError:  # a folder to be read only, filled by `fitq-worker warm`
        log.debug("%s is not ours to mark as used", file)
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        log.warning("kernel %s cannot be loaded (%s); going on without it, results are the same", file, error)
        return None


def _is_whole(file: Path) -> bool:
    try:
        with file.open("rb") as library:
            library.seek(-len(_SEAL), os.SEEK_END)
            return library.read() == _SEAL
    except OSError:
        return False


def _remove_unused(folder: Path) -> None:
    """Remove what has not been used for long, sources and locks too."""
    oldest = time.time() - _UNUSED_SECONDS
    for file in folder.iterdir():
        if file.is_file() and file.stat().st_mtime < oldest:
            file.unlink(missing_ok=True)


@cache
def _has_compiler() -> bool:
    found = cxx_compiler() is not None
    if not found:
        log.warning("no C++ compiler (g++ or clang++): the engine runs eager, about ten times slower; results are the same")
    return found


def _folder() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fitq", "kernels")


@cache
def _fingerprint(made_from: tuple[str, ...]) -> str:
    digest = hashlib.sha256(f"{torch.__version__} {_instructions()}".encode())
    for name in made_from:
        place = _ENGINE / name
        for file in sorted(place.iterdir()) if place.is_dir() else [place]:
            if file.suffix in (".py", ".cpp"):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _instructions() -> str:
    """What the processor can do: machines that share a home folder may differ, and kernels are built for one."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    listed = [line for line in lines if line.startswith(("flags", "Features"))]
    return listed[0] if listed else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
