"""The workers under fire: supervisors with their processes, found by what they are, and started again when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

from fitq_shared.settings import PREFIX, Settings

STOP_SECONDS = 90
#: A supervisor lets a process that ends again and again wait longer and longer; after this many kills it is replaced.
MOST_KILLS = 2

#: Python imports this at its start: the clock of the process is wrong by CLOCK_VARIABLE seconds.
CLOCK_VARIABLE = "FAULTS_CLOCK_SECONDS"
WRONG_CLOCK = f"""
import os, time
true_time, shift = time.time, float(os.environ["{CLOCK_VARIABLE}"])
time.time = lambda: true_time() + shift
"""


class Place(NamedTuple):
    """Where a supervisor runs: how many processes it has, and by how much its clock is wrong, in seconds."""

    processes: int
    clock_seconds: float = 0.0


class Fleet:
    """Supervisors, each in its place."""

    def __init__(self, settings: Settings, folder: Path, places: list[Place]) -> None:
        self._settings, self._folder, self.places = settings, folder, places
        self.retired: list[subprocess.Popen[bytes]] = []
        self._kills = [0] * len(places)
        self.supervisors = [self._start(number) for number in range(len(places))]

    def replace(self, number: int) -> None:
        """Start another supervisor in this place; the one before is on its own."""
        self.retired.append(self.supervisors[number])
        self.supervisors[number], self._kills[number] = self._start(number), 0

    def revive(self) -> None:
        """Start supervisors again that have ended."""
        for number, supervisor in enumerate(self.supervisors):
            if supervisor.poll() is not None:
                self.replace(number)

    def main_processes(self, number: int) -> list[psutil.Process]:
        """Celery's main processes under this supervisor."""
        return _children(self.supervisors[number].pid)

    def fitting_processes(self, number: int) -> list[psutil.Process]:
        """The processes under this supervisor that fit."""
        found = [child for main in self.main_processes(number) for child in _children(main.pid)]
        return [child for child in found if "semaphore_tracker" not in " ".join(child.cmdline())]

    def kill_main_process(self, number: int) -> None:
        """Kill Celery's main processes in this place, and the supervisor too once it is weary of starting them."""
        self._kills[number] += 1
        if self._kills[number] > MOST_KILLS:
            self.kill_supervisor(number)
            return
        for process in self.main_processes(number):
            _kill(process)

    def kill_supervisor(self, number: int) -> None:
        """Kill it, and start another one in its place."""
        self.supervisors[number].kill()
        self.supervisors[number].wait()
        self.replace(number)

    def kill_fitting_process(self, number: int) -> None:
        """Kill what fits in this place."""
        for process in self.fitting_processes(number):
            _kill(process)

    def stop(self) -> list[int]:
        """End all in order, and return their exit statuses."""
        self.revive()
        for supervisor in self.supervisors:
            supervisor.send_signal(signal.SIGTERM)
        return [supervisor.wait(STOP_SECONDS) for supervisor in self.supervisors]

    def kill(self) -> None:
        """End all at once."""
        for supervisor in (*self.supervisors, *self.retired):
            supervisor.kill()
            supervisor.wait()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        place = self.places[number]
        command = [sys.executable, "-m", "fitq_worker", "start", "--device", "cpu", "--processes", str(place.processes)]
        environment = environment_of(self._settings)
        if place.clock_seconds:
            environment = with_wrong_clock(environment, place.clock_seconds, self._folder)
        with (self._folder / f"worker-{number}.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of a process that uses `settings`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | settings.environment()


def with_wrong_clock(environment: dict[str, str], seconds: float, folder: Path) -> dict[str, str]:
    """The environment of a process whose clock is wrong."""
    wrong = folder / "wrong-clock"
    wrong.mkdir(exist_ok=True)
    (wrong / "sitecustomize.py").write_text(WRONG_CLOCK)
    path = os.pathsep.join([str(wrong), *filter(None, [environment.get("PYTHONPATH")])])
    return environment | {CLOCK_VARIABLE: str(seconds), "PYTHONPATH": path}


def _children(process: int) -> list[psutil.Process]:
    try:
        found = psutil.Process(process).children()
        return [child for child in found if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
