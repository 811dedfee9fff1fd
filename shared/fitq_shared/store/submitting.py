"""The client's half of the store: a submission is opened, filled with chunks, closed and, one day, deleted.

The manifest is the truth and the queue a hint: a chunk belongs to a submission once `add_chunk` has returned, whether
or not its message was published.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np

from fitq_shared.errors import DifferentContent
from fitq_shared.jobs.ids import BUCKETS, bucket_ids
from fitq_shared.settings import Settings
from fitq_shared.store import keys
from fitq_shared.store.frame_files import frame_files
from fitq_shared.store.frame_parts import keys_of_parts, part_count, set_frame
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.offers import add_offer
from fitq_shared.store.payload import Payload
from fitq_shared.store.reader import Reader, not_found
from fitq_shared.store.scripts import load_script
from fitq_shared.store.staging import STAGED_SECONDS, Field, check_staged, message_value

#: A command takes at most this many keys, so that others have their turn on the server.
_KEYS_PER_COMMAND = 1000


class Memory(NamedTuple):
    """Memory of the server in bytes; a limit of 0 is none."""

    used: int
    limit: int


class SubmittingStore(Reader):
    """Opens, fills, closes and deletes submissions.

    Raises, from every method: ServerUnreachable, ServerFull; and ResultsUnreachable where frames are kept as files.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._open = load_script(self._redis, "open")
        self._add_chunk = load_script(self._redis, "add_chunk", frames=True)
        self._close = load_script(self._redis, "close")

    def open(self, submission: str, source: str, key: str = "") -> str:
        """Start an empty submission and return its id, or the id of the submission that has the name `key` already.

        Raises:
            ResultsUnreachable: FITQ_RESULTS_URL names nothing that could be reached.
        """
        frame_files(self.settings.results_url, submission)  # raises before anything is stored
        self._forget_expired()
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
        names, chunk, sets_digest = self._keys(submission), payload.chunk, payload.sets_digest
        staged = names.staged("jobs", chunk, payload.digest)
        sets = names.shared_sets(sets_digest)
        entry = f"{payload.first} {payload.last} {payload.job_count} {payload.digest} {sets_digest}"
        fixed: list[Field] = [chunk, entry, payload.job_count, message_value(lane), sets_digest, names.ids("")]
        fixed += [part_count(payload.jobs_frame), self.settings.ttl_seconds]
        touched = [names.manifest, names.chunk_index, names.enqueued, names.jobs(chunk), names.sets, sets, staged]
        with self._server(), self._redis.pipeline(transaction=False) as pipeline:
            set_frame(pipeline, staged, payload.jobs_frame, STAGED_SECONDS)
            if payload.sets_frame is not None:
                set_frame(pipeline, sets, payload.sets_frame, self.settings.ttl_seconds or None)
            self._add_chunk(keys=touched, args=[*fixed, *_id_entries(payload)], client=pipeline)
            verdict = pipeline.execute()[-1]
        if verdict == b"gone":
            raise not_found(submission)
        if verdict == b"different":
            raise different_jobs(submission, payload.first, payload.last)
        check_staged(verdict, self.settings)

    def offer(self, shape: str, submission: str, chunk: int) -> None:
        """Let the worker that fits a chunk of this shape take this one along."""
        with self._server():
            add_offer(self._redis, keys.offers(self.settings.namespace, shape), submission, chunk)

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
        manifest = self.manifest(submission)
        files = frame_files(manifest.results_url, submission)
        names, namespace = self._all_keys(manifest), self.settings.namespace
        if files is not None:
            files.remove_all()  # first: while the manifest is there, a removal that fails can be tried again
        with self._server():
            for some in _portions(names):
                self._redis.unlink(*some)
            if manifest.key:
                self._redis.unlink(keys.named(namespace, manifest.key))
            self._redis.zrem(keys.submissions(namespace), submission)
            self._redis.srem(keys.active(namespace), submission)
        if files is not None:
            files.remove_all()  # what a worker has committed meanwhile

    def memory(self) -> Memory:
        """Memory that the server uses, and how much it may use."""
        with self._server():
            found = cast("dict[str, int]", self._redis.info("memory"))
        return Memory(found["used_memory"], found.get("maxmemory", 0))

    def size(self, submission: str) -> tuple[int, int]:
        """Bytes that a submission takes in the memory of Redis, and in files.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        manifest = self.manifest(submission)
        names, memory = self._all_keys(manifest), 0
        for some in _portions(names):
            with self._server(), self._redis.pipeline(transaction=False) as pipeline:
                for name in some:
                    pipeline.memory_usage(name)
                memory += sum(size or 0 for size in pipeline.execute())
        files = frame_files(manifest.results_url, submission)
        return memory, 0 if files is None else files.size()

    def _forget_expired(self) -> None:
        """Take submissions whose manifest has expired off the list; without a time to live there are none."""
        if not self.settings.ttl_seconds:
            return
        listed = keys.submissions(self.settings.namespace)
        with self._server(), self._redis.pipeline(transaction=False) as pipeline:
            old = cast("list[bytes]", self._redis.zrangebyscore(listed, "-inf", time.time() - self.settings.ttl_seconds))
            for submission in old:
                pipeline.exists(self._keys(submission.decode()).manifest)
            expired = [submission for submission, exists in zip(old, pipeline.execute(), strict=True) if not exists]
            if expired:
                self._redis.zrem(listed, *expired)

    def _all_keys(self, manifest: Manifest) -> list[str]:
        """Every key that the submission may have."""
        names = self._keys(manifest.id)
        with self._server():
            digests = [digest.decode() for digest in cast("set[bytes]", self._redis.smembers(names.sets))]
        frames = [name(chunk) for chunk in range(manifest.chunks) for name in (names.jobs, names.results, names.traces)]
        frames += [names.shared_sets(digest) for digest in digests]
        leases, ids = map(names.lease, range(manifest.chunks)), map(names.ids, range(BUCKETS))
        single = [names.manifest, names.chunk_index, names.committed, names.enqueued, names.attempts, names.log, names.sets]
        with self._server():
            return [*single, *ids, *leases, *keys_of_parts(self._redis, frames)]


def different_content(submission: str, what: str) -> DifferentContent:
    """The error of jobs that are not those of the submission."""
    return DifferentContent(
        f"{submission} was made of other jobs: {what}; submit them under another key, or delete it first", submission
    )


def different_jobs(submission: str, first: int, last: int) -> DifferentContent:
    """The error of a chunk, from position `first` to `last` of the input, that is not the one the submission has."""
    return different_content(submission, f"jobs {first} to {last} of the input are not those it has")


def _id_entries(payload: Payload) -> list[Field]:
    """Buckets of the index of ids and what the jobs add to each, in turn."""
    return list(itertools.chain(*bucket_ids(np.frombuffer(payload.id_hashes, np.uint64), payload.chunk)))


def _portions(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _KEYS_PER_COMMAND] for start in range(0, len(names), _KEYS_PER_COMMAND))
