"""Submissions in Redis: manifest, chunk payloads, the atomic commit, the log of commits.

The manifest is the truth and the queue a hint. A chunk belongs to a submission once `add_chunk` has returned, whether
or not its message was published, and is done once `commit` has stored its frames. `commit` is one Lua script that
takes the first result of a chunk and drops every later one, so that at-least-once delivery counts each fit once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias, cast

import msgspec
import redis

from fitq_shared import keys, scripts
from fitq_shared.errors import ServerFull, ServerUnreachable, SubmissionNotFound
from fitq_shared.manifest import Manifest
from fitq_shared.settings import Settings, masked

#: A chunk whose message was sent less than this ago may still be on its way from the broker to a claim.
DELIVERY_GRACE_SECONDS = 10
_LOG_PAGE = 500
_DELETE_PAGE = 1000

#: What redis-py takes as a hash field, its value or a script argument.
Field: TypeAlias = bytes | bytearray | memoryview | str | int | float


class Payload(NamedTuple):
    """A chunk as it is stored: `first` and `last` are the smallest and the largest index of its jobs."""

    chunk: int
    jobs_frame: bytes
    jobs: int
    first: int
    last: int
    sets_frame: bytes | None

    @property
    def digest(self) -> str:
        """Tells other content from the same: 16 hexadecimal digits of the SHA-256 of the frames."""
        return hashlib.sha256(self.jobs_frame + (self.sets_frame or b"")).hexdigest()[:16]


class Claim(NamedTuple):
    """The right to fit a chunk: its frames of jobs and of sample sets they share, and which attempt this is, from 1."""

    jobs: bytes
    attempt: int
    sets: bytes | None


class Commit(NamedTuple):
    """What a worker hands in for a chunk."""

    results: bytes
    traces: bytes
    jobs: int
    seconds: float
    statuses: Mapping[str, int]


class Enqueued(NamedTuple):
    """A chunk that is not committed yet, and its last message."""

    chunk: int
    lane: str
    at: float


class Store:
    """Reads and writes submissions; every Redis command on them is issued here.

    Raises, from every method: ServerUnreachable, ServerFull.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = redis.Redis.from_url(settings.redis_url, socket_timeout=30, socket_connect_timeout=5)
        self._add_chunk = self.redis.register_script(scripts.ADD_CHUNK)
        self._claim = self.redis.register_script(scripts.CLAIM)
        self._renew = self.redis.register_script(scripts.RENEW)
        self._commit = self.redis.register_script(scripts.COMMIT)
        self._close = self.redis.register_script(scripts.CLOSE)

    def ping(self) -> None:
        """Return when the server answers; raise ServerUnreachable when it does not."""
        with self._server():
            self.redis.ping()

    # The client's half: fill a submission, then close it.

    def open(self, submission: str, source: str) -> None:
        """Start an empty submission."""
        now = time.time()
        fields: dict[Field, Field] = {"source": source, "state": "open", "created_at": now}
        fields |= {"jobs": 0, "chunks": 0, "done_chunks": 0}
        with self._server(), self.redis.pipeline() as pipeline:
            pipeline.hset(self._keys(submission).manifest, mapping=fields)
            pipeline.zadd(keys.submissions(self.settings.namespace), {submission: now})
            pipeline.sadd(keys.active(self.settings.namespace), submission)
            pipeline.execute()

    def add_chunk(self, submission: str, payload: Payload, lane: str) -> None:
        """Store the frames of a chunk and count it in the manifest; its message is published afterwards.

        Adding a chunk again changes nothing: the Redis client repeats a command whose answer was lost.

        Raises:
            SubmissionNotFound: it was deleted meanwhile.
        """
        names = self._keys(submission)
        chunk, jobs_frame, jobs, first, last, sets_frame = payload
        touched = [names.manifest, names.jobs(chunk), names.enqueued, names.sets(chunk), names.index]
        arguments: list[Field] = [chunk, jobs_frame, jobs, _enqueued_value(lane), self.settings.ttl_seconds]
        arguments += [sets_frame or b"", f"{first} {last} {jobs} {payload.digest}"]
        with self._server():
            verdict = self._add_chunk(keys=touched, args=arguments)
        if verdict == b"gone":
            raise _not_found(submission)

    def close(self, submission: str) -> None:
        """Declare the submission complete.

        Raises:
            SubmissionNotFound: it was deleted meanwhile.
        """
        with self._server():
            closed = self._close(keys=[self._keys(submission).manifest], args=[time.time()])
        if not closed:
            raise _not_found(submission)

    # The worker's half: claim a chunk, keep the claim alive, commit.

    def claim(self, submission: str, chunk: int, worker: str) -> Claim | None:
        """Take a chunk for `worker`; None when there is nothing to do (committed, deleted, or another worker has it).

        A worker may claim again what it holds: that is how it gets back the chunk its own lost child was fitting.
        """
        names = self._keys(submission)
        arguments: list[Field] = [chunk, worker, self.settings.lease_seconds, time.time()]
        with self._server():
            verdict, attempt = cast(
                "tuple[bytes, int]",
                self._claim(keys=[names.manifest, names.committed, names.attempts, names.lease(chunk)], args=arguments),
            )
            if verdict != b"mine":
                return None
            jobs, sets = cast("list[bytes | None]", self.redis.mget(names.jobs(chunk), names.sets(chunk)))
        return None if jobs is None else Claim(jobs, attempt, sets)

    def renew(self, submission: str, chunk: int, worker: str) -> bool:
        """Keep the claim for another lease; False when it was lost."""
        with self._server():
            lease = self._keys(submission).lease(chunk)
            return bool(self._renew(keys=[lease], args=[worker, self.settings.lease_seconds]))

    def commit(self, submission: str, chunk: int, commit: Commit) -> bool:
        """Store the frames of a chunk and count its fits, all or nothing; False when it was committed or deleted."""
        names = self._keys(submission)
        touched = [names.manifest, names.committed, names.results(chunk), names.traces(chunk), names.log]
        counters: list[Field] = [item for status, fits in commit.statuses.items() for item in (status, fits)]
        arguments: list[Field] = [chunk, commit.results, commit.traces, commit.jobs, commit.seconds, time.time()]
        with self._server():
            verdict = self._commit(
                keys=[*touched, names.lease(chunk), names.enqueued, names.attempts],
                args=[*arguments, self.settings.ttl_seconds, *counters],
            )
        return bool(verdict == b"stored")

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

    def requeued(self, submission: str, chunk: Enqueued) -> None:
        """Note that a new message for the chunk is about to be sent."""
        with self._server():
            self.redis.hset(self._keys(submission).enqueued, str(chunk.chunk), _enqueued_value(chunk.lane))

    # Anybody's half: look.

    def manifest(self, submission: str) -> Manifest:
        """The manifest as it is now.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        manifest = self._manifest(submission)
        if manifest is None:
            raise _not_found(submission)
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

    def committed_chunks(self, submission: str) -> Iterator[int]:
        """Numbers of the chunks committed so far, in the order of their commits."""
        names, last = self._keys(submission), "-"
        while True:
            with self._server():
                page = cast("list[tuple[bytes, dict[bytes, bytes]]]", self.redis.xrange(names.log, last, count=_LOG_PAGE))
            yield from (int(entry[b"chunk"]) for _, entry in page)
            if len(page) < _LOG_PAGE:
                return
            last = "(" + page[-1][0].decode()

    def result_frame(self, submission: str, chunk: int) -> bytes | None:
        """The stored result frame of a chunk, None where there is none."""
        with self._server():
            return cast("bytes | None", self.redis.get(self._keys(submission).results(chunk)))

    def trace_frame(self, submission: str, chunk: int) -> bytes | None:
        """The stored trace frame of a chunk, None where no job of it keeps a trace."""
        with self._server():
            return cast("bytes | None", self.redis.get(self._keys(submission).traces(chunk)))

    def delete(self, submission: str) -> None:
        """Remove a submission and all that is stored for it; workers drop its chunks when they meet them.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        names, manifest = self._keys(submission), self.manifest(submission)
        per_chunk = (names.jobs, names.sets, names.results, names.traces, names.lease)
        doomed = [name(chunk) for chunk in range(manifest.chunks) for name in per_chunk]
        with self._server():
            self.redis.unlink(names.manifest, names.committed, names.enqueued, names.attempts, names.index, names.log)
            for start in range(0, len(doomed), _DELETE_PAGE):
                self.redis.unlink(*doomed[start : start + _DELETE_PAGE])
            self.redis.zrem(keys.submissions(self.settings.namespace), submission)
            self.redis.srem(keys.active(self.settings.namespace), submission)

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

    @contextmanager
    def _server(self) -> Iterator[None]:
        with translated_errors(self.settings.redis_url):
            yield


@contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Turn the Redis client's errors into fitq's, with the URL (password masked) and the next step."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError:
        raise ServerFull(
            f"Redis at {masked(url)} is full (maxmemory reached) and refuses writes: delete finished submissions "
            "(`fitq ls`, `fitq delete ID`) or raise maxmemory"
        ) from None
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise ServerUnreachable(
            f"Redis at {masked(url)} does not let us in ({error}): set user and password in FITQ_REDIS_URL"
        ) from None
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise ServerUnreachable(
            f"no Redis answers at {masked(url)} ({error}): start one, set FITQ_REDIS_URL, or use `fitq run`, which "
            "needs none"
        ) from None


def _enqueued_value(lane: str) -> str:
    return f"{lane} {time.time():.3f}"


def _enqueued(chunk: bytes, value: bytes) -> Enqueued:
    lane, at = value.decode().split()
    return Enqueued(int(chunk), lane, float(at))


def _not_found(submission: str) -> SubmissionNotFound:
    return SubmissionNotFound(f"no submission {submission!r}: mistyped, deleted or expired; `fitq ls` shows what there is")
