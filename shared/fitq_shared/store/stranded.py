"""The reconciler's part of the store: chunks that wait although their message may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from fitq_shared.errors import SubmissionDamaged, SubmissionNotFound
from fitq_shared.settings import Settings
from fitq_shared.store import keys
from fitq_shared.store.damage import records_of
from fitq_shared.store.reader import Reader
from fitq_shared.store.scripts import load_script

#: A chunk whose message was sent less than this ago may still be on its way from the broker to a claim.
DELIVERY_GRACE_SECONDS = 8


class WaitingChunk(NamedTuple):
    """A chunk that is not committed yet, the lane of its last message, and the Unix time at which that was sent."""

    number: int
    lane: str
    sent_at: float


class StrandedChunks(Reader):
    """Finds chunks whose message may be lost, and notes new messages.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerFull, ServerRefuses.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._forget = load_script(self._redis, "forget")

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
                    self._forget(keys=[self._keys(submission).manifest, active], args=[submission])

    def unclaimed(self, submission: str) -> list[WaitingChunk]:
        """Chunks that are not committed, that no live worker has claimed, and whose message is not fresh.

        Raises:
            SubmissionDamaged: something else has written what is noted of them.
        """
        names, now = self._keys(submission), self._now()
        with self._server():
            fields = cast("dict[bytes, bytes]", self._redis.hgetall(names.enqueued))
            with records_of(submission):
                waiting = [_waiting_chunk(number, value) for number, value in fields.items()]
            old = [chunk for chunk in waiting if now - chunk.sent_at > DELIVERY_GRACE_SECONDS]
            leases = self._redis.mget([names.lease(chunk.number) for chunk in old]) if old else []
        return [chunk for chunk, lease in zip(old, cast("list[bytes | None]", leases), strict=True) if lease is None]

    def overtaken(self, lane: str) -> float:
        """The Unix time before which messages of a lane were sent that cannot wait in it any more.

        A lane is a queue: a message waits no longer once a younger one was taken, and none waits where it is empty.
        """
        with self._server():
            length = self._redis.llen(keys.lane(self.settings.namespace, lane))
            youngest = self._redis.zscore(keys.taken(self.settings.namespace), lane)
        return float("inf") if length == 0 else (youngest or 0.0) - DELIVERY_GRACE_SECONDS

    def note_message(self, submission: str, chunk: WaitingChunk) -> None:
        """Note that a new message for the chunk is about to be sent."""
        value = f"{chunk.lane} {self._now():.6f}"
        with self._server():
            self._redis.hset(self._keys(submission).enqueued, str(chunk.number), value)

    def _is_unfinished(self, submission: str) -> bool:
        try:
            return not self.manifest(submission).finished
        except (SubmissionNotFound, SubmissionDamaged):
            return False


def _waiting_chunk(number: bytes, value: bytes) -> WaitingChunk:
    lane, sent_at = value.decode().split()
    return WaitingChunk(int(number), lane, float(sent_at))
