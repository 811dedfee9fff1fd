"""Hashes of job ids: 64 bits each, the same on every machine, worked out for a whole column at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq_shared.sampling import mixed

_WORD_BYTES = 8


def id_hashes(ids: pa.Array) -> NDArray[np.uint64]:
    """The hash of each string of a column without nulls, (n,): eight bytes at a time through SplitMix64's mixer."""
    offsets, text = _buffers(ids)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = mixed(lengths.astype(np.uint64))
    # Every eight bytes of the text as one number, wherever they begin.
    words: NDArray[np.uint64] = np.ndarray(len(text) - _WORD_BYTES + 1, np.dtype("<u8"), text.data, strides=(1,))
    for first in range(0, int(lengths.max(initial=0)), _WORD_BYTES):
        left = lengths - first
        rows = np.flatnonzero(left > 0)
        unused = (8 * np.maximum(_WORD_BYTES - left[rows], 0)).astype(np.uint64)
        hashes[rows] = mixed(hashes[rows] ^ (words[starts[rows] + first] << unused))
    return hashes


def _buffers(ids: pa.Array) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Where each string starts and the last one ends, and the bytes of all, with room for a word behind them."""
    strings = ids.cast(pa.large_string())
    _, offsets, text = strings.buffers()
    places = np.frombuffer(offsets, np.int64, len(ids) + 1, 8 * strings.offset) if len(ids) else np.zeros(1, np.int64)
    found = np.frombuffer(text or b"", np.uint8)
    return places, np.concatenate([found, np.zeros(_WORD_BYTES, np.uint8)])
