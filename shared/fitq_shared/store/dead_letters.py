"""Dead letters: what lay in the queue and was no message of fitq. Kept for people to look at, and counted."""

from __future__ import annotations

from typing import cast

import msgspec

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

    def bury_unreadable(self) -> int:
        """Bury what is among the messages that workers have taken and is none; returns how many there were.

        kombu stops at such an entry when it gives messages of dead workers back, and would never come to those behind it.
        """
        taken, index = (keys.broker_prefix(self.settings.namespace) + name for name in ("unacked", "unacked_index"))
        found = 0
        with self._server():
            for tag, entry in self._redis.hscan_iter(taken):
                if not _is_delivery(entry):
                    self.bury("unacked", entry)
                    self._redis.hdel(taken, tag)
                    self._redis.zrem(index, tag)
                    found += 1
        return found

    def count(self) -> int:
        """How many there ever were."""
        with self._server():
            return int(cast("bytes | None", self._redis.get(keys.dead_letter_count(self.settings.namespace))) or 0)

    def newest(self) -> list[bytes]:
        """Those that are kept, each behind the name of its lane, newest first."""
        with self._server():
            return cast("list[bytes]", self._redis.lrange(keys.dead_letters(self.settings.namespace), 0, -1))


def _is_delivery(entry: bytes) -> bool:
    """Whether kombu could give this back: a message, an exchange and a routing key."""
    try:
        message, _, _ = msgspec.json.decode(entry, type=tuple[dict[str, object], str, str])
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(message.get("headers"), dict) and isinstance(message.get("properties"), dict)
