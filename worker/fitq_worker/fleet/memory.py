"""How much memory a worker process may use: an allocation beyond it fails, where without a limit the system kills.

An allocation that fails costs one job its fit; a process that is killed costs a minute of everybody's time, and on a
machine without swap the system may kill something else.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

#: The variable that tells a worker process how many bytes it may use; 0 is no limit.
MEMORY_VARIABLE = "FITQ_WORKER_MEMORY_BYTES"
#: What torch takes before the first fit, and room for a fit of moderate size: no process gets less.
LEAST_BYTES = 1 << 30
#: What is left to the system, the supervisor and Celery's own processes, as a share.
RESERVE = 0.1

#: Where Linux tells what a container may use, control groups of version 2 and 1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def usable_bytes() -> int:
    """Memory of the machine, or that of the container where it has a limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for path in _LIMITS if (text := _read(path)).isdigit()]
    return min([machine, *limits])


def share_of(processes: int) -> int:
    """What each of so many processes may use."""
    return max(LEAST_BYTES, int(usable_bytes() * (1.0 - RESERVE)) // processes)


def limit_memory() -> None:
    """Hold this process to what MEMORY_VARIABLE says."""
    if limit := int(os.environ.get(MEMORY_VARIABLE, "0")):
        # Data, not address space: CUDA and mapped files reserve addresses far beyond what they use.
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
