"""What happens to the messages: the queue is a hint, and a hint may get lost or come twice."""

from __future__ import annotations

from fitq_shared.queue import LANES
from fitq_shared.store import keys
from tests.faults.storm import Storm


def drop_messages(storm: Storm) -> None:
    """Some of those that wait next."""
    with storm.server.connect() as client:
        for lane in _lanes(storm):
            client.rpop(lane, storm.random.randint(1, 5))


def double_messages(storm: Storm) -> None:
    """All that wait."""
    with storm.server.connect() as client:
        for lane in _lanes(storm):
            if waiting := client.lrange(lane, 0, -1):
                client.lpush(lane, *waiting)


def delete_the_lanes(storm: Storm) -> None:
    """With all messages that wait."""
    with storm.server.connect() as client:
        client.delete(*_lanes(storm))


def forget_the_messages_that_were_taken(storm: Storm) -> None:
    """Nobody gives them back when their workers die."""
    with storm.server.connect() as client:
        client.delete(keys.broker_prefix(storm.server.settings.namespace) + "unacked")


def give_all_messages_back_at_once(storm: Storm) -> None:
    """As if their time were over, although their workers live."""
    with storm.server.connect() as client:
        index = keys.broker_prefix(storm.server.settings.namespace) + "unacked_index"
        if tags := client.zrange(index, 0, -1):
            client.zadd(index, dict.fromkeys(tags, 0.0), xx=True)


def _lanes(storm: Storm) -> list[str]:
    return [keys.lane(storm.server.settings.namespace, name) for name in LANES]
