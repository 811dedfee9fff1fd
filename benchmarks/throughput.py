"""Fits per second of the notebook's job, in one run: the notebook's loop, the engine, and `fitq run` from end to end.

The job: 20 samples of x ~ 5 N(0, 1), y = x^2 + 2 x + 3, degree 2, NAdam, lr 0.01, 1000 steps, 100-point trace. The loop
and the engine use one core; `fitq run` uses all of them, one worker process each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import pyarrow as pa
import torch
from peers import notebook_loop
from rich.console import Console
from rich.table import Table

from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit


class Row(NamedTuple):
    """One line of the table."""

    way: str
    fits: int
    seconds: float

    @property
    def rate(self) -> float:
        """Fits per second."""
        return self.fits / self.seconds


def notebook_jobs(fits: int) -> pa.RecordBatch:
    """The same as jobs of the engine."""
    return jobs_batch([FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed) for seed in range(fits)])


def timed(way: str, fits: int, run: Callable[[], object]) -> Row:
    """One line; the time is wall time."""
    start = time.perf_counter()
    run()
    return Row(way, fits, time.perf_counter() - start)


def fitq_run(fits: int) -> list[Row]:
    """The whole command, and the part of it from the first chunk claimed to the last one committed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("fitq")), "run", "--polynomial", "1,2,3", "--samples", "20"]
        command += ["--count", str(fits), "--json", "-o", folder]
        start = time.perf_counter()
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - start
    summary = json.loads(output)
    fitting = Row("fitq run, first claim to last commit", fits, summary["seconds"])
    return [fitting, Row("fitq run, whole command", fits, seconds)]


@click.command()
@click.option("--loop-fits", default=30, show_default=True, help="Fits of the notebook's loop.")
@click.option("--eager-fits", default=1 << 15, show_default=True, help="Fits of the eager engine.")
@click.option("--compiled-fits", default=1 << 18, show_default=True, help="Fits of the compiled engine.")
@click.option("--run-fits", default=100_000, show_default=True, help="Fits of `fitq run`.")
def main(loop_fits: int, eager_fits: int, compiled_fits: int, run_fits: int) -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    eager, compiled = notebook_jobs(eager_fits), notebook_jobs(compiled_fits)
    notebook_loop(2, 20, 1)
    fit(eager.slice(0, 64), path="eager")
    building = timed("building or loading the kernel", 1, lambda: fit(compiled.slice(0, 64), path="compiled"))
    rows = [
        timed("the notebook's loop", loop_fits, lambda: notebook_loop(2, 20, loop_fits)),
        timed("engine, eager, one core", eager_fits, lambda: fit(eager, path="eager")),
        timed("engine, compiled, one core", compiled_fits, lambda: fit(compiled, path="compiled")),
        *fitq_run(run_fits),
    ]
    table = Table(title=f"{os.cpu_count()} cores, torch {torch.__version__}; kernel ready after {building.seconds:.1f} s")
    for name in ("way", "fits", "seconds", "fits/s", "times the loop"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for row in rows:
        table.add_row(row.way, f"{row.fits:,}", f"{row.seconds:.2f}", f"{row.rate:,.0f}", f"{row.rate / rows[0].rate:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
