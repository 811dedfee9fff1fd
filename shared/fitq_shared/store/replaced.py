"""Which jobs of a chunk are fitted again, and in which later chunk: entries that are added when a retry begins.

They count once the later chunk is committed. A retry that was ended leaves entries of a chunk that never will be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ENTRY = np.dtype([("position", "<i8"), ("by", "<u4")])


def entries(positions: NDArray[np.int64], by: int) -> bytes:
    """Entries that say that chunk `by` has the jobs at these positions of the input."""
    found = np.empty(len(positions), _ENTRY)
    found["position"], found["by"] = positions, by
    return found.tobytes()


def parse(value: bytes) -> NDArray[Any]:
    """All entries of a chunk, with the fields `position` and `by`."""
    return np.frombuffer(value, _ENTRY)
