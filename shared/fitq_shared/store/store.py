"""Writes submissions to Redis: manifest, chunk payloads, claims, the atomic commit.

The manifest is the truth and the queue a hint. A chunk belongs to a submission once `add_chunk` has returned, whether
or not its message was published, and is done once `commit` has stored its frames. `commit` is one Lua script that
takes the first result of a chunk and drops every later one, so that at-least-once delivery counts each fit once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from fitq_shared.errors import ServerUnreachable
from fitq_shared.jobs.ids import bucketed
from fitq_shared.settings import Settings, masked
from fitq_shared.store import keys, scripts
from fitq_shared.store.frame_files import FrameFiles
from fitq_shared.store.frame_parts import get_frames, part_count, set_frame
from fitq_shared.store.payload import Payload
from fitq_shared.store.reader import Enqueued, Reader, not_found, other_jobs

#: Frames of a chunk or a commit that did not come to its end are gone after this.
STAGED_SECONDS = 600
_KEYS_AT_ONCE = 1000

#: What redis-py takes as a hash field, its value or a script argument.
Field: TypeAlias = bytes | bytearray | memoryview | str | int | float


class Claim(NamedTuple):
    """The right to fit a chunk: its job frame, which attempt this is, from 1, and the sample sets that jobs share."""

    jobs: bytes
    attempt: int
    sets: bytes | None = None


class Commit(NamedTuple):
    """What a worker hands in for a chunk."""

    results: bytes
    traces: bytes
    jobs: int
    seconds: float
    statuses: Mapping[str, int]
    attempt: int


class Store(Reader):
    """Reads and writes submissions; every Redis command on them is issued here or in Reader.

    Raises, from every method: ServerUnreachable, ServerFull; and ResultsUnreachable where frames are kept as files.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._open = self.redis.register_script(scripts.OPEN)
        self._add_chunk = self.redis.register_script(scripts.ADD_CHUNK)
        self._claim = self.redis.register_script(scripts.CLAIM)
        self._renew = self.redis.register_script(scripts.RENEW)
        self._commit = self.redis.register_script(scripts.COMMIT)
        self._close = self.redis.register_script(scripts.CLOSE)

    @property
    def _kept_seconds(self) -> int | None:
        return self.settings.ttl_seconds or None

    # The client's half: fill a submission, then close it.

    def open(self, submission: str, source: str, key: str = "") -> str:
        """Start an empty submission and return its id, or the id of the submission that has the name `key` already.

        Raises:
            ResultsUnreachable: FITQ_RESULTS_URL names nothing that could be reached.
        """
        if self.settings.results_url:
            FrameFiles(self.settings.results_url, submission)
        now, namespace = time.time(), self.settings.namespace
        fields: dict[str, Field] = {"source": source, "state": "open", "created_at": now, "key": key}
        fields |= {"jobs": 0, "chunks": 0, "done_chunks": 0, "results_url": self.settings.results_url}
        touched = [self._keys(submission).manifest, keys.submissions(namespace), keys.active(namespace)]
        with self._server():
            holder = self._open(
                keys=[*touched, keys.named(namespace, key)] if key else touched,
                args=[submission, now, self.settings.ttl_seconds, *itertools.chain(*fields.items())],
            )
        return cast(bytes, holder).decode()

    def add_chunk(self, submission: str, payload: Payload, lane: str) -> None:
        """Store a chunk and count it in the manifest; its message is published afterwards.

        Adding a chunk again changes nothing: the Redis client repeats a command whose answer was lost.

        Raises:
            SubmissionNotFound: it was deleted meanwhile.
            DifferentContent: it has a chunk of this number with other jobs.
        """
        names, chunk, digest, shared = self._keys(submission), payload.chunk, payload.digest, payload.sets_digest
        entry = f"{payload.first} {payload.last} {payload.jobs} {digest} {shared}"
        staged = names.staged("jobs", chunk, digest)
        ids: list[Field] = []
        for bucket in bucketed(np.frombuffer(payload.id_hashes, np.uint64), chunk):
            ids += bucket
        fixed: list[Field] = [chunk, entry, payload.jobs, _enqueued_value(lane), shared, names.ids("")]
        fixed.append(part_count(payload.jobs_frame))
        touched = [names.manifest, names.index, names.enqueued, names.jobs(chunk), names.sets, names.shared_sets(shared)]
        with self._server(), self.redis.pipeline(transaction=False) as pipeline:
            set_frame(pipeline, staged, payload.jobs_frame, STAGED_SECONDS)
            if payload.sets_frame is not None:
                set_frame(pipeline, names.shared_sets(shared), payload.sets_frame, self._kept_seconds)
            self._add_chunk(
                keys=[*touched, staged],
                args=[*fixed, self.settings.ttl_seconds, *ids],
                client=pipeline,
            )
            verdict = pipeline.execute()[-1]
        if verdict == b"gone":
            raise not_found(submission)
        if verdict == b"different":
            raise other_jobs(submission, payload.first, payload.last)
        _check_stored(verdict, self.settings)

    def close(self, submission: str) -> None:
        """Declare the submission complete.

        Raises:
            SubmissionNotFound: it was deleted meanwhile.
        """
        with self._server():
            closed = self._close(keys=[self._keys(submission).manifest], args=[time.time()])
        if not closed:
            raise not_found(submission)

    def delete(self, submission: str) -> None:
        """Remove a submission and all that is stored for it; workers drop its chunks when they meet them.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        manifest, files = self.manifest(submission), self.files(submission)
        names, namespace = self._all_keys(manifest), self.settings.namespace
        if files is not None:
            files.remove_all()  # first: while the manifest is there, a removal that fails can be tried again
        with self._server():
            for start in range(0, len(names), _KEYS_AT_ONCE):
                self.redis.unlink(*names[start : start + _KEYS_AT_ONCE])
            if manifest.key:
                self.redis.unlink(keys.named(namespace, manifest.key))
            self.redis.zrem(keys.submissions(namespace), submission)
            self.redis.srem(keys.active(namespace), submission)
        if files is not None:
            files.remove_all()  # what a worker has committed meanwhile

    # The worker's half: claim a chunk, keep the claim alive, commit.

    def claim(self, submission: str, chunk: int, worker: str) -> Claim | None:
        """Take a chunk for `worker`; None when there is nothing to do (committed, deleted, or another worker has it).

        A worker may claim again what it holds: that is how it gets back the chunk its own lost child was fitting.
        """
        names = self._keys(submission)
        touched = [names.manifest, names.committed, names.attempts, names.lease(chunk), names.index]
        with self._server():
            verdict, attempt, entry = cast(
                "tuple[bytes, int, bytes]",
                self._claim(keys=touched, args=[chunk, worker, self.settings.lease_seconds, time.time()]),
            )
            if verdict != b"mine":
                return None
            # first, last, jobs, digest, and where sample sets are shared their digest
            shared = [names.shared_sets(digest.decode()) for digest in entry.split()[4:]]
            jobs, *sets = get_frames(self.redis, [names.jobs(chunk), *shared])
        return None if jobs is None else Claim(jobs, attempt, sets[0] if sets else None)

    def renew(self, submission: str, chunk: int, worker: str) -> bool:
        """Keep the claim for another lease; False when it was lost."""
        with self._server():
            lease = self._keys(submission).lease(chunk)
            return bool(self._renew(keys=[lease], args=[worker, self.settings.lease_seconds]))

    def commit(self, submission: str, chunk: int, commit: Commit) -> bool:
        """Store the frames of a chunk and count its fits, all or nothing; False when it was committed or deleted."""
        files = self.files(submission)
        if files is None:
            return self._committed(submission, chunk, commit)
        _write(files, chunk, commit)
        stored = self._committed(submission, chunk, commit._replace(results=b"", traces=b""))
        if not stored and not self._is_of(submission, chunk, commit.attempt):
            for kind in ("results", "traces"):
                files.remove(kind, chunk, commit.attempt)
        return stored

    def _committed(self, submission: str, chunk: int, commit: Commit) -> bool:
        names = self._keys(submission)
        touched = [names.manifest, names.committed, names.log, names.lease(chunk), names.enqueued, names.attempts]
        staged = [names.staged(kind, chunk, commit.attempt) for kind in ("results", "traces")]
        kept = [names.results(chunk), names.traces(chunk)]
        frames = (commit.results, commit.traces)
        parts = [part_count(frame) if frame else 0 for frame in frames]
        fixed: list[Field] = [chunk, commit.attempt, *parts, commit.jobs, commit.seconds, time.time()]
        counters: list[Field] = [item for status, fits in commit.statuses.items() for item in (status, fits)]
        with self._server(), self.redis.pipeline(transaction=False) as pipeline:
            for key, frame in zip(staged, frames, strict=True):
                if frame:
                    set_frame(pipeline, key, frame, STAGED_SECONDS)
            self._commit(
                keys=[*touched, names.index, names.jobs(chunk), *staged, *kept],
                args=[*fixed, self.settings.ttl_seconds, *counters],
                client=pipeline,
            )
            verdict = pipeline.execute()[-1]
        _check_stored(verdict, self.settings)
        return bool(verdict == b"stored")

    def _is_of(self, submission: str, chunk: int, attempt: int) -> bool:
        """The stored results of the chunk are of this attempt: its commit was repeated because the answer was lost."""
        with self._server():
            found = cast("bytes | None", self.redis.hget(self._keys(submission).committed, str(chunk)))
        return found is not None and int(found) == attempt

    def requeued(self, submission: str, chunk: Enqueued) -> None:
        """Note that a new message for the chunk is about to be sent."""
        with self._server():
            self.redis.hset(self._keys(submission).enqueued, str(chunk.chunk), _enqueued_value(chunk.lane))


def _check_stored(verdict: bytes, settings: Settings) -> None:
    if verdict == b"missing":
        raise ServerUnreachable(f"Redis at {masked(settings.redis_url)} lost a frame on the way in; try again")


def _write(files: FrameFiles, chunk: int, commit: Commit) -> None:
    for kind, frame in (("results", commit.results), ("traces", commit.traces)):
        if frame:
            files.write(kind, chunk, commit.attempt, frame)


def _enqueued_value(lane: str) -> str:
    return f"{lane} {time.time():.3f}"
