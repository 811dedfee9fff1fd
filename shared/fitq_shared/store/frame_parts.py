"""Frames in Redis: in parts of half a MiB, because a large value costs the server and its clients several times as much.

Both reuse memory for small values, and ask the system for new pages for each large one (docs/decisions).
The first part has the frame's own key; the next ones add `:1`, `:2` and so on. Only the last part is shorter than
PART_BYTES, which is how a reader knows that the frame ends. scripts/frame_parts.lua follows the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import redis

#: With its header a part fits an allocation of half a MiB; one byte more and a fifth of the next size would be wasted.
#: Writing and reading 8 MiB took 10 ms in parts of this size, 23 ms in parts of a MiB, 31 ms in parts of 64 KiB
#: (redis-py 8.1 with hiredis 3.5, AMD EPYC).
PART_BYTES = 2**19 - 64


def part_count(frame: bytes) -> int:
    """Number of parts of a frame."""
    return len(frame) // PART_BYTES + 1


def set_frame(pipeline: redis.client.Pipeline, key: str, frame: bytes, seconds: int | None = None) -> None:
    """Store a frame, for this many seconds where they are given."""
    for number in range(part_count(frame)):
        part = memoryview(frame)[number * PART_BYTES : (number + 1) * PART_BYTES]
        pipeline.set(_part(key, number), part, ex=seconds)


def get_frames(client: redis.Redis, names: Sequence[str]) -> list[bytes | None]:
    """The frames under these keys, None where there is none or a part of it is missing."""
    parts: list[list[bytes]] = [[] for _ in names]
    unfinished, number = list(range(len(names))), 0
    while unfinished:
        found = cast("list[bytes | None]", client.mget([_part(names[index], number) for index in unfinished]))
        for index, part in zip(unfinished, found, strict=True):
            parts[index] = [] if part is None else [*parts[index], part]
        unfinished = [index for index, part in zip(unfinished, found, strict=True) if part and len(part) == PART_BYTES]
        number += 1
    return [(part[0] if len(part) == 1 else b"".join(part)) if part else None for part in parts]


def keys_of_parts(client: redis.Redis, names: Sequence[str]) -> list[str]:
    """The keys of all parts of the frames under these keys."""
    found: list[str] = []
    number, remaining = 0, list(names)
    while remaining:
        parts = [_part(name, number) for name in remaining]
        with client.pipeline(transaction=False) as pipeline:
            for part in parts:
                pipeline.exists(part)
            there = pipeline.execute()
        found += [part for part, exists in zip(parts, there, strict=True) if exists]
        remaining = [name for name, exists in zip(remaining, there, strict=True) if exists]
        number += 1
    return found


def _part(key: str, number: int) -> str:
    return key if number == 0 else f"{key}:{number}"
