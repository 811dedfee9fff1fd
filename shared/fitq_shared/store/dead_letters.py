"""Dead letters: what lay in the queue and was no message of fitq. Kept for people to look at, and counted."""

from __future__ import annotations

from typing import cast

from fitq_shared.store import keys
from fitq_shared.store.reader import Reader

#: The newest so many are kept, and of each the beginning.
KEPT, KEPT_BYTES = 1000, 4096


class DeadLetters(Reader):
    """The dead letters of a namespace.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerFull, ServerRefuses.
    """

    def bury(self, lane: str, letter: bytes) -> None:
        """Keep what was found in a lane, and count it."""
        listed = keys.dead_letters(self.settings.namespace)
        with self._server(), self._redis.pipeline() as pipeline:
            pipeline.lpush(listed, lane.encode() + b" " + letter[:KEPT_BYTES])
            pipeline.ltrim(listed, 0, KEPT - 1)
            pipeline.incr(keys.dead_letter_count(self.settings.namespace))
            pipeline.execute()

    def count(self) -> int:
        """How many there ever were."""
        with self._server():
            return int(cast("bytes | None", self._redis.get(keys.dead_letter_count(self.settings.namespace))) or 0)

    def newest(self) -> list[bytes]:
        """Those that are kept, each behind the name of its lane, newest first."""
        with self._server():
            return cast("list[bytes]", self._redis.lrange(keys.dead_letters(self.settings.namespace), 0, -1))
