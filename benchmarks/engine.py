"""The engine on one core, beside the notebook's loop, the usual JAX program and C++ written by hand, in one run.

Prints tables and writes benchmarks/results/engine.json. README.md in this folder says what the rows mean.
"""

from __future__ import annotations

import os

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before torch and XLA count the cores
os.environ |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}

import resource  # noqa: E402 - the lines above must come first
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402

import click  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402
from inputs import lists, samples_of  # noqa: E402
from peers import DEGREES, EVERY_BIT, FAST_MATH, cpp_program, jax_program, notebook_loop  # noqa: E402
from tables import save, show  # noqa: E402

from fitq_shared.jobs.frames import jobs_batch  # noqa: E402
from fitq_shared.jobs.job import FitJob  # noqa: E402
from fitq_worker.engine import fit  # noqa: E402

CHUNK_FITS = 8192
LOOP_FITS, JAX_FITS, EAGER_FITS = 2, 2048, 8192
#: Way -> what it runs, the number of fits it does.
Ways = dict[str, tuple[Callable[[], object], int]]
Rates = dict[str, float]

SECOND_START = """
import time; start = time.perf_counter()
import torch; torch.set_num_threads(1)
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.engine import fit, warm_up
warm_up("cpu")
fit(jobs_batch([FitJob(polynomial=[1.0, 2.0, 3.0], seed=seed) for seed in range(8192)]))
print(time.perf_counter() - start)
"""


def frame(degree: int, samples: int, fits: int, trace: str = "points:100", optimizer: str = "nadam") -> pa.RecordBatch:
    """Jobs with explicit samples, put into the frame as columns: a Python object each would take longer than the fits."""
    prototype = FitJob(x=[0.0], y=[0.0], degree=degree, trace=trace, optimizer=optimizer)  # type: ignore[arg-type]
    jobs = jobs_batch([prototype] * fits)
    x, y = samples_of(degree, samples, fits)
    new = {"x": lists(x), "y": lists(y), "seed": pa.array(np.arange(fits))}
    columns = [new.get(name, jobs[name]) for name in jobs.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=jobs.schema)


def engine(jobs: pa.RecordBatch, path: str, chunks: int = 1) -> Callable[[], object]:
    """Fit the frame so many times, as a worker fits one chunk after the other."""

    def run() -> None:
        for _ in range(chunks):
            fit(jobs, path=path)  # type: ignore[arg-type]

    return run


def rates(ways: Ways, rounds: int) -> Rates:
    """Fits per second, the best of some rounds in which every way has its turn, after one that does not count."""
    best = dict.fromkeys(ways, np.inf)
    for number in range(rounds + 1):
        for way, (run, _) in ways.items():
            if number == 0 and way == "loop":
                continue  # nothing in it warms up for long
            start = time.perf_counter()
            run()
            if number:
                best[way] = min(best[way], time.perf_counter() - start)
    return {way: fits / best[way] for way, (_, fits) in ways.items()}


def peers(degree: int, samples: int) -> Iterator[tuple[str, tuple[Callable[[], object], int]]]:
    """The ways that can be had on this machine."""
    yield "loop", (lambda: notebook_loop(degree, samples, LOOP_FITS), LOOP_FITS)
    x, y = (values.astype(np.float32) for values in samples_of(degree, samples, JAX_FITS))
    programs: list[tuple[str, Callable[[], Callable[[], None]], int]] = [
        ("jax", lambda: jax_program(degree, x, y), JAX_FITS),
        ("C++ every bit", lambda: cpp_program(degree, CHUNK_FITS, EVERY_BIT), CHUNK_FITS),
        ("C++ fast math", lambda: cpp_program(degree, CHUNK_FITS, FAST_MATH), CHUNK_FITS),
    ]
    for name, make, fits in programs:
        try:
            yield name, (make(), fits)
        except (ImportError, FileNotFoundError) as error:
            click.echo(f"{name} is left out: {error}", err=True)


def by_degree(rounds: int) -> dict[str, Rates]:
    """Degrees with 20 samples: every way."""
    found = {}
    for degree in DEGREES:
        jobs, eager = frame(degree, 20, CHUNK_FITS), frame(degree, 20, EAGER_FITS)
        exact = frame(degree, 20, CHUNK_FITS, optimizer="exact")
        ways: Ways = {
            **dict(peers(degree, 20)),
            "eager": (engine(eager, "eager"), EAGER_FITS),
            "compiled": (engine(jobs, "compiled"), CHUNK_FITS),
            "exact": (engine(exact, "compiled"), CHUNK_FITS),
        }
        found[f"degree {degree}"] = rates(ways, rounds)
    return found


def by_samples(rounds: int) -> dict[str, Rates]:
    """Numbers of samples at degree 2, and traces."""
    ways: Ways = {}
    for samples in (20, 200, 2000):
        ways[f"compiled, {samples} samples"] = (engine(frame(2, samples, CHUNK_FITS), "compiled"), CHUNK_FITS)
        exact = frame(2, samples, CHUNK_FITS, optimizer="exact")
        ways[f"exact, {samples} samples"] = (engine(exact, "compiled"), CHUNK_FITS)
    ways["compiled, 20 samples, no trace"] = (engine(frame(2, 20, CHUNK_FITS, trace="none"), "compiled"), CHUNK_FITS)
    return {way: {"fits/s": rate} for way, rate in rates(ways, rounds).items()}


def by_fits(largest: int, rounds: int) -> dict[str, Rates]:
    """1 to `largest` fits by decades, in chunks of CHUNK_FITS; a million are one chunk's samples again and again."""
    found, fits = {}, 1
    while fits <= largest:
        size, chunks = min(fits, CHUNK_FITS), max(1, round(fits / CHUNK_FITS))
        jobs, exact = frame(2, 20, size), frame(2, 20, size, optimizer="exact")
        ways: Ways = {
            "compiled": (engine(jobs, "compiled", chunks), size * chunks),
            "exact": (engine(exact, "compiled", chunks), size * chunks),
        }
        if fits <= 10_000:
            ways["eager"] = (engine(jobs, "eager", chunks), size * chunks)
        if fits == 1:
            ways["loop"] = (lambda: notebook_loop(2, 20, 1), 1)
        found[f"{fits:,} fits"] = rates(ways, rounds if fits <= 100_000 else 1)
        fits *= 10
    return found


def second_start() -> float:
    """Seconds of a new process until 8192 fits are done, its kernels being on the disk."""
    done = subprocess.run([sys.executable, "-c", SECOND_START], check=True, capture_output=True, text=True)
    return float(done.stdout)


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Rounds of which the best counts.")
@click.option("--largest", default=1_000_000, show_default=True, help="Most fits of the last table.")
def main(rounds: int, largest: int) -> None:
    """Measure, print and write everything."""
    torch.set_num_threads(1)
    found = {"by degree": by_degree(rounds), "by samples": by_samples(rounds), "by fits": by_fits(largest, rounds)}
    for title, rows in found.items():
        show(f"{title}, fits per second", rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole = {**found, "second start, seconds": second_start(), "peak RSS, MiB": peak, "torch": torch.__version__}
    click.echo(f"second start {whole['second start, seconds']:.1f} s; peak memory {peak:,.0f} MiB")
    save("engine", whole)


if __name__ == "__main__":
    main()
