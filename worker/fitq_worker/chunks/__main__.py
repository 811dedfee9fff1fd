"""A worker process, started without Celery's command line, which takes as long to import as everything else here.

`python -m fitq_worker.chunks NODE`; otherwise as `celery --quiet --app fitq_worker.chunks.app worker --hostname NODE`.
"""

from __future__ import annotations

import sys

from celery.utils.nodenames import default_nodename, host_format

from fitq_worker.chunks.app import app

if __name__ == "__main__":
    worker = app.Worker(
        hostname=host_format(default_nodename(sys.argv[1])), quiet=True, without_gossip=True, without_mingle=True
    )
    worker.start()
    sys.exit(worker.exitcode)
