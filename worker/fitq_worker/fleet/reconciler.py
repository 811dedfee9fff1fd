"""Brings back chunks whose message was lost: the manifest is the truth, the queue is a hint.

A message can vanish: with a worker killed between taking and recording it, with a Redis that lost its last second, with
a client killed between storing chunks and publishing them. A chunk is stranded when it is not committed, no worker
holds a lease on it, its last message is not fresh, and it cannot be merely waiting: its lane is empty, or younger
messages were taken from it. A wrong guess costs one message, which the claim or the commit drops.

The same loop deletes submissions whose time to live is over.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING

from fitq_shared.errors import AccessDenied, ServerError, SubmissionDamaged
from fitq_shared.queue import LANES, client_app, publish
from fitq_shared.settings import Settings
from fitq_shared.store.stranded import StrandedChunks, WaitingChunk
from fitq_shared.store.submitting import SubmittingStore

if TYPE_CHECKING:
    from celery import Celery

INTERVAL_SECONDS = 3.0

_log = logging.getLogger(__name__)


class Reconciler(threading.Thread):
    """The thread that reconciles about every INTERVAL_SECONDS until `stop`; `failure` is why it ended by itself.

    It outlives every error but that of a server that does not let us in, which nobody can work with.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="reconciler", daemon=True)
        self.failure: BaseException | None = None
        self._settings, self._stopped = settings, threading.Event()

    def stop(self) -> None:
        """End soon."""
        self._stopped.set()

    def run(self) -> None:
        """As `threading.Thread.run`."""
        try:
            self._reconcile_until_stopped()
        except BaseException as error:
            self.failure = error

    def _reconcile_until_stopped(self) -> None:
        stranded, store = StrandedChunks(self._settings), SubmittingStore(self._settings)
        app, pause = client_app(self._settings), 0.0
        while not self._stopped.wait(pause):
            try:
                store.delete_expired()
                reconcile(stranded, app)
            except AccessDenied:
                raise
            except ServerError as error:
                _log.warning("stranded chunks not looked for: %s", error)
            except Exception:
                _log.exception("stranded chunks not looked for")
            # Several supervisors share a server: without the jitter all would look at once and find the same chunks.
            pause = INTERVAL_SECONDS * random.uniform(0.5, 1.5)


def reconcile(stranded: StrandedChunks, app: Celery) -> int:
    """Send a new message for every stranded chunk and return how many there were."""
    overtaken = {lane: stranded.overtaken(lane) for lane in LANES}
    sent = 0
    for submission in stranded.unfinished():
        for chunk in _unclaimed(stranded, submission):
            if chunk.sent_at < overtaken.get(chunk.lane, 0.0):
                stranded.note_message(submission, chunk)
                publish(app, chunk.lane, submission, [chunk.number])
                _log.warning("%s chunk %d: its message was lost, a new one is sent", submission, chunk.number)
                sent += 1
    return sent


def _unclaimed(stranded: StrandedChunks, submission: str) -> list[WaitingChunk]:
    """As the store has it; none where nobody can tell, so that other submissions are looked after."""
    try:
        return stranded.unclaimed(submission)
    except SubmissionDamaged as error:
        _log.warning("stranded chunks not looked for: %s", error)
        return []
