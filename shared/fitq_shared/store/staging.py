"""Frames on their way in: stored under a key of their own for a while, until a script makes them part of a submission."""

from __future__ import annotations

from typing import TypeAlias

from fitq_shared.errors import ServerUnreachable
from fitq_shared.masking import mask_url
from fitq_shared.settings import Settings

#: Frames whose chunk or commit was never completed are gone after this.
STAGED_SECONDS = 600

#: What redis-py takes as a hash field, its value or a script argument.
Field: TypeAlias = bytes | bytearray | memoryview | str | int | float


def check_staged(verdict: bytes, settings: Settings) -> None:
    """Return unless a script has found a part of a staged frame missing.

    Raises:
        ServerUnreachable: it has; everything can be tried again.
    """
    if verdict == b"missing":
        raise ServerUnreachable(f"Redis at {mask_url(settings.redis_url)} lost a frame on the way in; try again")
