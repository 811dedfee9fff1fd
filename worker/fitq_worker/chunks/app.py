"""The Celery app of one worker process: `celery -A fitq_worker.chunks.app worker`.

It imports no torch: the pool's child does.
"""

from __future__ import annotations

from celery.worker.control import Panel

from fitq_shared.queue import worker_app
from fitq_shared.settings import Settings
from fitq_worker.chunks.remote_control import restrict
from fitq_worker.fleet.supervision import die_with_supervisor

die_with_supervisor()
app = worker_app(
    Settings.from_environment(), "fitq_worker.chunks.delivery:Transport", "fitq_worker.chunks.remote_control:Control"
)
# Whoever may write to the broker could end workers otherwise, let them write files, or have them run more processes.
Panel.data = restrict(Panel.data)
