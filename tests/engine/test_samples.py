"""Sample sets of a frame."""

import tracemalloc

import numpy as np

from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob, Samples
from fitq_worker.engine.samples.sets import sample_sets


def test_generated_sets_are_those_of_the_jobs() -> None:
    """Whatever the counts of the others."""
    counts = [1, 70_000, 3, 4, 5, 900, 17]
    jobs = [FitJob(polynomial=[1.0, 2.0], samples=Samples(count=n, noise=0.1), seed=n).checked() for n in counts]

    sets = sample_sets(jobs_batch(jobs))

    for job, start, end in zip(jobs, sets.offsets, sets.offsets[1:], strict=False):
        x, y = job.draw()
        assert np.array_equal(sets.x[start:end], x)
        assert np.array_equal(sets.y[start:end], y)


def test_many_small_sets_beside_a_large_one_take_their_own_memory() -> None:
    """Not that of as many large ones, which would be 800 MB."""
    counts = [100_000] + [5] * 1000
    jobs = jobs_batch([FitJob(polynomial=[1.0], samples=Samples(count=count)) for count in counts])

    tracemalloc.start()
    sample_sets(jobs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 50e6
