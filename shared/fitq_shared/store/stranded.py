"""The reconciler's part of the store: chunks that wait although their message may be lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple, cast

from fitq_shared.errors import SubmissionNotFound
from fitq_shared.store import keys
from fitq_shared.store.reader import Reader
from fitq_shared.store.staging import message_value

#: A chunk whose message was sent less than this ago may still be on its way from the broker to a claim.
DELIVERY_GRACE_SECONDS = 10


class WaitingChunk(NamedTuple):
    """A chunk that is not committed yet, the lane of its last message, and the Unix time at which that was sent."""

    number: int
    lane: str
    sent_at: float


class StrandedChunks(Reader):
    """Finds chunks whose message may be lost, and notes new messages.

    Raises, from every method: ServerUnreachable, ServerFull.
    """

    def unfinished(self) -> Iterator[str]:
        """Ids of submissions that may have chunks to fit; those that have none any more are not looked at again."""
        active = keys.active(self.settings.namespace)
        with self._server():
            ids = [name.decode() for name in cast("set[bytes]", self._redis.smembers(active))]
        for submission in ids:
            if self._is_unfinished(submission):
                yield submission
            else:
                with self._server():
                    self._redis.srem(active, submission)

    def unclaimed(self, submission: str) -> list[WaitingChunk]:
        """Chunks that are not committed, that no live worker has claimed, and whose message is not fresh."""
        names = self._keys(submission)
        with self._server():
            fields = cast("dict[bytes, bytes]", self._redis.hgetall(names.enqueued))
            waiting = [_waiting_chunk(number, value) for number, value in fields.items()]
            old = [chunk for chunk in waiting if time.time() - chunk.sent_at > DELIVERY_GRACE_SECONDS]
            leases = self._redis.mget([names.lease(chunk.number) for chunk in old]) if old else []
        return [chunk for chunk, lease in zip(old, cast("list[bytes | None]", leases), strict=True) if lease is None]

    def note_message(self, submission: str, chunk: WaitingChunk) -> None:
        """Note that a new message for the chunk is about to be sent."""
        with self._server():
            self._redis.hset(self._keys(submission).enqueued, str(chunk.number), message_value(chunk.lane))

    def _is_unfinished(self, submission: str) -> bool:
        try:
            return not self.manifest(submission).finished
        except SubmissionNotFound:
            return False


def _waiting_chunk(number: bytes, value: bytes) -> WaitingChunk:
    lane, sent_at = value.decode().split()
    return WaitingChunk(int(number), lane, float(sent_at))
