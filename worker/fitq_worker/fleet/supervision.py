"""Ties a worker process to the supervisor that started it, so that none is left behind when the supervisor is killed."""

from __future__ import annotations

import os
import sys

from celery.platforms import set_pdeathsig

#: Names the process id of the supervisor.
SUPERVISOR_VARIABLE = "FITQ_WORKER_SUPERVISOR"


def die_with_supervisor() -> None:
    """Have Linux kill this process when its supervisor ends, or end now where it has ended already.

    Celery ties the pool's child to this process in the same way. Without a supervisor nothing happens.
    """
    # Removed, because the pool's child inherits the environment and has another parent.
    supervisor = os.environ.pop(SUPERVISOR_VARIABLE, None)
    if supervisor is None:
        return
    set_pdeathsig("SIGKILL")
    if os.getppid() != int(supervisor):
        sys.exit("the supervisor is gone")
