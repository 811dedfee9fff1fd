"""Deliveries: Celery gets to see only messages that were written here, from the two numbers of those that came.

Celery and kombu believe what a message says of itself. One that is not as they expect ends the process, is delivered again,
and ends the next one; others name tasks to run or times to wait. Of what lies in a lane only the submission and the chunk
are read, before kombu looks at it. All else is written anew, and what has no submission and chunk goes to the dead letters.
"""

from __future__ import annotations

import base64
import functools
import logging
import uuid
from collections.abc import Callable
from queue import Empty
from typing import Annotated, Any, Literal

import msgspec
from kombu.transport import redis, virtual

from fitq_shared.errors import FitqError
from fitq_shared.queue import FIT_CHUNK, LANES
from fitq_shared.settings import Settings
from fitq_shared.store.dead_letters import DeadLetters
from fitq_shared.store.keys import is_submission_id

#: Numbers of chunks are below this.
MAX_CHUNK = 2**31
#: A message of ours has about one; what is longer is not even looked at.
MAX_MESSAGE_KIB = 64

_log = logging.getLogger(__name__)


class _Headers(msgspec.Struct):
    task: Literal["fitq.fit_chunk"]


class _Message(msgspec.Struct):
    headers: _Headers
    body: bytes  # base64 in JSON


class _FollowUps(msgspec.Struct):
    """What Celery would do after the task: nothing."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_Arguments = tuple[tuple[str, Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHUNK)]], dict[str, Any], _FollowUps]
#: A message that a worker has taken and not acknowledged, as kombu records it: with exchange and routing key.
_Delivery = tuple[msgspec.Raw, Literal[""], str]


def read_message(text: bytes) -> tuple[str, int] | None:
    """The submission and the chunk of a message as `queue.publish` sends it; None for anything else."""
    if len(text) > MAX_MESSAGE_KIB << 10:
        return None
    try:
        body = msgspec.json.decode(text, type=_Message).body
        (submission, chunk), _, _ = msgspec.json.decode(body, type=_Arguments)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return (submission, chunk) if is_submission_id(submission) else None


def read_delivery(text: bytes) -> tuple[str, str, int] | None:
    """The lane, the submission and the chunk of a message that was taken; None for anything else."""
    try:
        message, _, lane = msgspec.json.decode(text, type=_Delivery)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = read_message(bytes(message))
    return (lane, *found) if found is not None and lane in LANES else None


def write_message(lane: str, submission: str, chunk: int) -> bytes:
    """A message to fit this chunk, of version 2 of Celery's protocol, as kombu's virtual transports keep it."""
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
    return msgspec.json.encode({"body": body, **kind, "headers": headers, "properties": properties})


class Message(virtual.Message):
    """kombu's message; one that would have to be unpacked, to nobody knows what size, is refused."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        if "compression" in payload["headers"]:
            raise ValueError("a compressed message")
        super().__init__(payload, channel, **kwargs)  # type: ignore[no-untyped-call]  # kombu is only partly typed


class QoS(redis.QoS):
    """kombu's record of the messages that are taken."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give a message back: to the end of its lane from which messages are taken, for it has waited before.

        An entry that is no message goes to the dead letters.
        """
        with self.channel.conn_or_acquire(client) as client, client.pipeline() as pipeline:
            entry = client.hget(self.unacked_key, tag)
            found = None if entry is None else read_delivery(entry)
            pipeline.zrem(self.unacked_index_key, tag)
            pipeline.hdel(self.unacked_key, tag)
            if found is not None:
                pipeline.rpush(found[0], write_message(*found))
            pipeline.execute()
        if entry is not None and found is None:
            _bury("unacked", entry)


class Channel(redis.Channel):
    """kombu's channel; what comes out of a lane is written anew."""

    Message, QoS = Message, QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.handlers["LISTEN"] = functools.partial(self._listen_on, self.handlers["LISTEN"])

    @functools.cached_property
    def client(self) -> Any:
        """The client that takes messages; what it takes has been through `_admit` when kombu gets to see it."""
        client = super().client
        client.set_response_callback("BRPOP", _admit)
        return client

    @functools.cached_property
    def subclient(self) -> Any:
        """The client that hears remote control. Fits must not wait for it: it never waits for what is not there yet."""
        client = super().subclient
        client.parse_response = functools.partial(client.parse_response, block=False)
        return client

    def _listen_on(self, receive: Callable[[], Any]) -> Any:
        """Receive remote control; what Celery cannot make a message of is dropped."""
        try:
            return receive()
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            _log.warning("remote control: something that is no message is dropped (%s)", type(error).__name__)
            raise Empty from None


class Transport(redis.Transport):
    """kombu's transport with this channel."""

    Channel = Channel


def _admit(answer: Any, **_options: Any) -> tuple[bytes, bytes] | None:
    """The key of a lane and the message of a server's answer, written anew; None where there is none of ours."""
    if not answer:
        return None
    key, text = answer
    lane = next((lane for lane in LANES if key.endswith(lane.encode())), None)
    if lane is None:  # what Flower, which has this transport too, is answered by workers
        return key, text
    found = read_message(text)
    if found is None:
        _bury(lane, text)
        return None
    return key, write_message(lane, *found)


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
