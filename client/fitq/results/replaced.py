"""Rows that the results of a later retry have replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from fitq.outages import ride_out
from fitq_shared.store.reader import CommittedChunk, Reader
from fitq_shared.store.replaced import parse


class ReplacedRows:
    """Drops rows that later chunks have replaced, as far as their commits were noted."""

    def __init__(self, store: Reader, submission: str) -> None:
        self._store, self._submission = store, submission
        self._later: defaultdict[int, set[int]] = defaultdict(set)

    def note(self, commits: Iterable[CommittedChunk]) -> None:
        """Learn of commits; most are no retries."""
        for commit in commits:
            for earlier in commit.replaces:
                self._later[earlier].add(commit.number)

    def drop(self, chunk: int, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch of this chunk that are not replaced."""
        if chunk not in self._later:
            return batch
        (value,) = ride_out(lambda: self._store.replaced(self._submission, [chunk]))
        entries = parse(value)
        positions = entries["position"][np.isin(entries["by"], list(self._later[chunk]))]
        return batch.filter(pa.array(~np.isin(batch["index"].to_numpy(), positions)))
