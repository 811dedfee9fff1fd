"""The engine alone, and the other steps of the path alone, on the same jobs in one process on one thread."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import msgspec
import torch
from celery import Celery
from inputs import Source

from fitq.results.streams import RESULTS, TRACES
from fitq.results.writers import writing
from fitq.submission import Submission
from fitq.submitting.planner import plan
from fitq_shared import queue
from fitq_shared.jobs import frames
from fitq_shared.settings import Settings
from fitq_shared.store.connection import connect
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.payload import payload_of
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.chunks.batch import claim_chunk
from fitq_worker.engine import Fitted, fit

Item = TypeVar("Item")

#: A namespace of their own keeps the chunks from the worker of the fleet.
_NAMESPACE, _SUBMISSION, _WORKER = "parts", "parts", "benchmark"
_LANE = queue.BULK_LANES[0]
_PAGE = 1000

#: Parts that talk to the server, whose work in the meantime counts too. publish: a job frame is encoded, stored and
#: enqueued. decode: a chunk is claimed, got and decoded. commit: the frames of results and traces are stored. fetch: they
#: are got and decoded.
ROUND_TRIPS = ("publish", "decode", "commit", "fetch")
PARTS = ("read", "plan", "publish", "decode", "encode", "commit", "fetch", "write")


class Alone(NamedTuple):
    """What the engine needs for some jobs when there is nothing else."""

    wall_seconds: float
    cpu_seconds: float


def engine_alone(source: Source) -> Alone:
    """Fit the chunks that the planner makes of `source`, all of them in memory; kernels are built or loaded before."""
    torch.set_num_threads(1)
    chunks = list(plan(source.batches()))
    fit(chunks[0].jobs, sets=chunks[0].sets, path="compiled")
    clock = _Clock()
    with clock.of("engine"):
        for chunk in chunks:
            fit(chunk.jobs, sets=chunk.sets)
    return Alone(clock.wall["engine"], clock.cpu["engine"])


class _Clock:
    def __init__(self) -> None:
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu[part] += time.process_time() - cpu
            self.wall[part] += time.perf_counter() - wall

    def each(self, part: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time to get them counts for `part`."""
        iterator = iter(items)
        while True:
            with self.of(part):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def microseconds(self, jobs: int) -> dict[str, float]:
        """CPU time of each part for a job; for ROUND_TRIPS wall time."""
        return {part: (self.wall if part in ROUND_TRIPS else self.cpu)[part] / jobs * 1e6 for part in PARTS}

    def inside(self, inner: str, outer: str) -> None:
        """Take off `outer` what counts for `inner`, which ran inside it."""
        self.cpu[outer] -= self.cpu[inner]
        self.wall[outer] -= self.wall[inner]


def parts_alone(source: Source, settings: Settings) -> dict[str, float]:
    """Microseconds a fit of each part but the engine: CPU time of this process, for ROUND_TRIPS wall time.

    Nothing is left on the server.
    """
    torch.set_num_threads(1)
    settings = msgspec.structs.replace(settings, namespace=_NAMESPACE)
    store, fitting = SubmittingStore(settings), FittingStore(settings)
    clock = _Clock()
    store.open(_SUBMISSION, source.name)
    with TemporaryDirectory() as folder, _publishing(settings) as app:
        for chunk, rows in enumerate(clock.each("plan", plan(clock.each("read", source.batches())))):
            with clock.of("publish"):
                store.add_chunk(_SUBMISSION, payload_of(chunk, rows), _LANE)
                queue.publish(app, _LANE, _SUBMISSION, [chunk])
            with clock.of("decode"):
                claim = claim_chunk(fitting, _WORKER, _SUBMISSION, chunk)
            assert claim is not None
            fitted = fit(claim.rows.jobs, sets=claim.rows.sets)
            with clock.of("encode"):
                commit = _commit(fitted)
            with clock.of("commit"):
                fitting.commit(_SUBMISSION, chunk, commit)
        clock.inside("read", "plan")
        store.close(_SUBMISSION)
        _collect(Submission(store, _SUBMISSION), clock, Path(folder))
    return clock.microseconds(source.jobs)


@contextmanager
def _publishing(settings: Settings) -> Iterator[Celery]:
    app = queue.client_app(settings)
    try:
        yield app
    finally:
        app.close()
        client = connect(settings)
        found = list(client.scan_iter(f"{_NAMESPACE}:*", _PAGE))
        for first in range(0, len(found), _PAGE):
            client.unlink(*found[first : first + _PAGE])


def _commit(fitted: Fitted) -> Commit:
    statuses = {each["values"]: each["counts"] for each in fitted.results["status"].value_counts().to_pylist()}
    traces = frames.encode(fitted.traces) if len(fitted.traces) else b""
    return Commit(frames.encode(fitted.results), traces, len(fitted.results), 0.0, statuses, attempt=1)


def _collect(submission: Submission, clock: _Clock, folder: Path) -> None:
    """Fetch and write what was committed, as `fitq results` does with and without `--traces`."""
    streams = ((RESULTS, submission.result_batches()), (TRACES, submission.trace_batches()))
    for number, (kind, batches) in enumerate(streams):
        with ExitStack() as closing:
            with clock.of("write"):
                write = closing.enter_context(writing(folder / f"{number}.parquet", kind.schema))
            for _, batch in clock.each("fetch", batches):
                with clock.of("write"):
                    write(batch)
            with clock.of("write"):
                closing.close()
