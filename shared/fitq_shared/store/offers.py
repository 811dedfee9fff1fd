"""Offers: small chunks that wait in the interactive lane, by shape, so that a worker that fits one takes others along.

Each of these chunks has its message in the queue as well. An offer that is missing or out of date costs nothing but the
chance to be fitted together.
"""

from __future__ import annotations

import re
from typing import cast

import redis

#: A worker fits at most this many chunks together. A client offers a chunk where this many of its size fill one chunk at
#: most.
MAX_TOGETHER = 32
#: Offers of deleted submissions are gone this long after the last offer of their shape.
EXPIRES_SECONDS = 3600
_ENTRY = re.compile(rb"([!-~]+) ([0-9]{1,9})")


def add_offer(client: redis.Redis, key: str, submission: str, chunk: int) -> None:
    """Offer a chunk to the worker that fits one of the same shape; `key` is that of the shape."""
    with client.pipeline() as pipeline:
        pipeline.sadd(key, _entry(submission, chunk))
        pipeline.expire(key, EXPIRES_SECONDS)
        pipeline.execute()


def take_offers(client: redis.Redis, key: str, submission: str, chunk: int) -> list[tuple[str, int]]:
    """Chunks to fit together with this one, as submission and number; neither they nor it are offered any longer."""
    with client.pipeline() as pipeline:
        pipeline.srem(key, _entry(submission, chunk))
        pipeline.spop(key, MAX_TOGETHER - 1)
        _, taken = pipeline.execute()
    found = (_ENTRY.fullmatch(entry) for entry in cast("list[bytes]", taken))
    return [(entry[1].decode(), int(entry[2])) for entry in found if entry]


def _entry(submission: str, chunk: int) -> str:
    return f"{submission} {chunk}"
