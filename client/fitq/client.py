"""Client: hand jobs to the fleet, find submissions again."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import pyarrow as pa

from fitq.loads import fits_with_others
from fitq.planner import Chunk, plan
from fitq.readers import from_file, from_jobs
from fitq.submission import Submission
from fitq_shared import broker, frames
from fitq_shared.errors import FitqError, InputError
from fitq_shared.jobs import FitJob
from fitq_shared.manifest import Manifest
from fitq_shared.rows import Rows
from fitq_shared.settings import Settings
from fitq_shared.store import Payload, Store
from fitq_shared.waiting import offer

if TYPE_CHECKING:
    from celery import Celery

Jobs: TypeAlias = str | Path | Iterable[FitJob] | Iterable[Mapping[str, object]] | Iterable[pa.RecordBatch]


class Client:
    """Submits jobs to the Redis of `settings`, which come from FITQ_* variables by default; `url` names another Redis.

    Raises, from every method: ServerUnreachable, ServerFull.
    """

    def __init__(self, settings: Settings | None = None, *, url: str | None = None) -> None:
        settings = settings or Settings.from_environment()
        self.settings = msgspec.structs.replace(settings, redis_url=url) if url else settings
        self.store = Store(self.settings)

    def submit(self, jobs: Jobs, source: str = "", on_open: Callable[[str], object] | None = None) -> Submission:
        """Check the jobs, store them in chunks and enqueue these; all of them, or nothing remains.

        `jobs` are FitJobs, dictionaries of their fields, the path of a JSONL or Parquet file, or what a reader of
        `fitq.readers` gives. `source` is shown to people in `fitq ls`. `on_open` is called with the id of the submission
        before its first job is stored: who may be killed should note it then.

        Raises:
            InputError: a file cannot be read or a job breaks a rule.
        """
        self.store.ping()
        chunks = plan(_batches(jobs))
        first, size = _up_to(chunks, broker.INTERACTIVE_JOBS)
        submission = _new_id()
        lane = broker.lane_of(submission, size)
        try:
            self.store.open(submission, source or _source(jobs))
            if on_open is not None:
                on_open(submission)
            self._enqueue(submission, itertools.chain(first, chunks), lane)
            self.store.close(submission)
        except BaseException:
            with suppress(FitqError):
                self.store.delete(submission)
            raise
        return Submission(self.store, submission)

    def submission(self, submission: str) -> Submission:
        """The submission with this id.

        Raises:
            SubmissionNotFound: there is none.
        """
        self.store.manifest(submission)
        return Submission(self.store, submission)

    def submissions(self) -> list[Manifest]:
        """What is known of all submissions, newest first."""
        return self.store.manifests()

    def _enqueue(self, submission: str, chunks: Iterable[Chunk], lane: str) -> None:
        app: Celery = broker.client_app(self.settings)
        try:
            for chunk in chunks:
                self.store.add_chunk(submission, _payload(chunk), lane)
                if lane == broker.INTERACTIVE_LANE and fits_with_others(Rows(chunk.frame, chunk.sets)):
                    offer(self.store, frames.shape_name(chunk.frame), submission, chunk.number)
                broker.publish(app, lane, submission, [chunk.number])
        finally:
            app.close()


def _batches(jobs: Jobs) -> Iterator[pa.RecordBatch]:
    """What the caller gave as record batches of checked jobs."""
    if isinstance(jobs, str | Path):
        return from_file(jobs)
    given = iter(jobs)
    first = next(given, None)
    if first is None:
        raise InputError("no jobs: nothing to submit")
    rest = itertools.chain([first], given)
    return rest if isinstance(first, pa.RecordBatch) else from_jobs(rest)


def _payload(chunk: Chunk) -> Payload:
    index = chunk.frame["index"]
    sets = None if chunk.sets is None else frames.encode(chunk.sets)
    return Payload(chunk.number, frames.encode(chunk.frame), chunk.jobs, index[0].as_py(), index[-1].as_py(), sets)


def _up_to(chunks: Iterator[Chunk], jobs: int) -> tuple[list[Chunk], int | None]:
    """Chunks from the front with more than `jobs` jobs, or all of them and then how many jobs they have."""
    taken: list[Chunk] = []
    for chunk in chunks:
        taken.append(chunk)
        if sum(chunk.jobs for chunk in taken) > jobs:
            return taken, None
    return taken, sum(chunk.jobs for chunk in taken)


def _source(jobs: Jobs) -> str:
    return str(jobs) if isinstance(jobs, str | Path) else "Python"


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
