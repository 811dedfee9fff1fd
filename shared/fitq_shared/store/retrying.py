"""Retries in the store: chunks of jobs that were fitted before, until they are committed or ended.

They get numbers behind those of the input's chunks, and the totals of the manifest stay those of the input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, cast

import msgspec
import numpy as np
import redis
from numpy.typing import NDArray

from fitq_shared.errors import RetryRefused
from fitq_shared.settings import Settings
from fitq_shared.store import keys, replaced
from fitq_shared.store.frame_parts import part_count, set_frame
from fitq_shared.store.payload import Payload
from fitq_shared.store.reader import Reader, not_found
from fitq_shared.store.scripts import load_script
from fitq_shared.store.staging import STAGED_SECONDS, Field, check_staged


class Earlier(NamedTuple):
    """A chunk whose jobs are retried: which ones, by their positions in the input, (n,).

    `known` is the length of its entries, from `Reader.replaced`, as they were when these jobs were found to be free.
    """

    chunk: int
    positions: NDArray[np.int64]
    known: int


class RetryingStore(Reader):
    """Adds and ends retries.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerFull, ServerRefuses.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._add_retry = load_script(self._redis, "add_retry", frames=True)

    def add(
        self, submission: str, payload: Payload, earlier: Sequence[Earlier], statuses: Mapping[str, int], lane: str
    ) -> int:
        """Store a chunk of retried jobs and return the number it got; its message is published afterwards.

        `earlier` are the chunks that have the newest results of these jobs, `statuses` the numbers of these by status.

        Raises:
            SubmissionNotFound: it was deleted meanwhile.
            RetryRefused: it is still being submitted, or another retry of jobs of the same chunks began meanwhile.
        """
        verdict = b"taken"
        while verdict == b"taken":
            payload = payload._replace(chunk=self.manifest(submission).all_chunks)
            verdict = self._add(submission, payload, earlier, statuses, lane)
        if verdict == b"gone":
            raise not_found(submission)
        if verdict == b"open":
            raise still_open(submission)
        if verdict == b"changed":
            raise RetryRefused(f"{submission}: somebody else began to retry jobs of it meanwhile; try again", submission)
        check_staged(verdict, self.settings)
        return payload.chunk

    def end(self, submission: str, chunks: Sequence[int]) -> None:
        """End retries that are not committed: their jobs keep the results that they have."""
        if chunks:
            with self._server():
                end_retries(self._redis, self._keys(submission), self.settings, chunks)

    def _add(
        self, submission: str, payload: Payload, earlier: Sequence[Earlier], statuses: Mapping[str, int], lane: str
    ) -> bytes:
        names, chunk = self._keys(submission), payload.chunk
        staged = names.staged("jobs", chunk, payload.digest)
        sets, namespace = names.shared_sets(payload.sets_digest), self.settings.namespace
        touched = [names.manifest, names.chunk_index, names.enqueued, names.jobs(chunk), names.sets, sets, staged]
        touched += [keys.expiries(namespace), names.retries, names.replaced, keys.active(namespace)]
        retry = {"chunks": " ".join(str(one.chunk) for one in earlier), "jobs": payload.job_count, "statuses": statuses}
        fixed: list[Field] = [submission, chunk, payload.entry, payload.job_count, lane, payload.sets_digest, names.ids("")]
        fixed += [part_count(payload.jobs_frame), self.settings.ttl_seconds, msgspec.json.encode(retry), len(earlier)]
        for one in earlier:
            fixed += [one.chunk, one.known, replaced.entries(one.positions, chunk)]
        with self._server(), self._redis.pipeline(transaction=False) as pipeline:
            set_frame(pipeline, staged, payload.jobs_frame, STAGED_SECONDS)
            if payload.sets_frame is not None:
                set_frame(pipeline, sets, payload.sets_frame)
            self._add_retry(keys=touched, args=[*fixed, *payload.id_entries()], client=pipeline)
            return cast(bytes, pipeline.execute()[-1])


def end_retries(client: redis.Redis, names: keys.SubmissionKeys, settings: Settings, chunks: Collection[int] = ()) -> int:
    """End retries that are not committed, those of `chunks` or all; returns how many chunks these were."""
    touched = [names.manifest, names.chunk_index, names.enqueued, names.attempts, names.starts, names.trials, names.retries]
    prefixes = names.jobs(""), names.lease("")
    return cast(
        int,
        load_script(client, "end_retries", frames=True)(
            keys=[*touched, keys.expiries(names.namespace)],
            args=[names.submission, settings.ttl_seconds, *prefixes, *chunks],
        ),
    )


def still_open(submission: str) -> RetryRefused:
    """The error of a retry that came too early."""
    return RetryRefused(f"{submission} is still being submitted; retry its jobs once all of them are in", submission)
