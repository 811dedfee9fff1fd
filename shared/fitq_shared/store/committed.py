"""What is noted of a committed chunk: the attempt that counts, and digests of its frames, by which damage shows."""

from __future__ import annotations

import zlib
from typing import Literal, NamedTuple, TypeAlias

#: What a commit stores of a chunk. `kept` are the jobs of fits that may be wanted again.
Kind: TypeAlias = Literal["results", "traces", "kept"]
KINDS: tuple[Kind, ...] = ("results", "traces", "kept")


class CommittedFrames(NamedTuple):
    """The attempt whose frames are stored and a digest of each; the digest of a frame that there is not is empty.

    None where a version of fitq without such digests has stored it.
    """

    attempt: int
    results: str | None = None
    traces: str | None = None
    #: Of the jobs that are kept for a retry.
    kept: str | None = None

    def matches(self, kind: Kind, frame: bytes | None) -> bool:
        """Whether this is the frame of this kind that was committed."""
        expected: str | None = getattr(self, kind)
        return expected is None or digest(frame or b"") == expected


def digest(frame: bytes) -> str:
    """Length and CRC-32 of a frame: nobody is kept from forging one, but one that is cut, swapped or flipped is found."""
    return f"{len(frame)}-{zlib.crc32(frame):08x}" if frame else ""


def entry(attempt: int, results: bytes, traces: bytes, kept: bytes) -> str:
    """The text that `parse` reads."""
    return f"{attempt} {digest(results)} {digest(traces)} {digest(kept)}"


def parse(value: bytes) -> CommittedFrames:
    """A value of the hash of committed chunks.

    Raises:
        ValueError: it is none.
    """
    attempt, *digests = value.decode().split(" ")
    if len(digests) not in (0, 2, 3):
        raise ValueError(f"the entry of a committed chunk is {value!r}")
    return CommittedFrames(int(attempt), *digests)
