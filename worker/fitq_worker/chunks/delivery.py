"""Deliveries: Celery gets to see only messages that were written here, from the two numbers of those that came.

Celery and kombu believe what a message says of itself. One that is not as they expect ends the process, is delivered again,
and ends the next one; others name tasks to run or times to wait. Of what lies in a lane only the submission and the chunk
are read. All else is written anew, and what has no submission and chunk goes to the dead letters.
"""

from __future__ import annotations

import base64
import binascii
import functools
import logging
import uuid
from collections.abc import Mapping
from queue import Empty
from typing import Any

import msgspec
from kombu.transport import redis

from fitq_shared.errors import FitqError
from fitq_shared.queue import FIT_CHUNK, LANES
from fitq_shared.settings import Settings
from fitq_shared.store.dead_letters import DeadLetters
from fitq_shared.store.keys import is_submission_id

#: Numbers of chunks are below this.
MAX_CHUNK = 2**31

#: Those of Celery's remote control that only look, and those with which Flower asks for events.
HARMLESS_COMMANDS = {
    "ping", "hello", "clock", "stats", "active", "reserved", "scheduled", "revoked", "registered", "active_queues",
    "query_task", "enable_events", "disable_events", "heartbeat",
}  # fmt: skip

_log = logging.getLogger(__name__)


def read_message(message: object) -> tuple[str, int] | None:
    """The submission and the chunk of a message as `queue.publish` sends it; None for anything else."""
    try:
        if not isinstance(message, dict) or message["headers"]["task"] != FIT_CHUNK:
            return None
        (submission, chunk), _, _ = msgspec.json.decode(base64.b64decode(message["body"], validate=True))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, binascii.Error, msgspec.DecodeError):
        return None
    if not isinstance(submission, str) or not is_submission_id(submission):
        return None
    return (submission, chunk) if type(chunk) is int and 0 <= chunk < MAX_CHUNK else None


def write_message(lane: str, submission: str, chunk: int) -> dict[str, Any]:
    """A message to fit this chunk, of version 2 of Celery's protocol, as kombu's virtual transports hold it."""
    task = str(uuid.uuid4())
    alone = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    headers = {
        "lang": "py", "task": FIT_CHUNK, "id": task, "root_id": task, "parent_id": None, "group": None, "retries": 0,
        "timelimit": [None, None], "eta": None, "expires": None, "argsrepr": repr((submission, chunk)), "kwargsrepr": "{}",
        "origin": "", "ignore_result": True,
    }  # fmt: skip
    properties = {
        "correlation_id": task, "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": lane}, "priority": 0,
        "body_encoding": "base64", "delivery_tag": str(uuid.uuid4()),
    }  # fmt: skip
    body = base64.b64encode(msgspec.json.encode([[submission, chunk], {}, alone])).decode()
    kind = {"content-type": "application/json", "content-encoding": "utf-8"}
    return {"body": body, **kind, "headers": headers, "properties": properties}


# kombu offers no other place between a message and Celery than these two methods, which begin with an underscore. Its
# version is pinned to one minor release, and tests push hostile messages through a live worker.


class Channel(redis.Channel):
    """kombu's channel; what is no JSON goes to the dead letters."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # kombu is only partly typed
        except (ValueError, RecursionError) as error:
            # Errors of decoding carry what could not be decoded.
            text = getattr(error, "doc", None) or getattr(error, "object", b"") or str(error)
            _bury("?", text if isinstance(text, bytes) else text.encode(errors="replace"))
            raise Empty from None


class Transport(redis.Transport):
    """kombu's transport; what comes out of a lane is written anew."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if queue in LANES:
            found = read_message(message)
            if found is None:
                _bury(queue, _text_of(message))
            else:
                super()._deliver(write_message(queue, *found), queue)  # type: ignore[no-untyped-call]
            return
        try:  # remote control and the like, which Celery looks at with care once it is a message at all
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except (KeyError, TypeError, ValueError, AttributeError):
            _log.warning("something that is no message came for %s and is dropped", queue)


def restrict_remote_control(commands: Mapping[str, Any]) -> dict[str, Any]:
    """The commands of Celery's remote control that are harmless."""
    return {name: commands[name] for name in commands if name in HARMLESS_COMMANDS}


def _bury(lane: str, letter: bytes) -> None:
    """Keep a dead letter where the server lets us; a chunk whose message it was gets a new one from the reconciler."""
    _log.warning("lane %s: no message of fitq, now a dead letter: %.80r", lane, letter)
    try:
        _dead_letters().bury(lane, letter)
    except FitqError as error:
        _log.warning("a dead letter could not be kept: %s", error)


@functools.cache
def _dead_letters() -> DeadLetters:
    return DeadLetters(Settings.from_environment())


def _text_of(message: object) -> bytes:
    try:
        return msgspec.json.encode(message)
    except (TypeError, ValueError, RecursionError):
        return repr(message)[:1000].encode(errors="replace")
