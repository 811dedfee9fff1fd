"""Submissions straight through store and broker, and a worker that is quick to give up on what is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec
import psutil
import pyarrow as pa
import pytest
import redis

from fitq_shared.jobs.frames import decode, jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import RESULT_SCHEMA
from fitq_shared.queue import client_app, lane_of, publish
from fitq_shared.settings import Settings
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.payload import payload_of
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.chunks.isolation import parse_trials

if TYPE_CHECKING:
    from tests.conftest import Server, Worker

DEADLINE_SECONDS = 60
JOBS_PER_CHUNK = 4
#: Eager steps of such fits take about a second, time to kill the process in.
SLOW_DEGREE, SLOW_STEPS = 7, 1500
#: A worker that can keep no native code, and so runs eager whatever others have built: nothing is slow to native code.
EAGER = {"XDG_CACHE_HOME": os.devnull}


class Fleet(NamedTuple):
    """A running worker and the store that it works on."""

    worker: Worker
    store: SubmittingStore
    redis_client: redis.Redis

    def submit(self, name: str, chunks: int = 1, **fields: object) -> None:
        """Fill, publish and close a submission of `chunks` chunks with four jobs each."""
        self.add(name, chunks, **fields)
        self.publish(name, chunks)

    def publish(self, name: str, chunks: int = 1) -> None:
        """Send the messages of chunks that were added."""
        app = client_app(self.store.settings)
        publish(app, lane_of(name, chunks * JOBS_PER_CHUNK), name, range(chunks))
        app.close()

    def add(self, name: str, chunks: int = 1, **fields: object) -> None:
        """The same without the messages."""
        self.store.open(name, "test")
        for chunk in range(chunks):
            payload = payload_of(chunk, Rows(jobs_of(chunk, **fields)))
            self.store.add_chunk(name, payload, lane_of(name, chunks * JOBS_PER_CHUNK))
        self.store.close(name)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; fail when it does not in time, or the worker dies."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.worker.process.poll() is None, "the worker has ended"
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def wait_until_finished(self, name: str) -> None:
        """Return when all results of the submission are stored."""
        self.wait_until(lambda: self.store.manifest(name).finished)

    def wait_until_claimed(self, name: str, attempt: int = 1) -> None:
        """Return when the worker has begun this attempt at the first chunk."""
        attempts = SubmissionKeys(self.store.settings.namespace, name).attempts
        self.wait_until(lambda: self.redis_client.hget(attempts, "0") == b"%d" % attempt)

    def part_tried(self, name: str) -> range:
        """The rows of the first chunk that a worker is fitting after a death; none before."""
        note = cast("bytes | None", self.redis_client.hget(SubmissionKeys(self.store.settings.namespace, name).trials, "0"))
        trials = parse_trials(note or b"", JOBS_PER_CHUNK)
        return next((range(*part) for part in trials.parts(JOBS_PER_CHUNK) if part[0] == trials.trying), range(0))

    def results(self, name: str) -> list[pa.RecordBatch]:
        """The result frames in the order of the chunks."""
        found = (self.store.result_frame(name, chunk) for chunk in range(self.store.manifest(name).chunks))
        return [decode(frame, RESULT_SCHEMA) for frame in found if frame is not None]

    def kill_fitting_process(self) -> None:
        """Kill the process in which the worker fits, as the system does when memory runs out."""
        self._fitting_process().kill()

    def freeze_fitting_process(self) -> None:
        """Stop the process in which the worker fits, as if it hung."""
        self._fitting_process().suspend()

    def _fitting_process(self) -> psutil.Process:
        (celery,) = psutil.Process(self.worker.process.pid).children()
        alive = [child for child in celery.children() if child.status() != psutil.STATUS_ZOMBIE]
        (fitting,) = (child for child in alive if "semaphore_tracker" not in " ".join(child.cmdline()))
        return fitting


def jobs_of(chunk: int, **fields: object) -> pa.RecordBatch:
    """The jobs of a chunk: four draws around the notebook's polynomial, slow ones unless `fields` say otherwise."""
    settings = {"degree": SLOW_DEGREE, "steps": SLOW_STEPS, **fields}
    seeds = range(chunk * JOBS_PER_CHUNK, (chunk + 1) * JOBS_PER_CHUNK)
    jobs = [msgspec.convert({"polynomial": [1, 2, 3], "seed": seed, **settings}, FitJob).checked() for seed in seeds]
    return jobs_batch(jobs, chunk * JOBS_PER_CHUNK)


@pytest.fixture(scope="session")
def hasty_settings(server: Server) -> Settings:
    """Settings under which a worker is soon taken for dead, and a job given up after two deaths."""
    return Settings(redis_url=server.url, namespace="hasty", lease_seconds=3, max_attempts=2)


@pytest.fixture(scope="session")
def fleet(hasty_settings: Settings, start_worker: Callable[..., Worker], redis_client: redis.Redis) -> Iterator[Fleet]:
    """One worker under the hasty settings for all tests that leave it running."""
    worker = start_worker(hasty_settings, **EAGER)
    store = SubmittingStore(hasty_settings)
    yield Fleet(worker, store, redis_client)
    worker.process.kill()
    worker.process.wait()
    store.disconnect()


@pytest.fixture
def start_fleet(start_worker: Callable[..., Worker]) -> Iterator[Callable[..., Fleet]]:
    """A function that starts a worker of the test's own, with arguments of its own, which ends with it."""
    started: list[Fleet] = []

    def start(settings: Settings, *arguments: str) -> Fleet:
        worker = start_worker(settings, *arguments, **EAGER)
        started.append(Fleet(worker, SubmittingStore(settings), redis.Redis.from_url(settings.redis_url)))
        return started[-1]

    yield start
    for fleet in started:
        fleet.worker.process.kill()
        fleet.worker.process.wait()
        fleet.store.disconnect()
        fleet.redis_client.close()


@pytest.fixture(scope="session", name="jobs_of")
def _jobs_of() -> Callable[..., pa.RecordBatch]:
    """The function that makes the jobs of a chunk."""
    return jobs_of
