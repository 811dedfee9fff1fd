"""One Celery worker process for each device: started, restarted when it dies, drained on TERM."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from fitq_shared.errors import AccessDenied
from fitq_shared.settings import Settings
from fitq_worker.fleet.devices import Device, process_environment, usable_cores
from fitq_worker.fleet.drain import DRAIN_SECONDS, DRAIN_VARIABLE, GIVE_BACK_SECONDS
from fitq_worker.fleet.memory import MEMORY_VARIABLE, share_of
from fitq_worker.fleet.supervision import SUPERVISOR_VARIABLE

FIRST_RESTART_SECONDS = 1.0
LAST_RESTART_SECONDS = 60.0
#: A process that lived this long was healthy: the delays before its restarts start from the first again.
HEALTHY_SECONDS = 60.0
POLL_SECONDS = 0.2
#: Signals that follow each other more closely may come as one.
SIGNALS_APART_SECONDS = 0.05
#: Exit status when the server refuses the user, the password or a right.
DENIED_STATUS = 4
#: The first process of a device has the cores for itself while it imports torch, most of what a small run takes; the
#: others start so much later.
OTHERS_SECONDS = 3.0

_log = logging.getLogger(__name__)


class WorkerProcess:
    """One Celery worker on one device, started again with growing delay when it ends by itself."""

    def __init__(
        self, node: str, device: Device, threads: int, memory: int, drain: float = DRAIN_SECONDS, delay: float = 0.0
    ) -> None:
        self.node, self.device, self.drain = node, device, drain
        limits = {MEMORY_VARIABLE: str(memory), DRAIN_VARIABLE: str(drain), SUPERVISOR_VARIABLE: str(os.getpid())}
        self._environment = {**os.environ, **process_environment(device, threads), **limits}
        self._delay = FIRST_RESTART_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at: float | None = time.monotonic() + delay
        self.start_if_due()

    def start_if_due(self) -> None:
        """Start the process when it has not started yet, or has ended, and its delay is over."""
        if self.is_running():
            return
        if self._start_at is None:
            self._plan_restart()
        elif time.monotonic() >= self._start_at:
            self._start()

    def is_running(self) -> bool:
        """Whether the process has started and not ended yet."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def _start(self) -> None:
        self._start_at = None
        self._started_at = time.monotonic()
        # A session of its own keeps Ctrl-C in the terminal from reaching it beside the supervisor's TERM.
        self._process = subprocess.Popen(_command(self.node), env=self._environment, start_new_session=True)

    def _plan_restart(self) -> None:
        if time.monotonic() - self._started_at >= HEALTHY_SECONDS:
            self._delay = FIRST_RESTART_SECONDS
        status = self._process.returncode if self._process else None
        _log.error("%s ended with status %s, restart in %.0f s", self.node, status, self._delay)
        self._start_at = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, LAST_RESTART_SECONDS)


class _StopRequests:
    """Counts TERM and INT: the first one begins the drain, the second one ends it, the third one kills."""

    def __init__(self) -> None:
        self.count, self._came = 0, threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._came.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the next request."""
        self._came.wait(seconds)
        self._came.clear()


def supervise(settings: Settings, workers: Sequence[WorkerProcess]) -> int:
    """Run workers until TERM or INT and return the exit status.

    It is 0; 1 when workers had to be killed, or what looks after them has failed; DENIED_STATUS when the server does not let
    us in.
    """
    # Imported now that the workers are on their way: it takes as long as the start of one.
    from fitq_worker.fleet.reconciler import Reconciler

    stop, reconciler = _StopRequests(), Reconciler(settings)
    reconciler.start()
    while not stop.count and reconciler.is_alive():
        for worker in workers:
            worker.start_if_due()
        stop.wait(POLL_SECONDS)
    if reconciler.failure is not None:
        return _give_up(workers, reconciler.failure)
    reconciler.stop()
    return _drain(workers, stop)


def _give_up(workers: Sequence[WorkerProcess], failure: BaseException) -> int:
    """End at once: chunks that are being fitted run again elsewhere."""
    for worker in workers:
        worker.send(signal.SIGKILL)
    denied = isinstance(failure, AccessDenied)
    _log.critical("%s; the workers are ended", failure, exc_info=None if denied else failure)
    return DENIED_STATUS if denied else 1


def start_workers(
    devices: Sequence[Device],
    processes: int | None = None,
    memory: int | None = None,
    threads: int = 1,
    drain: float = DRAIN_SECONDS,
) -> list[WorkerProcess]:
    """Start the workers, or plan their start.

    `processes` is their number for each device: by default one on a GPU and one for each usable core on the CPU. `memory`
    is what each may use in bytes: by default they share that of the machine, and on a GPU there is no limit. `threads` is
    how many each may compute with: more processes do more than more threads. `drain` is how many seconds each may go on
    with its chunk once it is told to stop.
    """
    cores = usable_cores()
    counts = [processes or (1 if device.uuid else cores) for device in devices]
    shares = [memory or (0 if device.uuid else share_of(sum(counts))) for device in devices]
    # The process id makes the names unique where two supervisors share a machine.
    return [
        WorkerProcess(
            f"{device.name.replace(':', '')}-{number}-{os.getpid()}",
            device,
            threads,
            share,
            drain,
            OTHERS_SECONDS if number else 0.0,
        )
        for device, count, share in zip(devices, counts, shares, strict=True)
        for number in range(count)
    ]


def _drain(workers: Sequence[WorkerProcess], stop: _StopRequests) -> int:
    _log.info("stopping: chunks are finished or given back; a second signal gives them back now, a third one kills")
    deadline = _tell_to_stop(workers, max((worker.drain for worker in workers), default=0.0))
    hurried = False
    while any(worker.is_running() for worker in workers):
        time.sleep(SIGNALS_APART_SECONDS)
        if stop.count > 2 or time.monotonic() > deadline:
            for worker in workers:
                worker.send(signal.SIGKILL)
            _log.warning("workers were killed; their chunks will run again")
            return 1
        if stop.count > 1 and not hurried:
            hurried, deadline = True, _tell_to_stop(workers, 0.0)
    _log.info("stopped")
    return 0


def _tell_to_stop(workers: Sequence[WorkerProcess], drain: float) -> float:
    """Begin the drain of all workers, or end it, and return the time at which they must have ended."""
    for worker in workers:
        worker.send(signal.SIGTERM)
    return time.monotonic() + drain + GIVE_BACK_SECONDS


def _command(node: str) -> list[str]:
    return [sys.executable, "-m", "fitq_worker.chunks", f"{node}@%h"]
