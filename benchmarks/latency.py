"""How long a single fit takes while the only worker is busy with a large submission."""

from __future__ import annotations

import time

import numpy as np
from inputs import SAMPLES
from processes import Command

from fitq.client import Client
from fitq_shared.jobs.job import FitJob, Samples

#: Four times the notebook's, so that the large submission lasts.
BULK_STEPS = 4000


def interactive_latency(client: Client, bulk_jobs: int, fits: int) -> dict[str, float]:
    """Seconds from submitting one job to having its result, for `fits` jobs one after the other through the client.

    Ends early when the large submission, of `bulk_jobs` generated jobs, is finished; `fits` in the answer are those done.
    """
    recipe = ["--polynomial", "1,2,3", "--count", str(bulk_jobs), "--steps", str(BULK_STEPS), "--trace", "none"]
    submit = Command(client.settings, "submit", *recipe)
    bulk = client.submission(submit.line())
    while not bulk.status().done_jobs:
        time.sleep(0.05)
    seconds: list[float] = []
    while len(seconds) < fits and not bulk.status().finished:
        seconds.append(_single_fit(client, seed=len(seconds)))
    while not submit.ended():
        time.sleep(0.05)
    bulk.delete()
    if not seconds:
        return {"fits": 0}
    median, last = np.quantile(seconds, (0.5, 0.99))
    return {"fits": len(seconds), "median ms": median * 1000, "p99 ms": last * 1000, "max ms": max(seconds) * 1000}


def _single_fit(client: Client, seed: int) -> float:
    start = time.perf_counter()
    submission = client.submit([FitJob(polynomial=[1.0, 2.0, 3.0], samples=Samples(count=SAMPLES), seed=seed)])
    submission.wait()
    if submission.results().num_rows != 1:
        raise RuntimeError(f"{submission.id} is finished and has no result")
    seconds = time.perf_counter() - start
    submission.delete()
    return seconds
