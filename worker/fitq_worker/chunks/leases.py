"""Leases: a worker keeps its claims while it fits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Protocol

from fitq_shared.errors import ClaimLost, ServerError
from fitq_shared.store.fitting import FittingStore

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
    """The leases of `worker` on the chunks it fits together; a lease that is lost is not renewed again."""

    def __init__(self, store: FittingStore, worker: str, chunks: Iterable[Claimed]) -> None:
        self._store, self._worker, self._held = store, worker, list(chunks)
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Keep the claims; to be called often, and sends a command for each only every third of a lease.

        Raises:
            ClaimLost: none is left.
        """
        if time.monotonic() - self._renewed < self._store.settings.lease_seconds / 3:
            return
        try:
            self._held = [chunk for chunk in self._held if self._store.renew(chunk.submission, chunk.number, self._worker)]
        except ServerError as error:
            _log.warning("claims not renewed: %s", error)
        if not self._held:
            raise ClaimLost("the claim was lost: the submission was deleted, or this worker was taken for dead")
        self._renewed = time.monotonic()
