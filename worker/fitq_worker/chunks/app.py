"""The Celery app of one worker process: `celery -A fitq_worker.chunks.app worker`.

It imports no torch: the pool's child does.
"""

from __future__ import annotations

from fitq_shared.queue import worker_app
from fitq_shared.settings import Settings
from fitq_worker.fleet.supervision import die_with_supervisor

die_with_supervisor()
app = worker_app(
    Settings.from_environment(), "fitq_worker.chunks.delivery:Transport", "fitq_worker.chunks.remote_control:Control"
)
