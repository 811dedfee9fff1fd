"""What anybody may read of submissions: manifests, the log of commits, frames of results and traces."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, cast

import msgspec

from fitq_shared.errors import DifferentContent, SubmissionNotFound
from fitq_shared.jobs.ids import BUCKETS, bucket_of, chunks_in
from fitq_shared.settings import Settings
from fitq_shared.store import keys
from fitq_shared.store.connection import connected, translated_errors
from fitq_shared.store.frame_files import FrameFiles
from fitq_shared.store.frame_parts import get_frames, keys_of_parts
from fitq_shared.store.manifest import Manifest

#: A chunk whose message was sent less than this ago may still be on its way from the broker to a claim.
DELIVERY_GRACE_SECONDS = 10
_LOG_PAGE = 500
_KEYS_AT_ONCE = 1000


class Committed(NamedTuple):
    """A chunk whose frames are stored, and the place of this in the log."""

    chunk: int
    jobs: int
    cursor: str


class Indexed(NamedTuple):
    """What identifies a chunk: the first and the last place in the input, how many of those between, its digest."""

    chunk: int
    jobs: int
    first: int
    last: int
    digest: str


class Enqueued(NamedTuple):
    """A chunk that is not committed yet, and its last message."""

    chunk: int
    lane: str
    at: float


class Reader:
    """Reads submissions.

    Raises, from every method: ServerUnreachable; and ResultsUnreachable where frames are kept as files.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = connected(settings)
        self._files: dict[str, FrameFiles | None] = {}

    def ping(self) -> None:
        """Return when the server answers; raise ServerUnreachable when it does not."""
        with self._server():
            self.redis.ping()

    def manifest(self, submission: str) -> Manifest:
        """The manifest as it is now.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        manifest = self._manifest(submission)
        if manifest is None:
            raise not_found(submission)
        return manifest

    def manifests(self) -> list[Manifest]:
        """All submissions, newest first; forgets the expired ones."""
        index = keys.submissions(self.settings.namespace)
        with self._server():
            ids = [name.decode() for name in cast("list[bytes]", self.redis.zrevrange(index, 0, -1))]
        found = {submission: self._manifest(submission) for submission in ids}
        if expired := [submission for submission, manifest in found.items() if manifest is None]:
            with self._server():
                self.redis.zrem(index, *expired)
        return [manifest for manifest in found.values() if manifest is not None]

    def index(self, submission: str) -> list[Indexed]:
        """What identifies each chunk added so far."""
        with self._server():
            fields = cast("dict[bytes, bytes]", self.redis.hgetall(self._keys(submission).index))
        return [_indexed(chunk, value) for chunk, value in fields.items()]

    def chunks_with_id(self, submission: str, job: str) -> list[int]:
        """Chunks among which the one with the job of this id is; none when there is no such job."""
        with self._server():
            bucket = cast("bytes | None", self.redis.get(self._keys(submission).ids(bucket_of(job))))
        return chunks_in(bucket or b"", job)

    def commits(self, submission: str, since: str | None = None) -> list[Committed]:
        """The first commits, or the next ones after the cursor `since`, in their order; empty when there are no more."""
        start = "-" if since is None else f"({since}"
        with self._server():
            page = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self.redis.xrange(self._keys(submission).log, start, count=_LOG_PAGE),
            )
        return [Committed(int(entry[b"chunk"]), int(entry[b"jobs"]), cursor.decode()) for cursor, entry in page]

    def committed_chunks(self, submission: str) -> Iterator[int]:
        """Numbers of the chunks committed so far, in the order of their commits."""
        since = None
        while page := self.commits(submission, since):
            yield from (commit.chunk for commit in page)
            since = page[-1].cursor

    def result_frames(self, submission: str, chunks: Sequence[int]) -> list[bytes | None]:
        """The stored result frame of each chunk, None where there is none."""
        return self._frames(submission, "results", chunks)

    def trace_frames(self, submission: str, chunks: Sequence[int]) -> list[bytes | None]:
        """The stored trace frame of each chunk, None where no job of it keeps a trace."""
        return self._frames(submission, "traces", chunks)

    def result_frame(self, submission: str, chunk: int) -> bytes | None:
        """The stored result frame of a chunk, None where there is none."""
        return self.result_frames(submission, [chunk])[0]

    def trace_frame(self, submission: str, chunk: int) -> bytes | None:
        """The stored trace frame of a chunk, None where no job of it keeps a trace."""
        return self.trace_frames(submission, [chunk])[0]

    def size(self, submission: str) -> tuple[int, int]:
        """Bytes that a submission takes in the memory of Redis, and in files.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        names = self._all_keys(self.manifest(submission))
        memory = 0
        for start in range(0, len(names), _KEYS_AT_ONCE):
            with self._server(), self.redis.pipeline(transaction=False) as pipeline:
                for name in names[start : start + _KEYS_AT_ONCE]:
                    pipeline.memory_usage(name)
                memory += sum(size or 0 for size in pipeline.execute())
        files = self.files(submission)
        return memory, 0 if files is None else files.size()

    def files(self, submission: str) -> FrameFiles | None:
        """Where result and trace frames are kept as files; None where they are in Redis."""
        if submission not in self._files:
            with self._server():
                url = cast("bytes | None", self.redis.hget(self._keys(submission).manifest, "results_url"))
            self._files[submission] = FrameFiles(url.decode(), submission) if url else None
        return self._files[submission]

    # Looking after chunks whose message was lost.

    def active(self) -> Iterator[str]:
        """Ids of submissions that may have chunks to fit; forgets those that have not."""
        with self._server():
            ids = [name.decode() for name in cast("set[bytes]", self.redis.smembers(keys.active(self.settings.namespace)))]
        for submission in ids:
            manifest = self._manifest(submission)
            if manifest is None or manifest.finished:
                with self._server():
                    self.redis.srem(keys.active(self.settings.namespace), submission)
            else:
                yield submission

    def unclaimed(self, submission: str) -> list[Enqueued]:
        """Chunks that are not committed, that no live worker has claimed, and whose message is not fresh."""
        names = self._keys(submission)
        with self._server():
            fields = cast("dict[bytes, bytes]", self.redis.hgetall(names.enqueued))
            waiting = [_enqueued(chunk, value) for chunk, value in fields.items()]
            old = [chunk for chunk in waiting if time.time() - chunk.at > DELIVERY_GRACE_SECONDS]
            leases = self.redis.mget([names.lease(chunk.chunk) for chunk in old]) if old else []
        return [chunk for chunk, lease in zip(old, cast("list[bytes | None]", leases), strict=True) if lease is None]

    def waiting(self, lane: str) -> int:
        """Number of messages in a lane that no worker has taken yet."""
        with self._server():
            return self.redis.llen(keys.lane(self.settings.namespace, lane))

    def _frames(self, submission: str, kind: str, chunks: Sequence[int]) -> list[bytes | None]:
        names = self._keys(submission)
        if not chunks:
            return []
        if (files := self.files(submission)) is None:
            key_of = names.results if kind == "results" else names.traces
            with self._server():
                return get_frames(self.redis, [key_of(chunk) for chunk in chunks])
        with self._server():
            attempts = cast("list[bytes | None]", self.redis.hmget(names.committed, [str(chunk) for chunk in chunks]))
        return [
            None if attempt is None else files.read(kind, chunk, int(attempt))
            for chunk, attempt in zip(chunks, attempts, strict=True)
        ]

    def _all_keys(self, manifest: Manifest) -> list[str]:
        """Every key that the submission may have."""
        names = self._keys(manifest.id)
        with self._server():
            digests = [digest.decode() for digest in cast("set[bytes]", self.redis.smembers(names.sets))]
        frames = [name(chunk) for chunk in range(manifest.chunks) for name in (names.jobs, names.results, names.traces)]
        frames += [names.shared_sets(digest) for digest in digests]
        leases, ids = map(names.lease, range(manifest.chunks)), map(names.ids, range(BUCKETS))
        single = [names.manifest, names.index, names.committed, names.enqueued, names.attempts, names.log, names.sets]
        with self._server():
            return [*single, *ids, *leases, *keys_of_parts(self.redis, frames)]

    def _manifest(self, submission: str) -> Manifest | None:
        with self._server():
            raw = cast("dict[bytes, bytes]", self.redis.hgetall(self._keys(submission).manifest))
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        if not fields:
            return None
        statuses = {name.removeprefix("status:"): int(fields[name]) for name in fields if name.startswith("status:")}
        return msgspec.convert({**fields, "id": submission, "statuses": statuses}, Manifest, strict=False)

    def _keys(self, submission: str) -> keys.SubmissionKeys:
        return keys.SubmissionKeys(self.settings.namespace, submission)

    def _server(self) -> AbstractContextManager[None]:
        return translated_errors(self.settings.redis_url)


def not_found(submission: str) -> SubmissionNotFound:
    """The error of an id that no submission has."""
    return SubmissionNotFound(f"no submission {submission!r}: mistyped, deleted or expired; `fitq ls` shows what there is")


def different_content(submission: str, what: str) -> DifferentContent:
    """The error of jobs that are not the ones the submission was made of."""
    return DifferentContent(
        f"{submission} was made of other jobs: {what}; submit them under another key, or `fitq delete {submission}` first"
    )


def other_jobs(submission: str, first: int, last: int) -> DifferentContent:
    """The same of a chunk that is not the one the submission has."""
    return different_content(submission, f"jobs {first} to {last} of the input are not those it has")


def _indexed(chunk: bytes, value: bytes) -> Indexed:
    first, last, jobs, digest, *_ = value.decode().split()
    return Indexed(int(chunk), int(jobs), int(first), int(last), digest)


def _enqueued(chunk: bytes, value: bytes) -> Enqueued:
    lane, at = value.decode().split()
    return Enqueued(int(chunk), lane, float(at))
