"""What a client stores of a chunk: its frames, their positions in the input, and what identifies and finds its jobs."""

from __future__ import annotations

import hashlib
import itertools
from typing import NamedTuple

import numpy as np

from fitq_shared.jobs.frames import encode
from fitq_shared.jobs.ids import bucket_ids, id_hashes
from fitq_shared.jobs.rows import Rows

_DIGEST_CHARACTERS = 16


class Payload(NamedTuple):
    """A chunk on its way to the store; frames are encoded."""

    chunk: int
    jobs_frame: bytes
    job_count: int
    #: Smallest and largest position in the input.
    first: int
    last: int
    #: `id_hashes` of the jobs, 8 bytes each.
    id_hashes: bytes = b""
    sets_frame: bytes | None = None

    @property
    def digest(self) -> str:
        """Digest of all that is fitted: equal for equal jobs."""
        return _digest(self.jobs_frame, self.sets_frame or b"")

    @property
    def sets_digest(self) -> str:
        """The name under which these sample sets are stored, once for all chunks that share them; empty without any."""
        return "" if self.sets_frame is None else _digest(self.sets_frame)

    @property
    def entry(self) -> str:
        """What the index says of the chunk, as `indexed_chunk` in reader.py reads it."""
        return f"{self.first} {self.last} {self.job_count} {self.digest} {self.sets_digest}"

    def id_entries(self) -> list[int | bytes]:
        """Buckets of the index of ids and what the jobs add to each, in turn."""
        return list(itertools.chain(*bucket_ids(np.frombuffer(self.id_hashes, np.uint64), self.chunk)))

    @property
    def size(self) -> int:
        """Bytes of the frames."""
        return len(self.jobs_frame) + len(self.sets_frame or b"")


def payload_of(chunk: int, rows: Rows) -> Payload:
    """The payload of chunk number `chunk`; it has at least one job."""
    positions = rows.jobs["index"].to_numpy()
    sets = None if rows.sets is None else encode(rows.sets)
    hashes = id_hashes(rows.jobs["id"]).tobytes()
    return Payload(chunk, encode(rows.jobs), len(positions), int(positions.min()), int(positions.max()), hashes, sets)


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:_DIGEST_CHARACTERS]
