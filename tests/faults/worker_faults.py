"""What happens to workers."""

from __future__ import annotations

import signal

import psutil

from tests.faults.storm import Storm


def kill_a_fitting_process(storm: Storm) -> None:
    """As the system does when memory runs out."""
    storm.fleet.kill_fitting_process(storm.some_place())


def kill_a_main_process(storm: Storm) -> None:
    """Celery's, with the message that it has taken."""
    storm.fleet.kill_main_process(storm.some_place())


def kill_a_supervisor(storm: Storm) -> None:
    """All its processes die with it."""
    storm.fleet.kill_supervisor(storm.some_place())


def kill_all_workers(storm: Storm) -> None:
    """A power cut on the nodes."""
    for place in range(len(storm.fleet.places)):
        storm.fleet.kill_supervisor(place)


def freeze_a_fitting_process_beyond_its_lease(storm: Storm) -> None:
    """Somebody else fits its chunk; then it wakes up and commits."""
    _freeze(storm, storm.fleet.fitting_processes(storm.some_place()))


def freeze_a_worker_beyond_its_lease(storm: Storm) -> None:
    """The whole machine stood still."""
    place = storm.some_place()
    mains = storm.fleet.main_processes(place)
    supervisor = [psutil.Process(storm.fleet.supervisors[place].pid)] if mains else []
    _freeze(storm, [*supervisor, *mains, *storm.fleet.fitting_processes(place)])


def terminate_a_worker_and_start_it_again(storm: Storm) -> None:
    """It drains while its successor is there already."""
    place = storm.some_place()
    storm.fleet.supervisors[place].send_signal(signal.SIGTERM)
    storm.fleet.replace(place)


def restart_all_workers_one_by_one(storm: Storm) -> None:
    """As an upgrade does."""
    for place in range(len(storm.fleet.places)):
        storm.fleet.supervisors[place].send_signal(signal.SIGTERM)
        storm.fleet.replace(place)
        storm.pass_time(0.5, 2.0)


def _freeze(storm: Storm, processes: list[psutil.Process]) -> None:
    frozen = [process for process in processes if _send(process, signal.SIGSTOP)]
    storm.pass_time(2.5, 4.0)
    for process in frozen:
        _send(process, signal.SIGCONT)


def _send(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True
