"""What a chunk may hold, and what each job takes of it: jobs, bytes of samples, bytes of traces, predicted seconds."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fitq_shared.jobs.fields import MAX_FRAME_JOBS
from fitq_shared.jobs.frames import sample_counts
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.trace import recorded_counts
from fitq_shared.store.offers import MAX_TOGETHER

#: What a chunk holds at most (a single job may exceed it and then is a chunk of its own).
MAX_CHUNK_JOBS = MAX_FRAME_JOBS
MAX_CHUNK_SAMPLES_BYTES = 16 * 2**20
MAX_CHUNK_TRACES_BYTES = 32 * 2**20
#: A chunk costs some 10 ms whatever it holds, and an interactive chunk waits until the one being fitted is done.
MAX_CHUNK_SECONDS = 0.5

#: Predicted times on one core, measured on degree 2 and 5 with 20 and 200 samples.
SECONDS_PER_FIT = 2.5e-6
SECONDS_PER_COEFFICIENT_STEP = 0.7e-9
LBFGS_SECONDS_PER_COEFFICIENT_STEP = 160e-9
#: Losses other than mse look at every sample in each step: the unit is one coefficient of one sample.
SECONDS_PER_VALUE_STEP = 10e-9
LBFGS_SECONDS_PER_VALUE_STEP = 50e-9
#: The optimum of these losses, found by some ten steps of an interior-point method.
SECONDS_PER_VALUE_OF_OPTIMUM = 1e-6

_BYTES_PER_SAMPLE = 24  # x, y and a weight, float64
_BYTES_PER_LOSS = 4  # float32

#: Rows of the table of loads.
JOBS, SAMPLES, TRACES, SECONDS = range(4)

Loads: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]


def measure_loads(rows: Rows) -> Loads:
    """What each job takes of a chunk: shares of its jobs, sample bytes, trace bytes and seconds; shape (4, jobs).

    A sample set that several jobs share counts for the first of them only.
    """
    jobs = rows.jobs
    optimizer, trace = jobs["optimizer"][0].as_py(), jobs["trace"][0].as_py()
    steps = jobs["steps"].to_numpy()
    losses = 0 if optimizer == "exact" else recorded_counts(trace, steps)
    table = np.empty((4, len(jobs)))
    table[JOBS] = 1 / MAX_CHUNK_JOBS
    table[SAMPLES] = _stored_samples(rows) * (_BYTES_PER_SAMPLE / MAX_CHUNK_SAMPLES_BYTES)
    table[TRACES] = losses * (_BYTES_PER_LOSS / MAX_CHUNK_TRACES_BYTES)
    table[SECONDS] = _seconds(rows, optimizer) / MAX_CHUNK_SECONDS
    return table


def is_small(rows: Rows) -> bool:
    """Whether MAX_TOGETHER chunks of this size fill one chunk at most."""
    return bool(measure_loads(rows).sum(axis=1).max() * MAX_TOGETHER <= 1)


def _seconds(rows: Rows, optimizer: str) -> Loads:
    """Predicted time of each fit; jobs of one shape."""
    jobs, lbfgs = rows.jobs, optimizer == "lbfgs"
    size = jobs["degree"][0].as_py() + 1.0
    steps = 0.0 if optimizer == "exact" else jobs["steps"].to_numpy() * jobs["restarts"].to_numpy()
    if jobs["loss"][0].as_py() == "mse":
        each = LBFGS_SECONDS_PER_COEFFICIENT_STEP if lbfgs else SECONDS_PER_COEFFICIENT_STEP
        return np.asarray(np.full(len(jobs), SECONDS_PER_FIT) + steps * size * each)
    each = LBFGS_SECONDS_PER_VALUE_STEP if lbfgs else SECONDS_PER_VALUE_STEP
    values = sample_counts(rows.jobs, rows.sets) * size
    return np.asarray(SECONDS_PER_FIT + values * (SECONDS_PER_VALUE_OF_OPTIMUM + steps * each))


def _stored_samples(rows: Rows) -> Numbers:
    """Number of samples of each job, 0 for one that shares the set of an earlier one."""
    samples = np.array(sample_counts(rows.jobs, rows.sets))
    if rows.sets is not None:
        referring, sets = rows.references()
        samples[np.delete(referring, np.unique(sets, return_index=True)[1])] = 0
    return samples
