"""What else puts many small fits on all cores: a Celery task for each, joblib, Dask."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from celery import Celery, group
from inputs import DEGREE, SAMPLES, samples_of

PROCESSES = 2
#: Name of the variable that tells the workers of the Celery task where the broker is.
_URL_VARIABLE = "BENCHMARK_BROKER_URL"
_PREFIX = {"global_keyprefix": "peer:"}
_TIMEOUT_SECONDS = 600

app = Celery("queue_peers", broker=os.environ.get(_URL_VARIABLE), backend=os.environ.get(_URL_VARIABLE))
app.conf.update(broker_transport_options=_PREFIX, result_backend_transport_options=_PREFIX, worker_prefetch_multiplier=1)

Rows = Sequence[tuple[list[float], list[float]]]


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def fit_one(x: list[float], y: list[float]) -> list[float]:
    """The notebook's loop on one sample set."""
    from peers import notebook_fit  # torch, in the worker alone

    return notebook_fit(x, y, DEGREE)


def celery_rate(url: str, fits: int) -> float:
    """Fits per second of one task a fit on two worker processes, from the first message to the last result."""
    app.conf.update(broker_url=url, result_backend=url)
    with _workers(url):
        _all_done(_rows(2 * PROCESSES))  # every process imports torch
        return _rate(lambda: _all_done(_rows(fits)), fits)


def joblib_rate(fits: int) -> float:
    """Fits per second of `numpy.polyfit` for each job on two processes, after a first run that does not count.

    Raises:
        ImportError: joblib is not installed.
    """
    from joblib import Parallel, delayed

    x, y = samples_of(DEGREE, SAMPLES, fits)
    with Parallel(n_jobs=PROCESSES) as parallel:

        def run(fits: int) -> None:
            parallel(delayed(np.polyfit)(x[row], y[row], DEGREE) for row in range(fits))

        run(100)
        return _rate(lambda: run(fits), fits)


def dask_rate(fits: int) -> float:
    """The same as a Dask bag on the process scheduler, its processes being there before.

    Raises:
        ImportError: dask is not installed.
    """
    from dask import bag

    rows = list(zip(*samples_of(DEGREE, SAMPLES, fits), strict=True))
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:

        def run(fits: int) -> None:
            jobs = bag.from_sequence(rows[:fits], npartitions=PROCESSES * 4)
            jobs.map(_polyfit).compute(scheduler="processes", pool=pool)

        run(100)
        return _rate(lambda: run(fits), fits)


def rates(url: str, celery_fits: int, polyfits: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Every peer that is installed, with its fits and fits per second."""
    peers: list[tuple[str, Callable[[int], float], int]] = [
        ("Celery, a task a fit, the notebook's loop", lambda fits: celery_rate(url, fits), celery_fits),
        ("joblib, numpy.polyfit", joblib_rate, polyfits),
        ("Dask bag, numpy.polyfit", dask_rate, polyfits),
    ]
    for name, rate, fits in peers:
        try:
            yield name, {"fits": fits, "fits/s": rate(fits)}
        except ImportError as error:
            click.echo(f"{name} is left out: {error}", err=True)


def _polyfit(row: tuple[Any, Any]) -> Any:
    return np.polyfit(*row, DEGREE)


def _rows(fits: int) -> Rows:
    return [(x.tolist(), y.tolist()) for x, y in zip(*samples_of(DEGREE, SAMPLES, fits), strict=True)]


def _all_done(rows: Rows) -> None:
    found = group(fit_one.s(x, y) for x, y in rows).apply_async().get(timeout=_TIMEOUT_SECONDS)
    if len(found) != len(rows):
        raise RuntimeError(f"{len(rows)} tasks gave {len(found)} results")


def _rate(run: Callable[[], object], fits: int) -> float:
    start = time.perf_counter()
    run()
    return fits / (time.perf_counter() - start)


@contextmanager
def _workers(url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "--quiet", "--app", "queue_peers", "worker"]
    command += ["--concurrency", str(PROCESSES), "--loglevel", "error", "--without-gossip", "--without-mingle"]
    environment = os.environ | {_URL_VARIABLE: url, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
