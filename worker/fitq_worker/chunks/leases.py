"""Leases: a worker keeps its claims for as long as its process lives and its fits go on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from fitq_shared.errors import ClaimLost, DrainEnded, ServerError
from fitq_shared.store.fitting import FittingStore
from fitq_worker.fleet.drain import drain_has_ended

#: Fits that have not gone on for this long hang; the process ends with this status, and the chunk runs again.
STALL_SECONDS, STALLED_STATUS = 600.0, 75

_log = logging.getLogger(__name__)


class Claimed(Protocol):
    """What a lease is held on."""

    @property
    def submission(self) -> str:
        """Id of its submission."""

    @property
    def number(self) -> int:
        """Its number in the submission."""


class Leases:
    """The leases of `worker` on the chunks it fits together; a lease that is lost is not renewed again.

    In a `with` block a thread renews them, so that a step that takes long does not look like a death.
    """

    def __init__(self, store: FittingStore, worker: str, chunks: Iterable[Claimed]) -> None:
        self._store, self._worker, self._held = store, worker, list(chunks)
        self._went_on = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_ended, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Note that the fits go on; to be called often.

        Raises:
            ClaimLost: no claim is left.
            DrainEnded: the claims are to be given back.
        """
        self._went_on = time.monotonic()
        if not self._held:
            raise ClaimLost("the claim was lost: the submission was deleted, or this worker was taken for dead")
        if drain_has_ended():
            raise DrainEnded("the worker stops, and another one fits this chunk")

    def give_back(self) -> None:
        """End the claims without results; a server that is away keeps them until they run out."""
        try:
            for chunk in self._held:
                self._store.give_back(chunk.submission, chunk.number, self._worker)
        except ServerError as error:
            _log.warning("claims not given back: %s", error)

    def renew(self) -> None:
        """Keep the claims for another lease, as far as they are still ours."""
        try:
            self._held = [chunk for chunk in self._held if self._store.renew(chunk.submission, chunk.number, self._worker)]
        except ServerError as error:
            _log.warning("claims not renewed: %s", error)

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._store.settings.lease_seconds / 3):
            if time.monotonic() - self._went_on > STALL_SECONDS:
                _log.critical("the fits have not gone on for %.0f s, this process ends", STALL_SECONDS)
                os._exit(STALLED_STATUS)
            try:
                self.renew()
            except Exception:  # whatever it is, the claims are tried again
                _log.exception("claims not renewed")
