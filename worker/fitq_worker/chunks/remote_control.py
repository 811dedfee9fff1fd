"""Celery's remote control, as far as it only looks: what else anybody may send over the broker changes nothing."""

from __future__ import annotations

import logging
from typing import Any

from celery.app import control
from kombu import pidbox

#: Commands that only look, and those with which Flower asks for events.
HARMLESS_COMMANDS = {
    "ping", "clock", "stats", "active", "reserved", "scheduled", "revoked", "registered", "active_queues", "query_task",
    "enable_events", "disable_events", "heartbeat",
}  # fmt: skip

_log = logging.getLogger(__name__)


class Node(pidbox.Node):
    """One who is told, and knows only harmless commands: others end workers, write files or start processes.

    A command that cannot be followed is dropped; Celery would connect anew. That stops a worker for good once a child was
    forked: the child keeps the former connection open, epoll goes on to report it under the number that the new one has
    got, and Celery waits on the new one for what never comes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # kombu is only partly typed
        self.handlers = {name: follow for name, follow in (self.handlers or {}).items() if name in HARMLESS_COMMANDS}

    def handle_message(self, body: Any, message: Any = None) -> Any:
        """Follow a command where that is possible."""
        try:
            return super().handle_message(body, message)  # type: ignore[no-untyped-call]  # kombu is only partly typed
        except Exception as error:
            _log.warning("remote control: a command is dropped (%s)", type(error).__name__)


class Mailbox(pidbox.Mailbox):
    """kombu's mailbox with this node."""

    node_cls = Node


class Control(control.Control):  # type: ignore[misc]  # Celery has no types
    """Celery's remote control with this mailbox."""

    Mailbox = Mailbox
