"""The drain of a worker process: how long it may go on with its chunk once it is told to stop.

Celery's main process is told, and its pool's child fits. They share eight bytes of memory, which the child inherits and
looks at between blocks of steps: a signal would have to find the child, and could not tell how much time is left.
"""

from __future__ import annotations

import mmap
import os
import time

#: The variable that tells a worker process how many seconds its drain may take.
DRAIN_VARIABLE = "FITQ_WORKER_DRAIN_SECONDS"
#: A chunk takes about half a second, minutes where a single job is that large.
DRAIN_SECONDS = 60.0
#: A worker process that has not given its chunk back this long after its drain is killed, and the chunk counts as a death's.
GIVE_BACK_SECONDS = 10.0

# By the clock that all processes of a machine share; 0 while there is no drain.
_ends_at = memoryview(mmap.mmap(-1, 8)).cast("d")


def tell_to_stop() -> None:
    """Begin the drain; one that has begun ends now."""
    begun = _ends_at[0] > 0.0
    _ends_at[0] = time.monotonic() + (0.0 if begun else float(os.environ.get(DRAIN_VARIABLE, DRAIN_SECONDS)))


def drain_has_ended() -> bool:
    """Whether this process, or the one that forked it, was told to stop and has had its time."""
    return 0.0 < _ends_at[0] <= time.monotonic()
