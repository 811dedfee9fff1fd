"""Whatever bytes are found in place of a chunk's jobs: it ends as errors at once, and nothing else is harmed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from fitq_shared.jobs.columns import replace_columns
from fitq_shared.jobs.frames import encode
from fitq_shared.jobs.schemas import JOB_SCHEMA, Status
from fitq_shared.store.keys import SubmissionKeys

if TYPE_CHECKING:
    from tests.integration.conftest import Fleet

QUICK: dict[str, Any] = {"degree": 2, "steps": 20}
JOBS = 4
ZEROS = 2**26


def with_values(jobs: pa.RecordBatch, **columns: list[Any]) -> bytes:
    """A frame of the jobs with other values in some columns."""
    arrays = {name: pa.array(values, JOB_SCHEMA.field(name).type) for name, values in columns.items()}
    return encode(replace_columns(jobs, arrays))


def bomb(jobs: pa.RecordBatch) -> bytes:
    """Lists that are all zero: more than 2 GiB of them, in less than half a megabyte."""
    zeros = pa.array(np.zeros(ZEROS))
    points = pa.ListArray.from_arrays(pa.array(np.arange(JOBS + 1, dtype=np.int32) * (ZEROS // JOBS)), zeros)
    packed = encode(replace_columns(jobs, dict.fromkeys(("x", "y", "weights", "init", "polynomial"), points)))
    assert len(packed) < 500_000
    return packed


def lists_beyond_their_values(jobs: pa.RecordBatch) -> bytes:
    """Offsets that lead far out of the array."""
    offsets = pa.py_buffer(np.array([0, 2**30, 2**30, 2**30, 3], np.int32))
    lists = pa.Array.from_buffers(pa.list_(pa.float64()), JOBS, [None, offsets], children=[pa.array([1.0, 2.0, 3.0])])
    return encode(replace_columns(jobs, {"polynomial": lists}))


def flipped(jobs: pa.RecordBatch) -> bytes:
    """A bit of each hundredth byte of a frame is another."""
    frame = np.frombuffer(encode(jobs), np.uint8).copy()
    frame[::100] ^= 16
    return frame.tobytes()


FRAMES: dict[str, Callable[[pa.RecordBatch], bytes]] = {
    "random bytes": lambda jobs: np.random.default_rng(0).bytes(10_000),
    "no bytes": lambda jobs: b"",
    "cut": lambda jobs: encode(jobs)[:-200],
    "flipped bits": flipped,
    "no rows": lambda jobs: encode(jobs.slice(0, 0)),
    "fewer rows": lambda jobs: encode(jobs.slice(1)),
    "more rows": lambda jobs: encode(pa.concat_batches([jobs, jobs])),
    "other positions": lambda jobs: with_values(jobs, index=[7, 8, 9, 10]),
    "an id twice": lambda jobs: with_values(jobs, id=["a", "b", "a", "c"]),
    "2 GiB": bomb,
    "lists beyond their values": lists_beyond_their_values,
    "a set that is not there": lambda jobs: with_values(
        jobs, polynomial=[None] * 4, count=[None] * 4, sample_set=[2**31 - 1] * 4
    ),
    "a degree that asks for terabytes": lambda jobs: with_values(jobs, degree=[100_000] * JOBS),
    "steps beyond the limit": lambda jobs: with_values(jobs, steps=[2**31 - 1] * JOBS),
    "no steps": lambda jobs: with_values(jobs, steps=[None] * JOBS),
    "negative restarts": lambda jobs: with_values(jobs, restarts=[-1] * JOBS),
    "too many points": lambda jobs: with_values(jobs, count=[2**31 - 1] * JOBS),
    "no patience": lambda jobs: with_values(jobs, patience=[0] * JOBS),
    "no step size": lambda jobs: with_values(jobs, step_size=[0] * JOBS, schedule=["step"] * JOBS),
    "a rate that is no number": lambda jobs: with_values(jobs, lr=[float("nan")] * JOBS),
    "an unknown loss": lambda jobs: with_values(jobs, loss=["unheard-of"] * JOBS),
    "a trace of every 0th step": lambda jobs: with_values(jobs, trace=["every:0"] * JOBS),
}


def processes(fleet: Fleet) -> set[int]:
    """The ids of the worker's processes."""
    return {process.pid for process in psutil.Process(fleet.worker.process.pid).children(recursive=True)}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_that_no_client_has_written_ends_as_errors_once(
    fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch], kind: str
) -> None:
    """By the first attempt, in the process that fits the next chunk of the submission too."""
    name = kind.replace(" ", "-")
    fleet.add(name, chunks=2, **QUICK)
    names = SubmissionKeys(fleet.store.settings.namespace, name)
    fleet.redis_client.set(names.jobs(0), FRAMES[kind](jobs_of(0, **QUICK)))
    before = processes(fleet)
    fleet.publish(name, chunks=2)
    fleet.wait_until_finished(name)
    bad, good = fleet.results(name)
    assert bad["status"].to_pylist() == [Status.ERROR] * JOBS
    assert bad["index"].to_pylist() == list(range(JOBS))
    (message,) = set(bad["message"].to_pylist())
    assert message.startswith("the jobs of this chunk cannot be read: ")
    assert Status.ERROR not in good["status"].to_pylist()
    committed = fleet.redis_client.hgetall(names.committed)
    assert {value.split()[0] for value in committed.values()} == {b"1"}
    assert before <= processes(fleet)
