"""Brings back chunks whose message was lost: the manifest is the truth, the queue is a hint.

A message can vanish: with a worker killed between taking and recording it, with a Redis that lost its last second, with
a client killed between storing chunks and publishing them. A chunk is stranded when it is not committed, no worker
holds a lease on it, its last message is not fresh, and its lane is empty, so that it cannot be merely waiting. A wrong
guess costs one message, which the claim or the commit drops.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING

from fitq_shared.errors import ServerError
from fitq_shared.queue import LANES, client_app, publish
from fitq_shared.settings import Settings
from fitq_shared.store.stranded import StrandedChunks

if TYPE_CHECKING:
    from celery import Celery

INTERVAL_SECONDS = 5.0

_log = logging.getLogger(__name__)


def reconcile_until(stopped: threading.Event, settings: Settings) -> None:
    """Look for stranded chunks about every five seconds; a server that is away is asked again the next time."""
    stranded, app = StrandedChunks(settings), client_app(settings)
    # Several supervisors share a server: without the jitter they would all look at once and find the same chunks.
    while not stopped.wait(INTERVAL_SECONDS * random.uniform(0.5, 1.5)):
        try:
            reconcile(stranded, app)
        except ServerError as error:
            _log.warning("stranded chunks not looked for: %s", error)


def reconcile(stranded: StrandedChunks, app: Celery) -> int:
    """Send a new message for every stranded chunk and return how many there were."""
    empty = {lane for lane in LANES if stranded.message_count(lane) == 0}
    sent = 0
    for submission in stranded.unfinished():
        for chunk in stranded.unclaimed(submission):
            if chunk.lane in empty:
                stranded.note_message(submission, chunk)
                publish(app, chunk.lane, submission, [chunk.number])
                _log.warning("%s chunk %d: its message was lost, a new one is sent", submission, chunk.number)
                sent += 1
    return sent
