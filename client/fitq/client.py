"""Client: hand jobs to the fleet, find submissions again."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import msgspec
import pyarrow as pa

from fitq.planner import Chunk, plan
from fitq.readers import from_file, from_jobs
from fitq.submission import Submission
from fitq.upload import upload
from fitq_shared import broker
from fitq_shared.errors import FitqError, InputError, ServerError, SubmissionNotFound
from fitq_shared.jobs import FitJob
from fitq_shared.manifest import Manifest
from fitq_shared.settings import Settings
from fitq_shared.store import Store

Jobs: TypeAlias = str | Path | Iterable[FitJob] | Iterable[Mapping[str, object]] | Iterable[pa.RecordBatch]


class Client:
    """Submits jobs to the Redis of `settings`, which come from FITQ_* variables by default; `url` names another Redis.

    Raises, from every method: ServerUnreachable, ServerFull.
    """

    def __init__(self, settings: Settings | None = None, *, url: str | None = None) -> None:
        settings = settings or Settings.from_environment()
        self.settings = msgspec.structs.replace(settings, redis_url=url) if url else settings
        self.store = Store(self.settings)

    def submit(
        self,
        jobs: Jobs,
        source: str = "",
        on_open: Callable[[str], object] | None = None,
        *,
        key: str = "",
        resume: str = "",
    ) -> Submission:
        """Check the jobs, store them in chunks and enqueue these.

        `jobs` are FitJobs, dictionaries of their fields, the path of a file of jobs, or what a reader of `fitq.readers`
        gives. `source` is shown to people in `fitq ls`. `on_open` is called with the id of the submission before its
        first job is stored: who may be killed should note it then.

        A `key` names the submission: submitting the same jobs under it again returns the submission there is, completed
        where an upload was broken off. `resume` is the id of one to complete. After a bad job nothing remains of a new
        submission without a key; after a failure of the server it stays open, to be resumed.

        Raises:
            InputError: a file cannot be read or a job breaks a rule.
            DifferentContent: the submission with this key or id was made of other jobs.
            SubmissionNotFound: there is none to resume.
        """
        self.store.ping()
        chunks = plan(_batches(jobs))
        first, size = _up_to(chunks, broker.INTERACTIVE_JOBS)
        submission = self.submission(resume).id if resume else self.store.open(_new_id(), source or _source(jobs), key)
        try:
            if on_open is not None:
                on_open(submission)
            upload(self.store, submission, itertools.chain(first, chunks), broker.lane_of(submission, size))
        except ServerError as error:
            raise type(error)(f"{error}. {submission} stays open: submit with --resume {submission} to go on") from None
        except BaseException:
            if not (key or resume):
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

    def sizes(self, manifests: Iterable[Manifest]) -> dict[str, tuple[int, int]]:
        """What each submission takes, by its id: bytes in the memory of Redis, and in files. Deleted ones take nothing."""
        return {manifest.id: self._size(manifest.id) for manifest in manifests}

    def _size(self, submission: str) -> tuple[int, int]:
        try:
            return self.store.size(submission)
        except SubmissionNotFound:
            return 0, 0


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
