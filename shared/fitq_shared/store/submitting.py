"""The client's half of the store: a submission is opened, filled with chunks, closed and, one day, deleted.

The manifest is the truth and the queue a hint: a chunk belongs to a submission once `add_chunk` has returned, whether
or not its message was published.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from fitq_shared.errors import (
    DifferentContent,
    QuotaExceeded,
    ServerRefuses,
    ServerUnreachable,
    SubmissionCancelled,
    SubmissionDamaged,
    SubmissionNotFound,
)
from fitq_shared.jobs.ids import BUCKETS
from fitq_shared.masking import mask_url
from fitq_shared.settings import Settings
from fitq_shared.store import keys
from fitq_shared.store.frame_files import frame_files
from fitq_shared.store.frame_parts import keys_of_parts, part_count, set_frame
from fitq_shared.store.manifest import Manifest
from fitq_shared.store.offers import add_offer
from fitq_shared.store.payload import Payload
from fitq_shared.store.reader import Reader, manifest_of, not_found
from fitq_shared.store.retrying import end_retries
from fitq_shared.store.scripts import load_script
from fitq_shared.store.staging import STAGED_SECONDS, Field, check_staged

#: How long `close` waits for the server's disk.
DISK_SECONDS = 10.0
#: A command takes at most this many keys, so that others have their turn on the server.
_KEYS_PER_COMMAND = 1000


class Memory(NamedTuple):
    """Memory of the server in bytes; a limit of 0 is none."""

    used: int
    limit: int


class SubmittingStore(Reader):
    """Opens, fills, closes and deletes submissions.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerFull, ServerRefuses; and ResultsUnreachable where
    frames are kept as files.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._open = load_script(self._redis, "open")
        self._add_chunk = load_script(self._redis, "add_chunk", frames=True)
        self._close = load_script(self._redis, "close")
        self._cancel = load_script(self._redis, "cancel")

    def open(self, submission: str, source: str, key: str = "") -> str:
        """Start an empty submission and return its id, or the id of the submission that has the name `key` already.

        Raises:
            ResultsUnreachable: nothing can be written at FITQ_RESULTS_URL.
        """
        if (files := frame_files(self.settings.results_url, submission)) is not None:
            files.check()  # raises before anything is stored
        self.delete_expired()
        namespace = self.settings.namespace
        fields: dict[str, Field] = {"source": source, "state": "open", "key": key, "jobs": 0, "chunks": 0, "done_chunks": 0}
        fields["results_url"] = self.settings.results_url
        touched = [self._keys(submission).manifest, keys.submissions(namespace), keys.active(namespace)]
        touched += [keys.expiries(namespace), *([keys.named(namespace, key)] if key else [])]
        with self._server():
            holder = self._open(
                keys=touched, args=[submission, self.settings.ttl_seconds, *itertools.chain(*fields.items())]
            )
        return cast(bytes, holder).decode()

    def add_chunk(self, submission: str, payload: Payload, lane: str, results_bytes: int = 0) -> None:
        """Store a chunk and count it in the manifest; its message is published afterwards.

        `results_bytes` are what its results will take in the server's memory, about.

        Adding a chunk again changes nothing: the Redis client repeats a command whose answer was lost.

        Raises:
            SubmissionNotFound: it was deleted meanwhile.
            SubmissionCancelled: it was cancelled.
            DifferentContent: it has a chunk of this number with other jobs, or is closed and has none.
            QuotaExceeded: the namespace may not have so many jobs or bytes.
        """
        names, namespace = self._keys(submission), self.settings.namespace
        chunk, sets_digest = payload.chunk, payload.sets_digest
        staged = names.staged("jobs", chunk, payload.digest)
        sets = names.shared_sets(sets_digest)
        fixed: list[Field] = [submission, chunk, payload.entry, payload.job_count, lane, sets_digest, names.ids("")]
        fixed += [part_count(payload.jobs_frame), self.settings.ttl_seconds, results_bytes, keys.quota(namespace), namespace]
        touched = [names.manifest, names.chunk_index, names.enqueued, names.jobs(chunk), names.sets, sets, staged]
        touched += [keys.expiries(namespace), keys.submissions(namespace)]
        with self._server(), self._redis.pipeline(transaction=False) as pipeline:
            set_frame(pipeline, staged, payload.jobs_frame, STAGED_SECONDS)
            if payload.sets_frame is not None:
                set_frame(pipeline, sets, payload.sets_frame)
            self._add_chunk(keys=touched, args=[*fixed, *payload.id_entries()], client=pipeline)
            verdict = pipeline.execute()[-1]
        if verdict == b"gone":
            raise not_found(submission)
        if verdict == b"different":
            raise different_jobs(submission, payload.first, payload.last)
        if verdict == b"cancelled":
            raise _cancelled(submission)
        if verdict == b"closed":
            raise different_content(submission, f"it is complete, and has no jobs {payload.first} to {payload.last}")
        if verdict == b"quota":
            raise self._quota_exceeded()
        check_staged(verdict, self.settings)

    def offer(self, shape: str, submission: str, chunk: int) -> None:
        """Let the worker that fits a chunk of this shape take this one along."""
        with self._server():
            add_offer(self._redis, keys.offers(self.settings.namespace, shape), submission, chunk)

    def close(self, submission: str, chunks: int | None = None) -> None:
        """Declare the submission complete; return once the server has all of it on its disk, if it keeps anything there.

        Raises:
            SubmissionNotFound: it was deleted meanwhile.
            SubmissionCancelled: it was cancelled.
            DifferentContent: it is open and has more than these `chunks`: somebody else has added others.
            ServerUnreachable: it is open and has fewer: the server was away and has forgotten some; all can be tried again.
        """
        with self._server():
            verdict = self._close(
                keys=[self._keys(submission).manifest, keys.expiries(self.settings.namespace)],
                args=[submission, self.settings.ttl_seconds, "" if chunks is None else chunks],
            )
        if verdict == b"gone":
            raise not_found(submission)
        if verdict == b"cancelled":
            raise _cancelled(submission)
        if verdict == b"more":
            raise different_content(submission, "it has more jobs, and the input has fewer")
        if verdict == b"fewer":
            raise ServerUnreachable(f"Redis at {mask_url(self.settings.redis_url)} has forgotten jobs; try again")
        self._wait_for_disk()

    def _quota_exceeded(self) -> QuotaExceeded:
        name, manifests = keys.quota(self.settings.namespace), self.manifests()
        with self._server():
            limits = cast("dict[bytes, bytes]", self._redis.hgetall(name))
        used = {b"jobs": sum(each.jobs for each in manifests), b"bytes": sum(each.counted_bytes for each in manifests)}
        found = [f"{used[kind]:,} of {limits[kind].decode()} {kind.decode()}" for kind in used if kind in limits]
        return QuotaExceeded(
            f"the quota of the namespace {self.settings.namespace!r} is too small for these jobs ({' and '.join(found)} are "
            f"in use): delete finished submissions, or have an operator raise {name}"
        )

    def _wait_for_disk(self) -> None:
        """Return when the append-only file has all that was written, within a second by Redis's usual settings.

        Without one, or before Redis 7.2, there is nothing to wait for. A disk that is slower than DISK_SECONDS is not waited
        for any longer: nothing is wrong with the submission.
        """
        try:
            with self._server():
                self._redis.waitaof(1, 0, int(DISK_SECONDS * 1000))
        except ServerRefuses:
            return

    def cancel(self, submission: str) -> Manifest:
        """End a submission early: what is fitted stays, the rest is dropped; a finished one stays as it is.

        Retries end too, and their jobs keep the results they have: a submission that was finished before is so again.
        Workers stop with its chunks when they next renew their claims, within a third of a lease.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        names, namespace = self._keys(submission), self.settings.namespace
        with self._server():
            end_retries(self._redis, names, self.settings)
            verdict = self._cancel(
                keys=[names.manifest, names.enqueued, keys.active(namespace), keys.expiries(namespace)],
                args=[submission, self.settings.ttl_seconds],
            )
        if verdict == b"gone":
            raise not_found(submission)
        manifest = self.manifest(submission)
        if verdict == b"cancelled":
            self._drop_unfitted(manifest)
        return manifest

    def delete(self, submission: str) -> None:
        """Remove a submission and all that is stored for it; workers drop its chunks when they meet them.

        Raises:
            SubmissionNotFound: no submission has this id.
        """
        manifest = self.manifest(submission)
        files = frame_files(manifest.results_url, submission)
        names, namespace = self._keys(submission), self.settings.namespace
        if files is not None:
            files.remove_all()  # first: while the manifest is there, a removal that fails can be tried again
        with self._server():
            # The manifest after all else, with all that names it: what is killed in between can be tried again. The list of
            # shared sets, which may grow until then, comes last.
            self._unlink([name for name in self._all_keys(manifest) if name != names.sets])
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hgetall(names.manifest)
                pipeline.unlink(names.manifest)
                if manifest.key:
                    pipeline.unlink(keys.named(namespace, manifest.key))
                pipeline.zrem(keys.submissions(namespace), submission)
                pipeline.zrem(keys.expiries(namespace), submission)
                pipeline.srem(keys.active(namespace), submission)
                last, *_ = pipeline.execute()
            # Nothing is added or committed any more: what was meanwhile goes too.
            self._unlink(self._all_keys(manifest_of(submission, last) if last else manifest))
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
        names, memory = [self._keys(submission).manifest, *self._all_keys(manifest)], 0
        for some in _portions(names):
            with self._server(), self._redis.pipeline(transaction=False) as pipeline:
                for name in some:
                    pipeline.memory_usage(name)
                memory += sum(size or 0 for size in pipeline.execute())
        files = frame_files(manifest.results_url, submission)
        return memory, 0 if files is None else files.size()

    def _unlink(self, names: Sequence[str]) -> None:
        for some in _portions(names):
            self._redis.unlink(*some)

    def _drop_unfitted(self, manifest: Manifest) -> None:
        """Remove what only chunks need that are not fitted: claims, jobs, sample sets that no kept job shares."""
        names = self._keys(manifest.id)
        kept = self._sets_of_kept_jobs(manifest)
        with self._server():
            digests = [digest.decode() for digest in cast("set[bytes]", self._redis.smembers(names.sets))]
            digests = [digest for digest in digests if digest not in kept]
            frames = [*map(names.jobs, range(manifest.chunks)), *map(names.shared_sets, digests)]
            dropped = [*map(names.lease, range(manifest.chunks)), *keys_of_parts(self._redis, frames)]
            self._unlink([names.attempts, names.starts, names.trials, *dropped])

    def _sets_of_kept_jobs(self, manifest: Manifest) -> set[str]:
        committed = self._committed(manifest.id, range(manifest.all_chunks))
        return {
            entry.sets_digest
            for entry in self.index(manifest.id)
            if entry.number in committed and committed[entry.number].kept
        }

    def delete_expired(self) -> list[str]:
        """Delete submissions that have not changed for their time to live, as a whole, and return their ids."""
        with self._server():
            listed = keys.expiries(self.settings.namespace)
            found = cast("list[bytes]", self._redis.zrangebyscore(listed, "-inf", self._now()))
        for submission in (name.decode() for name in found):
            try:
                self.delete(submission)
            except (SubmissionNotFound, SubmissionDamaged):  # somebody else was faster, or nobody knows what to delete
                with self._server():
                    self._redis.zrem(listed, submission)
        return [name.decode() for name in found]

    def _all_keys(self, manifest: Manifest) -> list[str]:
        """Every key that the submission may have, but for its manifest."""
        names = self._keys(manifest.id)
        with self._server():
            digests = [digest.decode() for digest in cast("set[bytes]", self._redis.smembers(names.sets))]
        chunks = range(manifest.all_chunks)
        frames = [name(chunk) for chunk in chunks for name in (names.jobs, names.results, names.traces, names.kept)]
        frames += [names.shared_sets(digest) for digest in digests]
        leases, ids = map(names.lease, chunks), map(names.ids, range(BUCKETS))
        single = [names.chunk_index, names.committed, names.enqueued, names.attempts, names.starts, names.trials]
        single += [names.log, names.sets, names.retries, names.replaced]
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


def _cancelled(submission: str) -> SubmissionCancelled:
    """The error of jobs that are to be added to a cancelled submission."""
    return SubmissionCancelled(
        f"{submission} was cancelled and takes no more jobs; submit them anew, not under its key", submission
    )


def _portions(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _KEYS_PER_COMMAND] for start in range(0, len(names), _KEYS_PER_COMMAND))
