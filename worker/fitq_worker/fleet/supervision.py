"""Ties a worker process to the supervisor that started it, so that none is left behind when the supervisor is killed."""

from __future__ import annotations

import os
import sys

from celery.platforms import set_pdeathsig

#: Holds the process id of the supervisor.
SUPERVISOR_VARIABLE = "FITQ_WORKER_SUPERVISOR"


def die_with_supervisor() -> None:
    """Have Linux kill this process when its supervisor ends; end at once when that has already happened.

    Celery ties the pool's child to this process in the same way. Does nothing in a process without a supervisor.
    """
    # Popped because the pool's child, whose parent is another one, inherits what is left.
    supervisor = os.environ.pop(SUPERVISOR_VARIABLE, None)
    if supervisor is None:
        return
    set_pdeathsig("SIGKILL")
    if os.getppid() != int(supervisor):
        sys.exit("the supervisor is gone")
