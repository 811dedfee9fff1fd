"""Small chunks that wait in the interactive lane, by shape: who fits one of them takes others of its shape along.

Each one has its message in the queue as well, and an entry here that is missing, or no longer true, costs nothing but
the chance to be fitted together.
"""

from __future__ import annotations

from typing import cast

from fitq_shared.store.connection import translated_errors
from fitq_shared.store.keys import waiting
from fitq_shared.store.store import Store

#: Chunks that are fitted together. The client offers those of which so many are no more than one full chunk.
MAX_TOGETHER = 32
#: An entry whose submission was deleted goes this long after the last one of its shape came.
EXPIRES_SECONDS = 3600


def offer(store: Store, shape: str, submission: str, chunk: int) -> None:
    """Let whoever fits a chunk of this shape take this one along.

    Raises:
        ServerUnreachable, ServerFull.
    """
    key = waiting(store.settings.namespace, shape)
    with translated_errors(store.settings.redis_url), store.redis.pipeline() as pipeline:
        pipeline.sadd(key, f"{submission} {chunk}")
        pipeline.expire(key, EXPIRES_SECONDS)
        pipeline.execute()


def take_others(store: Store, shape: str, own: tuple[str, int]) -> list[tuple[str, int]]:
    """Other chunks of this shape, as submission and number; nobody is offered them, or `own`, again.

    Raises:
        ServerUnreachable, ServerFull.
    """
    key = waiting(store.settings.namespace, shape)
    with translated_errors(store.settings.redis_url), store.redis.pipeline() as pipeline:
        pipeline.srem(key, "{} {}".format(*own))
        pipeline.spop(key, MAX_TOGETHER - 1)
        _, taken = pipeline.execute()
    pairs = (entry.decode().split() for entry in cast("list[bytes]", taken))
    return [(submission, int(chunk)) for submission, chunk in pairs]
