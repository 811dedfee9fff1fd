"""What anybody may read of submissions: manifests, the log of commits, frames of results and traces. It writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache
from typing import NamedTuple, cast

import msgspec

from fitq_shared.errors import ResultsLost, SubmissionDamaged, SubmissionNotFound
from fitq_shared.jobs.fields import MAX_FRAME_JOBS
from fitq_shared.jobs.ids import bucket_of, chunks_in
from fitq_shared.settings import Settings
from fitq_shared.store import keys
from fitq_shared.store.committed import CommittedFrames, Kind, parse
from fitq_shared.store.connection import connect, translate_errors
from fitq_shared.store.damage import records_of
from fitq_shared.store.frame_files import FrameFiles, frame_files
from fitq_shared.store.frame_parts import get_frames
from fitq_shared.store.manifest import Manifest

_LOG_PAGE = 500
#: An entry of a chunk in the index.
_ENTRY = re.compile(rb"(?P<first>\d{1,18}) (?P<last>\d{1,18}) (?P<jobs>\d{1,18}) (?P<digest>[0-9a-f]+) ?(?P<sets>[0-9a-f]*)")
_WORDS: dict[Kind, str] = {"results": "results", "traces": "traces", "kept": "jobs to retry"}
_KEPT_URLS = 128


class CommittedChunk(NamedTuple):
    """A chunk whose frames are stored, and the cursor of its entry in the log."""

    number: int
    job_count: int
    cursor: str
    #: Numbers of the earlier chunks in which its jobs were before; empty unless it is a retry.
    replaces: tuple[int, ...] = ()


class IndexedChunk(NamedTuple):
    """What identifies a chunk: the positions of its first and last job in the input, the number of its jobs, digests."""

    number: int
    job_count: int
    first: int
    last: int
    digest: str
    #: That of the sample sets that its jobs share; empty without any.
    sets_digest: str = ""


class Reader:
    """Reads submissions.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerRefuses; SubmissionDamaged where something else has
    written to a submission; and ResultsUnreachable where frames are kept as files.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._redis, self._tls_options = connect(settings), settings.tls_options()
        # It never changes, and a worker asks with each commit; what is kept must not grow with the submissions.
        self.results_url = lru_cache(_KEPT_URLS)(self._read_results_url)

    def disconnect(self) -> None:
        """Close the connections to the server; a later command opens new ones."""
        self._redis.close()

    def ping(self) -> None:
        """Return when the server answers; raise ServerUnreachable when it does not."""
        with self._server():
            self._redis.ping()

    def manifest(self, submission: str) -> Manifest:
        """The manifest as it is now.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        with self._server():
            fields = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys(submission).manifest))
        if not fields:
            raise not_found(submission)
        return manifest_of(submission, fields)

    def manifests(self) -> list[Manifest]:
        """All submissions that have not expired, newest first."""
        with self._server():
            listed = cast("list[bytes]", self._redis.zrevrange(keys.submissions(self.settings.namespace), 0, -1))
        return self._manifests(listed)

    def active_manifests(self) -> list[Manifest]:
        """Submissions that may still have chunks to fit, in no order; damaged ones have none."""
        with self._server():
            listed = cast("set[bytes]", self._redis.smembers(keys.active(self.settings.namespace)))
        return self._manifests(listed, skip_damaged=True)

    def index(self, submission: str) -> list[IndexedChunk]:
        """What identifies each chunk added so far."""
        with self._server():
            fields = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys(submission).chunk_index))
        with records_of(submission):
            return [indexed_chunk(int(number), value) for number, value in fields.items()]

    def chunks_with_id(self, submission: str, job: str) -> list[int]:
        """Numbers of the few chunks that may hold the job with this id; none when there is no such job."""
        with self._server():
            bucket = cast("bytes | None", self._redis.get(self._keys(submission).ids(bucket_of(job))))
        with records_of(submission):
            return chunks_in(bucket or b"", job)

    def commits(self, submission: str, since: str | None = None) -> list[CommittedChunk]:
        """The first commits, or the next ones after the cursor `since`, in their order; empty when there are no more."""
        start = "-" if since is None else f"({since}"
        with self._server():
            page = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self._redis.xrange(self._keys(submission).log, start, count=_LOG_PAGE),
            )
        with records_of(submission):
            return [_committed_chunk(cursor, entry) for cursor, entry in page]

    def committed_chunks(self, submission: str) -> Iterator[int]:
        """Numbers of the chunks committed so far, in the order of their commits."""
        since = None
        while page := self.commits(submission, since):
            yield from (commit.number for commit in page)
            since = page[-1].cursor

    def result_frames(self, submission: str, chunks: Sequence[int]) -> list[bytes | None]:
        """The stored result frame of each chunk, None where there is none.

        Raises:
            ResultsLost: one that was stored is gone or damaged.
        """
        return self._frames(submission, "results", chunks)

    def trace_frames(self, submission: str, chunks: Sequence[int]) -> list[bytes | None]:
        """The stored trace frame of each chunk, None where no job of it keeps a trace; raises as `result_frames`."""
        return self._frames(submission, "traces", chunks)

    def kept_frames(self, submission: str, chunks: Sequence[int]) -> list[bytes | None]:
        """The stored frame of kept jobs of each chunk, None where there is none; raises as `result_frames`."""
        return self._frames(submission, "kept", chunks)

    def sets_frame(self, submission: str, digest: str) -> bytes | None:
        """The frame of sample sets that chunks share, None where Redis has lost it."""
        with self._server():
            return get_frames(self._redis, [self._keys(submission).shared_sets(digest)])[0]

    def replaced(self, submission: str, chunks: Sequence[int]) -> list[bytes]:
        """For each chunk its entries of retried jobs, as `fitq_shared.store.replaced` reads them."""
        if not chunks:
            return []
        with self._server():
            key = self._keys(submission).replaced
            found = cast("list[bytes | None]", self._redis.hmget(key, [str(chunk) for chunk in chunks]))
        return [value or b"" for value in found]

    def result_frame(self, submission: str, chunk: int) -> bytes | None:
        """The stored result frame of a chunk, None where there is none."""
        return self.result_frames(submission, [chunk])[0]

    def trace_frame(self, submission: str, chunk: int) -> bytes | None:
        """The stored trace frame of a chunk, None where no job of it keeps a trace."""
        return self.trace_frames(submission, [chunk])[0]

    def files(self, submission: str) -> FrameFiles | None:
        """Where result and trace frames are kept as files; None where they are in Redis."""
        return frame_files(self.results_url(submission), submission)

    def message_count(self, lane: str) -> int:
        """Number of messages in a lane that no worker has taken yet."""
        with self._server():
            return self._redis.llen(keys.lane(self.settings.namespace, lane))

    def _manifests(self, names: Iterable[bytes], *, skip_damaged: bool = False) -> list[Manifest]:
        """The manifests of these ids, as far as there are any."""
        ids = [text for name in names if keys.is_submission_id(text := name.decode(errors="replace"))]
        with self._server(), self._redis.pipeline(transaction=False) as pipeline:
            for submission in ids:
                pipeline.hgetall(self._keys(submission).manifest)
            found = pipeline.execute()
        manifests: list[Manifest] = []
        for submission, fields in zip(ids, found, strict=True):
            with suppress(SubmissionDamaged) if skip_damaged else nullcontext():
                manifests += [manifest_of(submission, fields)] if fields else []
        return manifests

    def _frames(self, submission: str, kind: Kind, chunks: Sequence[int]) -> list[bytes | None]:
        committed = self._committed(submission, chunks)
        frames = self._read_frames(submission, kind, committed)
        damaged = [chunk for chunk, commit in committed.items() if not commit.matches(kind, frames[chunk])]
        if damaged and (lost := self._committed(submission, damaged)):  # none of them where it was deleted meanwhile
            raise ResultsLost(
                f"{submission}: the stored {_WORDS[kind]} of chunk {min(lost)} are gone or damaged; was something deleted "
                "or changed by hand? Submit its jobs again",
                submission,
            )
        return [frames.get(chunk) for chunk in chunks]

    def _committed(self, submission: str, chunks: Sequence[int]) -> dict[int, CommittedFrames]:
        if not chunks:
            return {}
        with self._server():
            key = self._keys(submission).committed
            values = cast("list[bytes | None]", self._redis.hmget(key, [str(chunk) for chunk in chunks]))
        with records_of(submission):
            return {chunk: parse(value) for chunk, value in zip(chunks, values, strict=True) if value is not None}

    def _read_frames(self, submission: str, kind: Kind, committed: Mapping[int, CommittedFrames]) -> dict[int, bytes | None]:
        if not committed:
            return {}
        if (files := self.files(submission)) is not None:
            return {chunk: files.read(kind, chunk, commit.attempt) for chunk, commit in committed.items()}
        names = self._keys(submission)
        with self._server():
            frames = get_frames(self._redis, [names.frame(kind, chunk) for chunk in committed])
        return dict(zip(committed, frames, strict=True))

    def _now(self) -> float:
        """The server's Unix time: other clocks may differ."""
        with self._server():
            seconds, micros = self._redis.time()
        return seconds + micros * 1e-6

    def _read_results_url(self, submission: str) -> str:
        with self._server():
            url = cast("bytes | None", self._redis.hget(self._keys(submission).manifest, "results_url"))
        return (url or b"").decode()

    def _keys(self, submission: str) -> keys.SubmissionKeys:
        """The keys of a submission.

        Raises:
            SubmissionNotFound: it has none, for this is no id.
        """
        if not keys.is_submission_id(submission):
            raise not_found(submission)
        return keys.SubmissionKeys(self.settings.namespace, submission)

    def _server(self) -> AbstractContextManager[None]:
        return translate_errors(self.settings.redis_url, self._tls_options)


def not_found(submission: str) -> SubmissionNotFound:
    """The error of an id that no submission has."""
    return SubmissionNotFound(f"no submission {submission!r}: mistyped, deleted or expired", submission)


def manifest_of(submission: str, raw: dict[bytes, bytes]) -> Manifest:
    """The manifest as Redis has it.

    Raises:
        SubmissionDamaged: something else has written there.
    """
    with records_of(submission):
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        statuses = {name.removeprefix("status:"): int(fields[name]) for name in fields if name.startswith("status:")}
        return msgspec.convert({**fields, "id": submission, "statuses": statuses}, Manifest, strict=False)


def _committed_chunk(cursor: bytes, entry: dict[bytes, bytes]) -> CommittedChunk:
    replaces = tuple(map(int, entry.get(b"replaces", b"").split()))
    return CommittedChunk(int(entry[b"chunk"]), int(entry[b"jobs"]), cursor.decode(), replaces)


def indexed_chunk(number: int, value: bytes) -> IndexedChunk:
    """The chunk of an entry in the index, as `add_chunk` writes it.

    Raises:
        ValueError: it is none.
    """
    found = _ENTRY.fullmatch(value)
    if found is None:
        raise ValueError(f"the entry of chunk {number} in its index is {value!r}")
    first, last, job_count = (int(found[name]) for name in ("first", "last", "jobs"))
    if not (number >= 0 and first <= last and 0 < job_count <= min(last - first + 1, MAX_FRAME_JOBS)):
        raise ValueError(f"chunk {number} has {job_count} jobs from {first} to {last} of the input")
    return IndexedChunk(number, job_count, first, last, found["digest"].decode(), found["sets"].decode())
