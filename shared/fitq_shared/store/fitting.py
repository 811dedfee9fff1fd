"""The worker's half of the store: a chunk is claimed, kept while it is fitted, and committed.

A chunk is done once `commit` has stored its frames. The script behind it takes the first result of a chunk and drops
every later one, so that a message that is delivered twice counts each fit once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from fitq_shared.settings import Settings
from fitq_shared.store import committed, keys
from fitq_shared.store.committed import KINDS, Kind
from fitq_shared.store.damage import records_of
from fitq_shared.store.frame_files import FrameFiles
from fitq_shared.store.frame_parts import get_frames, part_count, set_frame
from fitq_shared.store.offers import take_offers
from fitq_shared.store.reader import IndexedChunk, Reader, indexed_chunk
from fitq_shared.store.retrying import end_retries
from fitq_shared.store.scripts import load_script
from fitq_shared.store.staging import STAGED_SECONDS, Field, check_staged


class Claim(NamedTuple):
    """The right to fit a chunk: its job frame, the number of this attempt from 1, what identifies it, shared sample sets.

    The job frame is empty where Redis has lost it. `starts` counts this attempt and those whose workers died.
    """

    jobs_frame: bytes
    attempt: int
    starts: int
    entry: IndexedChunk
    #: What `note_trial` noted last of this chunk; empty where no worker has died with it.
    trial: bytes = b""
    sets_frame: bytes | None = None


class Commit(NamedTuple):
    """What a worker hands in for a chunk: frames, time of work in seconds, and the numbers of fits by status."""

    results: bytes
    traces: bytes
    job_count: int
    seconds: float
    statuses: Mapping[str, int]
    attempt: int
    #: Jobs of fits that may be wanted again; empty where there are none.
    kept: bytes = b""

    def frames(self) -> dict[Kind, bytes]:
        """What is stored, by kind."""
        return {"results": self.results, "traces": self.traces, "kept": self.kept}


class FittingStore(Reader):
    """Claims and commits chunks.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerFull, ServerRefuses; and ResultsUnreachable where
    frames are kept as files.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._claim = load_script(self._redis, "claim")
        self._give_back = load_script(self._redis, "give_back")
        self._note_trial = load_script(self._redis, "note_trial")
        self._renew = load_script(self._redis, "renew")
        self._commit = load_script(self._redis, "commit", frames=True)

    def claim(self, submission: str, chunk: int, worker: str) -> Claim | None:
        """Take a chunk for `worker`; None when there is nothing to do (committed, deleted, or another worker has it).

        A worker may claim again what it holds: this is how it gets back the chunk that its own lost child was fitting.

        Raises:
            SubmissionDamaged: something else has written what is noted of the chunk.
        """
        names = self._keys(submission)
        touched = [names.manifest, names.committed, names.attempts, names.starts, names.lease(chunk), names.chunk_index]
        touched += [names.enqueued, names.trials, names.retries]
        with self._server():
            verdict, attempt, starts, value, message, trial = cast(
                "tuple[bytes, int, int, bytes, bytes, bytes]",
                self._claim(keys=touched, args=[chunk, worker, self.settings.lease_seconds]),
            )
            if verdict != b"mine":
                return None
            with records_of(submission):
                entry = indexed_chunk(chunk, value)
                if message:
                    lane, sent_at = message.decode().split()
                    self._redis.zadd(keys.taken(self.settings.namespace), {lane: float(sent_at)}, gt=True)
            sets = [names.shared_sets(entry.sets_digest)] if entry.sets_digest else []
            jobs_frame, *sets_frames = get_frames(self._redis, [names.jobs(chunk), *sets])
        return Claim(jobs_frame or b"", attempt, starts, entry, trial, *sets_frames)

    def give_back(self, submission: str, chunk: int, worker: str) -> None:
        """End a claim without results; the worker lives, so that this attempt does not count as a death."""
        names = self._keys(submission)
        with self._server():
            self._give_back(keys=[names.manifest, names.committed, names.starts, names.lease(chunk)], args=[chunk, worker])

    def note_trial(self, submission: str, chunk: int, worker: str, trial: bytes) -> None:
        """Let the next claim of this chunk have `trial`, should the worker die; nothing where the chunk is not its own."""
        names = self._keys(submission)
        with self._server():
            self._note_trial(keys=[names.trials, names.lease(chunk)], args=[chunk, worker, trial])

    def end_retry(self, submission: str, chunk: int) -> bool:
        """End the retry of the jobs of a chunk, which keep the results they have; False where it is no retry."""
        with self._server():
            return end_retries(self._redis, self._keys(submission), self.settings, [chunk]) > 0

    def take_offers(self, shape: str, submission: str, chunk: int) -> list[tuple[str, int]]:
        """Chunks of this shape to fit together with this one, as submission and number; nobody else is offered them."""
        with self._server():
            return take_offers(self._redis, keys.offers(self.settings.namespace, shape), submission, chunk)

    def renew(self, submission: str, chunk: int, worker: str) -> bool:
        """Keep the claim for another lease; False when it was lost."""
        with self._server():
            lease = self._keys(submission).lease(chunk)
            return bool(self._renew(keys=[lease], args=[worker, self.settings.lease_seconds]))

    def commit(self, submission: str, chunk: int, commit: Commit) -> bool:
        """Store the frames of a chunk and count its fits, all or nothing; False when it was committed or deleted."""
        files = self.files(submission)
        if files is None:
            return self._store(submission, chunk, commit, in_redis=True)
        _write(files, chunk, commit)
        stored = self._store(submission, chunk, commit, in_redis=False)
        if not stored and self._committed_attempt(submission, chunk) != commit.attempt:
            for kind in KINDS:
                files.remove(kind, chunk, commit.attempt)
        return stored

    def _store(self, submission: str, chunk: int, commit: Commit, *, in_redis: bool) -> bool:
        names, frames = self._keys(submission), [frame if in_redis else b"" for frame in commit.frames().values()]
        touched = [names.manifest, names.committed, names.log, names.lease(chunk), names.enqueued, names.attempts]
        touched += [names.starts, names.trials, names.jobs(chunk), names.chunk_index, names.retries]
        staged = [names.staged(kind, chunk, commit.attempt) for kind in KINDS]
        touched += [keys.expiries(self.settings.namespace), *staged, *(names.frame(kind, chunk) for kind in KINDS)]
        parts = [part_count(frame) if frame else 0 for frame in frames]
        entry = committed.entry(commit.attempt, *commit.frames().values())
        fixed: list[Field] = [submission, chunk, commit.attempt, entry, *parts, commit.job_count, commit.seconds]
        counters: list[Field] = [item for status_and_count in commit.statuses.items() for item in status_and_count]
        with self._server(), self._redis.pipeline(transaction=False) as pipeline:
            for key, frame in zip(staged, frames, strict=True):
                if frame:
                    set_frame(pipeline, key, frame, STAGED_SECONDS)
            self._commit(keys=touched, args=[*fixed, self.settings.ttl_seconds, *counters], client=pipeline)
            verdict = pipeline.execute()[-1]
        check_staged(verdict, self.settings)
        return bool(verdict == b"stored")

    def _committed_attempt(self, submission: str, chunk: int) -> int | None:
        """The attempt whose results are stored; its own number tells a commit that it was repeated for a lost answer."""
        with self._server():
            found = cast("bytes | None", self._redis.hget(self._keys(submission).committed, str(chunk)))
        with records_of(submission):
            return None if found is None else committed.parse(found).attempt


def _write(files: FrameFiles, chunk: int, commit: Commit) -> None:
    for kind, frame in commit.frames().items():
        if frame:
            files.write(kind, chunk, commit.attempt, frame)
