"""A million jobs from a file to Parquet on disk: the whole path beside the engine alone, and beside other queues.

Prints tables and writes benchmarks/results/pipeline.json. README.md in this folder says what the rows mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from inputs import sources
from latency import interactive_latency
from parts import Alone, engine_alone, parts_alone
from processes import MEBIBYTE, in_a_fresh_process, small_fleet
from queue_peers import rates
from tables import save, show
from whole_path import Ran, run, standing_processes

from fitq.client import Client
from fitq.local import LocalFleet

SMALLEST_JOBS = 1000
INTERACTIVE_FITS, CELERY_FITS, POLYFITS = 50, 200, 50_000
QUICK_SHARE = 5

Rows = dict[str, dict[str, float]]


def decades(largest: int) -> list[int]:
    """From SMALLEST_JOBS to `largest`, ten times as many each time."""
    sizes, jobs = [], SMALLEST_JOBS
    while jobs < largest:
        sizes.append(jobs)
        jobs *= 10
    return [*sizes, largest]


def speed(jobs: int, ran: Ran, engine: Alone, start_seconds: float) -> dict[str, float]:
    """The path beside the engine, and CPU microseconds a fit of all but the engine.

    `start_seconds` are the CPU time of all processes for a single job: what importing and connecting take.
    """
    rate, engine_rate = jobs / ran.seconds, jobs / engine.wall_seconds
    overhead = sum(ran.cpu_seconds.values()) - engine.cpu_seconds
    return {
        "seconds": ran.seconds,
        "fits/s": rate,
        "engine fits/s": engine_rate,
        "ratio": rate / engine_rate,
        "overhead µs": overhead / jobs * 1e6,
        "without start µs": (overhead - start_seconds) / jobs * 1e6,
    }


def by_process(jobs: int, ran: Ran, engine: Alone) -> dict[str, float]:
    """CPU microseconds a fit of every process, the worker's without the engine's."""
    cpu = ran.cpu_seconds | {"worker": ran.cpu_seconds["worker"] - engine.cpu_seconds}
    return with_sum({name: seconds / jobs * 1e6 for name, seconds in cpu.items()})


def with_sum(row: dict[str, float]) -> dict[str, float]:
    """The row with the sum of its numbers as the last one."""
    return {**row, "sum": sum(row.values())}


def memory(jobs: int, ran: Ran) -> dict[str, float]:
    """Peak resident memory of every process, and what the server's data takes."""
    peaks = {f"{name} MiB": peak / MEBIBYTE for name, peak in ran.peak_bytes.items()}
    return {**peaks, "data MiB": ran.stored_peak_bytes / MEBIBYTE, "bytes a fit at the end": ran.stored_bytes / jobs}


def warmed_up(fleet: LocalFleet, folder: Path) -> dict[str, float]:
    """Build all kernels, let the worker load them, and return the CPU seconds that a single job takes, by kind of input."""
    for source in sources(SMALLEST_JOBS, folder):
        in_a_fresh_process(engine_alone, source)
        run(source, fleet, folder)
    for tree in standing_processes(fleet).values():
        tree.release(os.sched_getaffinity(0))
    return {source.name: sum(run(source, fleet, folder).cpu_seconds.values()) for source in sources(1, folder)}


def path_tables(fleet: LocalFleet, largest: int, folder: Path) -> dict[str, Rows]:
    """Every kind of input in every size; parts, processes and memory for the largest."""
    starts = warmed_up(fleet, folder)
    path: Rows = {}
    parts: Rows = {}
    processes: Rows = {}
    peaks: Rows = {}
    for jobs in decades(largest):
        for source in sources(jobs, folder):
            ran, engine = run(source, fleet, folder), in_a_fresh_process(engine_alone, source)
            path[f"{source.name}, {jobs:,}"] = speed(jobs, ran, engine, starts[source.name])
            if jobs == largest:
                parts[source.name] = with_sum(in_a_fresh_process(parts_alone, source, fleet.settings))
                processes[source.name] = by_process(jobs, ran, engine)
                peaks[source.name] = memory(jobs, ran)
    return {
        "from file to Parquet; overhead in CPU µs a fit": path,
        f"CPU µs a fit, by part, {largest:,} jobs": parts,
        f"CPU µs a fit, by process, {largest:,} jobs": processes,
        f"memory at its highest, {largest:,} jobs": peaks,
    }


@click.command()
@click.option("--jobs", default=1_000_000, show_default=True, type=click.IntRange(SMALLEST_JOBS), help="Largest number.")
@click.option("--quick", is_flag=True, help="Fewer jobs everywhere else, and of the largest number a tenth at most.")
def main(jobs: int, quick: bool) -> None:
    """Measure, print and write everything."""
    jobs, share = (min(jobs, 100_000), QUICK_SHARE) if quick else (jobs, 1)
    found: dict[str, Mapping[str, Mapping[str, float]]] = {}
    with TemporaryDirectory() as folder, small_fleet() as fleet:
        found |= path_tables(fleet, jobs, Path(folder))
        single = interactive_latency(Client(fleet.settings), jobs, INTERACTIVE_FITS // share)
        found["one job at a time"] = {"beside a large submission on the only worker": single}
        url = fleet.settings.redis_url
        found["peers, two processes"] = dict(rates(url, CELERY_FITS // share, POLYFITS // share))
    for title, rows in found.items():
        show(title, rows)
    save("pipeline", {**found, "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
