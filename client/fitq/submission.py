"""Submission: follow jobs that were handed in together, collect what came out."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fitq.outages import ride_out
from fitq.results.streams import RESULTS, TRACES, CompletionOrder, InputOrder, Kind, Ready, Stream
from fitq_shared.errors import InputError, JobNotFinished, JobNotFound, SubmissionTimeout
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.submitting import SubmittingStore
from fitq_shared.waiting import attempts

if TYPE_CHECKING:
    from fitq.submitting.retry import Retried
    from fitq.submitting.upload import Jobs

_FIRST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.05, 0.25


class Submission:
    """Jobs that were handed in together. It holds only an id; everything else is asked of the server.

    While it waits or reads, it rides out outages of the server of up to two minutes.

    Raises, from every method: SubmissionNotFound, ServerUnreachable.
    """

    def __init__(self, store: SubmittingStore, submission: str) -> None:
        self.id = submission
        self._store = store

    def __repr__(self) -> str:
        return f"Submission({self.id!r})"

    def status(self) -> Manifest:
        """Totals, counters by status and times, as they are now."""
        return self._store.manifest(self.id)

    def progress(self, timeout_seconds: float | None = None) -> Iterator[Manifest]:
        """Yield the manifest again and again until the submission is finished, as the last one says.

        Raises:
            SubmissionTimeout: `timeout_seconds` are over; the submission goes on.
        """
        deadline = float("inf") if timeout_seconds is None else time.monotonic() + timeout_seconds
        for is_last in attempts(_FIRST_POLL_SECONDS, _LONGEST_POLL_SECONDS, deadline):
            manifest = ride_out(self.status, deadline)
            yield manifest
            if manifest.finished:
                return
            if is_last:
                raise self._timeout(manifest, timeout_seconds)

    def wait(self, timeout_seconds: float | None = None) -> Manifest:
        """Return the manifest once all fits are done; see `progress`."""
        *_, last = self.progress(timeout_seconds)
        return last

    def results(self) -> pa.Table:
        """Results stored so far, one row a job (its newest) in the order of the input; RESULT_SCHEMA."""
        return pa.Table.from_batches([batch for _, batch in self.result_batches(ordered=True)], RESULTS.schema)

    def traces(self) -> pa.Table:
        """Loss traces stored so far, one row a fit in the order of the input.

        Columns `index`, `id`, `step` (list of int32, how many updates were made) and `loss` (list of float32, in units
        of y for `l1`, of y squared for the other losses) of the same lengths. Jobs with `trace: none` have no row.
        """
        return pa.Table.from_batches([batch for _, batch in self.trace_batches(ordered=True)], TRACES.schema)

    def result_batches(self, since: str | None = None, *, follow: bool = False, ordered: bool = False) -> Ready:
        """Results in batches, pairs (cursor, batch of RESULT_SCHEMA), in memory that does not grow with their number.

        A batch is what one worker stored at once; they come in the order in which they were stored. A cursor stands for
        all batches up to its own: `since` goes on after it, in another process or on another day. With `follow` the
        iteration waits for more until the submission is finished; without, it ends with what is stored.

        Of a job that was retried only the newest result comes. Who goes on from a cursor, or follows, gets one more row for
        each job that was retried meanwhile: the later one counts.

        With `ordered`, rows come in the order of the input instead, and each waits for those before it (without
        `follow` only for those that are stored). `since` does not go with this order; the cursor of the last batch goes
        on in the other one.

        Raises:
            InputError: `since` is no cursor, or given together with `ordered`.
        """
        return self._batches(RESULTS, since, follow, ordered)

    def trace_batches(self, since: str | None = None, *, follow: bool = False, ordered: bool = False) -> Ready:
        """Traces in batches, with the columns of `traces`; everything else is as in `result_batches`."""
        return self._batches(TRACES, since, follow, ordered)

    def result(self, job: str) -> dict[str, Any]:
        """The newest result of the job with this id, by the names of RESULT_SCHEMA; reads one chunk, not the submission.

        Its `tags` are a dictionary, or None.

        Raises:
            JobNotFound: there is no such job.
            JobNotFinished: its fit is not done yet.
        """
        result = self.history(job)[-1]
        del result["attempt"]
        return result

    def history(self, job: str) -> list[dict[str, Any]]:
        """All results of the job with this id, the oldest first, each as `result` has it.

        There is one for each time that it was fitted, as `attempt` counts from 1: more than one after a retry.

        Raises:
            JobNotFound, JobNotFinished: as in `result`.
        """
        frames = self._store.result_frames(self.id, self._store.chunks_with_id(self.id, job))
        if rows := _rows(RESULTS, frames, job):
            tags = [row["tags"] and msgspec.json.decode(row["tags"]) for row in rows]
            return [
                {"attempt": number, **row, "tags": tag} for number, (row, tag) in enumerate(zip(rows, tags, strict=True), 1)
            ]
        manifest = self.status()
        if None in frames:
            raise JobNotFinished(f"{self.id}: job {job!r} is not fitted yet; wait for it", self.id)
        still = " so far, and more are being submitted" if manifest.state == "open" else ""
        raise JobNotFound(f"{self.id} has no job {job!r}{still}: mistyped?", self.id)

    def trace(self, job: str) -> dict[str, Any]:
        """The trace of the newest fit of the job with this id: `index`, `id`, `step` and `loss`.

        Raises:
            JobNotFound: there is no such job, or it keeps no trace.
            JobNotFinished: its fit is not done yet.
        """
        newest = self.result(job)["chunk"]
        if rows := _rows(TRACES, self._store.trace_frames(self.id, [newest]), job):
            return rows[0]
        raise JobNotFound(f"{self.id}: job {job!r} keeps no trace; submit it with another `trace` than none", self.id)

    def cancel(self) -> Manifest:
        """End the submission early and return its manifest: what is fitted stays, the rest is dropped.

        Fits that are running stop within seconds. A finished submission stays as it is, and is finished again where some of
        its jobs were being retried: they keep the results that they have.
        """
        return self._store.cancel(self.id)

    def retry(
        self,
        statuses: Collection[str] | None = None,
        *,
        ids: Collection[str] | None = None,
        jobs: Jobs | None = None,
        changes: Mapping[str, object] | None = None,
    ) -> Retried:
        """Fit jobs again: those whose newest result has one of `statuses`, by default the failed ones, or those of `ids`.

        `changes` are values of fields of FitJob instead of those that the jobs have. Jobs whose fits failed or `stalled` are
        kept; others are taken from `jobs`, the input of the submission once more, by id and position. The results that there
        are stay until the new ones take their place; `history` has both. Jobs that are being retried already are left alone,
        so that a call that was interrupted can be repeated.

        Raises:
            InputError: no status is called so, `jobs` cannot be read or are not those of the submission, or a job with the
                changes breaks a rule. Nothing is retried, but for what was fitted before it was found.
            JobNotFound, JobNotFinished: no job has one of `ids`, or it has no result yet.
            JobsNotKept: some of the jobs are not kept, and `jobs` were not given. Nothing is retried.
            RetryRefused: it is still being submitted, or somebody else retries jobs of it at this moment.
            ServerFull: there is no room.
        """
        # Imported here for the reason that Client.submit has.
        from fitq.submitting import retry

        if ids is None:
            fits = retry.find_fits(self._store, self.id, statuses)
        else:
            fits = retry.fits_of([self.result(job) for job in dict.fromkeys(ids)])
        return retry.retry(self._store, self.id, fits, jobs, changes or {})

    def delete(self) -> None:
        """Remove the submission with its jobs and results; fits that are running are dropped."""
        self._store.delete(self.id)

    def stream(self, kind: Kind, since: str | None = None, *, follow: bool = False, ordered: bool = False) -> Stream:
        """What `result_batches` and `trace_batches` read from, for callers that watch the progress themselves.

        Raises:
            InputError: as there.
        """
        if ordered and since is not None:
            raise InputError("the order of the input has no cursor to begin at: give either `since` or `ordered`")
        if ordered:
            return InputOrder(self._store, self.id, kind, partial=not follow)
        return CompletionOrder(self._store, self.id, kind, _checked(since))

    def _batches(self, kind: Kind, since: str | None, follow: bool, ordered: bool) -> Ready:
        return self._read(self.stream(kind, since, follow=follow, ordered=ordered), follow)

    def _read(self, stream: Stream, follow: bool) -> Ready:
        for _ in self.progress() if follow else [self.status()]:
            yield from stream.ready()
        self.status()  # raises where the submission was deleted meanwhile: its frames are not left out in silence

    def _timeout(self, manifest: Manifest, seconds: float | None) -> SubmissionTimeout:
        done = f"{manifest.done_jobs} of {manifest.jobs} fits are done"
        if manifest.retrying:
            done += f", {manifest.retrying} are being retried"
        return SubmissionTimeout(
            f"{self.id} did not finish in {seconds:g} s ({done}); it goes on: look whether a worker is running", self.id
        )


def _rows(kind: Kind, frames: list[bytes | None], job: str) -> list[dict[str, Any]]:
    """The rows of the job with this id, looked for in the frames of the chunks that may have it."""
    batches = [kind.batch(frame) for frame in frames if frame is not None]
    return [row for batch in batches for row in batch.filter(pc.equal(batch["id"], job)).to_pylist()]


def _checked(since: str | None) -> str | None:
    if since is not None and not re.fullmatch(r"\d+-\d+", since):
        raise InputError(f"since = {since!r}: not a cursor; take one that came with results of this submission")
    return since
