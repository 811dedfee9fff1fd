"""Frames in Redis: in parts of about a MiB, because a large value costs the server and its clients four times as much.

Measured per byte: both keep using the same memory for small values, and ask the system for new pages for each large one.
The first part has the frame's own key, further ones add `:1`, `:2` and so on; the last one is shorter than the others,
which tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import redis

#: With its header a part fits an allocation of a MiB; one byte more and a quarter of it would be wasted.
PART_BYTES = 2**20 - 64

#: Functions for scripts. A frame of so many parts gets another key (and `ttl` seconds to live, '0' for ever): false, and
#: nothing is done, where a part of it is missing. A frame is removed.
LUA = """
local function part(key, n) return n == 0 and key or key .. ':' .. n end
local function moved(from, to, parts, ttl)
  for n = 0, parts - 1 do if redis.call('EXISTS', part(from, n)) == 0 then return false end end
  for n = 0, parts - 1 do
    redis.call('RENAME', part(from, n), part(to, n))
    if ttl ~= '0' then redis.call('EXPIRE', part(to, n), ttl) else redis.call('PERSIST', part(to, n)) end
  end
  return true
end
local function removed(key)
  local n = 0
  while redis.call('UNLINK', part(key, n)) == 1 do n = n + 1 end
end
"""


def part_count(frame: bytes) -> int:
    """Number of parts of a frame."""
    return len(frame) // PART_BYTES + 1


def set_frame(pipeline: redis.client.Pipeline, key: str, frame: bytes, seconds: int | None) -> None:
    """Store a frame, for so many seconds or for ever."""
    for number in range(part_count(frame)):
        part = memoryview(frame)[number * PART_BYTES : (number + 1) * PART_BYTES]
        pipeline.set(_part(key, number), part, ex=seconds)


def get_frames(client: redis.Redis, names: Sequence[str]) -> list[bytes | None]:
    """The frames under these keys, None where there is none or a part of it is missing."""
    parts: list[list[bytes]] = [[] for _ in names]
    open_ones, number = list(range(len(names))), 0
    while open_ones:
        found = cast("list[bytes | None]", client.mget([_part(names[place], number) for place in open_ones]))
        for place, part in zip(open_ones, found, strict=True):
            parts[place] = [] if part is None else [*parts[place], part]
        open_ones = [place for place, part in zip(open_ones, found, strict=True) if part and len(part) == PART_BYTES]
        number += 1
    return [(part[0] if len(part) == 1 else b"".join(part)) if part else None for part in parts]


def keys_of_parts(client: redis.Redis, names: Sequence[str]) -> list[str]:
    """The keys of all parts of the frames under these keys."""
    found: list[str] = []
    number, left = 0, list(names)
    while left:
        parts = [_part(name, number) for name in left]
        with client.pipeline(transaction=False) as pipeline:
            for part in parts:
                pipeline.exists(part)
            there = pipeline.execute()
        found += [part for part, exists in zip(parts, there, strict=True) if exists]
        left = [name for name, exists in zip(left, there, strict=True) if exists]
        number += 1
    return found


def _part(key: str, number: int) -> str:
    return key if number == 0 else f"{key}:{number}"
