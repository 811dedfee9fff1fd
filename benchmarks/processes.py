"""Processes that are measured from outside: CPU time and memory of clients, worker and server, as Linux counts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from fitq.local import LocalFleet, local_fleet
from fitq_shared.settings import Settings
from fitq_shared.store.connection import connect

Given = ParamSpec("Given")
Result = TypeVar("Result")
MEBIBYTE = 2**20
_DURABLE = {"rdbcompression": "no", "auto-aof-rewrite-min-size": "1gb", "appendfsync": "everysec", "appendonly": "yes"}


class Command:
    """A running `fitq` command; `ended` must be called again and again, for a process that is gone has no memory."""

    def __init__(self, settings: Settings, *arguments: str) -> None:
        self.cpu_seconds, self.peak_bytes = 0.0, 0
        program = str(Path(sys.executable).with_name("fitq"))
        environment = os.environ | settings.environment()
        self._process = subprocess.Popen(
            [program, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line of its standard output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip() or self._failed()

    def ended(self) -> bool:
        """Whether it has ended; only then `cpu_seconds` is known."""
        if self._process.returncode is not None:
            return True
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if pid == 0:
            self.peak_bytes = max(self.peak_bytes, _peak_bytes(self._process.pid))
            return False
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self._process.returncode == 0 or bool(self._failed())

    def _failed(self) -> str:
        assert self._process.stderr is not None
        raise RuntimeError(f"{self._process.args!r} failed: {self._process.stderr.read()}")


class Tree:
    """A process that was there before, with all that it started."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """CPU time so far, of those that have ended too."""
        return float(sum(sum(process.cpu_times()[:4]) for process in self._all()))

    def peak_bytes(self) -> int:
        """Resident memory of the largest process at its highest since `forget_peak`."""
        return max(_peak_bytes(process.pid) for process in self._all())

    def forget_peak(self) -> None:
        """Let the highest mark of the memory be what is used now."""
        for process in self._all():
            with suppress(OSError):  # it has just ended
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def release(self, cores: set[int]) -> None:
        """Let all threads run on all of `cores`."""
        for process in self._all():
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cores)

    def _all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


@contextmanager
def small_fleet() -> Iterator[LocalFleet]:
    """The fleet of `fitq run` with one worker process of one thread, tied to one core until `Tree.release`.

    Its server keeps an append-only file, with the settings of docker-compose.yml.
    """
    cores = os.sched_getaffinity(0)
    # A worker starts as many processes as it has cores, and may have others once it has started.
    os.sched_setaffinity(0, {max(cores)})
    try:
        with local_fleet("cpu") as fleet:
            os.sched_setaffinity(0, cores)
            redis = connect(fleet.settings)
            for name, value in _DURABLE.items():
                redis.config_set(name, value)
            yield fleet
    finally:
        os.sched_setaffinity(0, cores)


def in_a_fresh_process(function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """What `function` returns in a new process that is tied to one core."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_on_one_core) as process:
        return process.submit(function, *args, **kwargs).result()


def _on_one_core() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _peak_bytes(pid: int) -> int:
    """VmHWM of a process; 0 when it has just ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
