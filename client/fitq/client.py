"""Client: hand jobs to the fleet, find submissions again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fitq.submission import Submission
from fitq_shared.errors import FitqError, ServerError, SubmissionCancelled, SubmissionNotFound
from fitq_shared.settings import Settings
from fitq_shared.store.garbage import Garbage, GarbageStore
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.submitting import SubmittingStore

if TYPE_CHECKING:
    from fitq.submitting.upload import Jobs


class Client:
    """Submits jobs to the Redis of `settings`, which come from FITQ_* variables by default; `url` names another Redis.

    Raises, from every method: ServerUnreachable, ServerFull.
    """

    def __init__(self, settings: Settings | None = None, *, url: str | None = None) -> None:
        settings = settings or Settings.from_environment()
        self.settings = msgspec.structs.replace(settings, redis_url=url) if url else settings
        self.store = SubmittingStore(self.settings)
        self._garbage = GarbageStore(self.settings)

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
        gives. `source` tells people where they came from. `on_open` is called with the id of the submission before its
        first job is stored: with it the upload can be resumed, should this process be killed.

        A `key` names the submission: submitting the same jobs under it again returns the same submission, and completes
        it where an upload was broken off. `resume` is the id of a submission to complete. After a bad job nothing remains
        of a new submission without a key; after a failure of the server it stays open, to be resumed.

        Raises:
            InputError: a file cannot be read or a job breaks a rule.
            DifferentContent: the submission with this key or id was made of other jobs.
            SubmissionCancelled: somebody has cancelled it; what was fitted before stays.
            SubmissionNotFound: there is none to resume.
        """
        # Imported here because those who only look at results need no readers, planner and queue, which take a while.
        from fitq.submitting.upload import plan_jobs, upload

        self.store.ping()
        chunks, job_count = plan_jobs(jobs)
        submission = self.submission(resume).id if resume else self.store.open(_new_id(), source or _source(jobs), key)
        try:
            if on_open is not None:
                on_open(submission)
            upload(self.store, submission, chunks, job_count)
        except ServerError as error:
            error.add_note(f"{submission} stays open: submit the same jobs again and resume it")
            raise
        except SubmissionCancelled:  # what was fitted before stays
            raise
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

    def find_garbage(self) -> Garbage:
        """What killed processes have left in Redis and in files, and what no submission needs."""
        return self._garbage.find()

    def find_unknown_folders(self) -> list[str]:
        """Folders under FITQ_RESULTS_URL that are of no submission here: deleted ones, or those of another fitq."""
        return self._garbage.find_folders()

    def remove_garbage(self, garbage: Garbage, folders: Sequence[str] = ()) -> None:
        """Remove what was found."""
        self._garbage.remove(garbage)
        self._garbage.remove_folders(folders)

    def sizes(self, manifests: Iterable[Manifest]) -> dict[str, tuple[int, int]]:
        """Bytes that each submission takes in the memory of Redis and in files, by its id; a deleted one takes none."""
        return {manifest.id: self._size(manifest.id) for manifest in manifests}

    def _size(self, submission: str) -> tuple[int, int]:
        try:
            return self.store.size(submission)
        except SubmissionNotFound:
            return 0, 0


def _source(jobs: Jobs) -> str:
    return str(jobs) if isinstance(jobs, str | Path) else "Python"


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
