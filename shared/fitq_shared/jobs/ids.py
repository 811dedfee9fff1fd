"""Hashes of job ids: 64 bits each, the same on every machine, worked out for a whole column at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq_shared.jobs.sampling import mix

#: Buckets of an index from ids to chunks.
BUCKETS = 256
_BUCKET_SHIFT, _LOWER = np.uint64(56), np.uint64(0xFFFFFFFF)
_ENTRY = np.dtype([("hash", "<u4"), ("chunk", "<u4")])
_WORD_BYTES = 8


def id_hashes(ids: pa.Array) -> NDArray[np.uint64]:
    """The hash of each string of a column without nulls, (n,): eight bytes at a time through SplitMix64's mixer."""
    offsets, text = _buffers(ids)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = mix(lengths.astype(np.uint64))
    # Every eight bytes of the text as one number, wherever they begin.
    words: NDArray[np.uint64] = np.ndarray(len(text) - _WORD_BYTES + 1, np.dtype("<u8"), text.data, strides=(1,))
    for first in range(0, int(lengths.max(initial=0)), _WORD_BYTES):
        left = lengths - first
        rows = np.flatnonzero(left > 0)
        unused = (8 * np.maximum(_WORD_BYTES - left[rows], 0)).astype(np.uint64)
        hashes[rows] = mix(hashes[rows] ^ (words[starts[rows] + first] << unused))
    return hashes


def _buffers(ids: pa.Array) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Where each string starts and the last one ends, and the bytes of all, with room for a word behind them."""
    strings = ids.cast(pa.large_string())
    _, offsets, text = strings.buffers()
    places = np.frombuffer(offsets, np.int64, len(ids) + 1, 8 * strings.offset) if len(ids) else np.zeros(1, np.int64)
    found = np.frombuffer(text or b"", np.uint8)
    return places, np.concatenate([found, np.zeros(_WORD_BYTES, np.uint8)])


def bucket_ids(hashes: NDArray[np.uint64], chunk: int) -> list[tuple[int, bytes]]:
    """Entries of an index from ids to chunks, by bucket: the upper 8 bits of a hash choose it.

    An entry is 8 bytes: the lower 32 bits of the hash and the number of the chunk.
    """
    ordered = np.sort(hashes)
    entries = np.empty(len(ordered), _ENTRY)
    entries["hash"], entries["chunk"] = ordered & _LOWER, chunk
    ends = np.searchsorted(ordered >> _BUCKET_SHIFT, np.arange(BUCKETS, dtype=np.uint64), side="right").tolist()
    starts = [0, *ends[:-1]]
    return [
        (n, entries[start:end].tobytes()) for n, (start, end) in enumerate(zip(starts, ends, strict=True)) if start < end
    ]


def bucket_of(name: str) -> int:
    """The bucket of an id."""
    return int(_hash(name) >> _BUCKET_SHIFT)


def chunks_in(bucket: bytes, name: str) -> list[int]:
    """Chunks that may have the job of this id: the right one, where there is one, and by chance others."""
    entries = np.frombuffer(bucket, _ENTRY)
    found: list[int] = np.unique(entries["chunk"][entries["hash"] == (_hash(name) & _LOWER)]).tolist()
    return found


def _hash(name: str) -> np.uint64:
    return np.uint64(id_hashes(pa.array([name], pa.string()))[0])
