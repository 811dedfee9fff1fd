"""The same text as a CUDA kernel, one thread a fit: compiled by NVRTC, without a GPU or a driver, and launched on torch's
current stream. Needs the extra `cuda`, NVIDIA's own packages.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch

from fitq_shared.errors import FitqError
from fitq_worker.engine.native.kernels import CodePath, Kernel, KernelError

log = logging.getLogger(__name__)

#: Every rounding is kept: no fused operations, exact divisions and roots (NVRTC's default). Subnormal float is 0.
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=true", "--prec-div=true", "--prec-sqrt=true")
_THREADS = 128
#: The functions that are there, by kernel and device; None while one is being compiled, and where it could not be.
_FOUND: dict[tuple[Kernel, int], Any] = {}


class Compiled(NamedTuple):
    """A kernel for GPUs of one architecture."""

    code: bytes
    #: Registers of a thread, and bytes of them that are kept in memory for want of more.
    registers: int
    spilled_bytes: int


def compile_kernel(source: str, architecture: str) -> Compiled:
    """Machine code for an architecture such as sm_90.

    Raises:
        KernelError: the compiler refuses it; the text has its first error.
    """
    from cuda.bindings import nvrtc

    with _compiled(source, architecture, "--ptxas-options=-v") as program:
        said = _read_log(program)
        code = _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    return Compiled(code, _number(r"Used (\d+) registers", said), _number(r"(\d+) bytes spill stores", said))


def compile_ptx(source: str, architecture: str) -> str:
    """The assembly that the machine code is made from, such as that of compute_90.

    Raises:
        KernelError: as `compile_kernel`.
    """
    from cuda.bindings import nvrtc

    with _compiled(source, architecture) as program:
        return _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).decode()


@contextmanager
def _compiled(source: str, architecture: str, *more: str) -> Iterator[Any]:
    """NVRTC's program of a source, compiled."""
    from cuda.bindings import nvrtc

    program = _check(nvrtc.nvrtcCreateProgram(source.encode(), b"descent.cu", 0, [], []))
    try:
        options = [option.encode() for option in (*OPTIONS, *more, f"--gpu-architecture={architecture}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            said = _read_log(program)
            first = next((line for line in said.splitlines() if "error" in line), said.strip())
            raise KernelError(f"NVRTC cannot compile for {architecture}: {first}")
        yield program
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read_log(program: Any) -> str:
    from cuda.bindings import nvrtc

    return _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode()


def find_kernel(kernel: Kernel, device: torch.device, path: CodePath, *, worth_building: bool) -> Any | None:
    """The function of a kernel on a device; None where there is none yet, or none is wanted or to be had.

    Raises:
        KernelError: `path` is "compiled" and it cannot be compiled.
    """
    if path == "eager" or not _is_installed():
        return None
    key = kernel, device.index or 0
    if key not in _FOUND and path == "compiled":
        _FOUND[key] = _load(kernel, key[1])
    elif key not in _FOUND and worth_building:
        _FOUND[key] = None
        threading.Thread(target=_load_or_warn, args=key, name=f"compile {kernel.name}").start()
    return _FOUND.get(key)


def launch(function: Any, arguments: torch.Tensor, fits: int) -> None:
    """Run a kernel for so many fits on the current stream of the device that holds `arguments`; returns at once."""
    from cuda.bindings import driver

    with torch.cuda.device(arguments.device):
        stream, blocks = torch.cuda.current_stream().cuda_stream, -(-fits // _THREADS)
        given = ((arguments.data_ptr(),), (ctypes.c_void_p,))
        _check(driver.cuLaunchKernel(function, blocks, 1, 1, _THREADS, 1, 1, 0, stream, given, 0))


def _load(kernel: Kernel, device: int) -> Any:
    from cuda.bindings import driver

    major, minor = torch.cuda.get_device_capability(device)
    compiled = compile_kernel(kernel.write(), f"sm_{major}{minor}")
    if compiled.spilled_bytes:
        log.info("kernel %s keeps %d bytes a fit in memory for want of registers", kernel.name, compiled.spilled_bytes)
    with torch.cuda.device(device):
        torch.cuda.current_stream().synchronize()  # torch has made the context that the module goes into
        module = _check(driver.cuModuleLoadData(compiled.code))
        return _check(driver.cuModuleGetFunction(module, b"descend"))


def _load_or_warn(kernel: Kernel, device: int) -> None:
    try:
        _FOUND[kernel, device] = _load(kernel, device)
    except FitqError as error:
        log.warning("%s; going on without it, results are the same but for subnormal numbers", error)


@cache
def _is_installed() -> bool:
    found = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None
    if not found:
        log.warning("descents on a GPU run eager, many times slower: pip install 'fitq[cuda]' has NVIDIA's compiler")
    return found


def _text(size_of: Any, read: Any, program: Any) -> bytes:
    found: bytes = b" " * _check(size_of(program))
    _check(read(program, found))
    return found


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _check(answer: tuple[Any, ...]) -> Any:
    """What a call of NVIDIA's returned beside its status."""
    status, *found = answer
    if status.value:
        raise KernelError(f"CUDA answered {status.name}; run `fitq-worker check` to see whether driver and packages agree")
    return found[0] if found else None
