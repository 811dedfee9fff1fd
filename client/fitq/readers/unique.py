"""Ids must be unique in a whole submission; checking takes 16 bytes a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitq_shared.errors import JobError
from fitq_shared.jobs.ids import id_hashes

Hashes = NDArray[np.uint64]


def unique(batches: Iterable[pa.RecordBatch], place: Callable[[int], str]) -> Iterator[pa.RecordBatch]:
    """The batches of JOB_SCHEMA as they come; `place` names the position of a job in the input, from 0.

    Ids are compared by 64-bit hashes: among ten million different ids the chance that any two are taken for one is
    3e-6, and the message that follows names both places.

    Raises:
        JobError: an id occurs twice; the text names both places.
    """
    seen = SeenHashes()
    for batch in batches:
        if (pair := seen.add(id_hashes(batch["id"]))) is not None:
            earlier, later = pair
            name = batch["id"][later - batch["index"][0].as_py()].as_py()
            rule = f"already used at {place(earlier)}; ids must differ"
            raise JobError(rule, field="id", value=name, place=place(later))
        yield batch


class SeenHashes:
    """The hashes so far: as they came, which gives places to them, and in sorted runs, which finds one again.

    A run is merged with the one before it until that one is at least twice as long, so that there are few runs and
    each hash is merged a few times.
    """

    def __init__(self) -> None:
        self._arrived: list[Hashes] = []
        self._runs: list[Hashes] = []

    def add(self, hashes: Hashes) -> tuple[int, int] | None:
        """Take in the hashes of the next jobs; returns the positions of the first two jobs that agree, if any do."""
        self._arrived.append(hashes)
        run = np.sort(hashes)
        repeated = np.concatenate([run[1:][run[1:] == run[:-1]], *(_common(run, older) for older in self._runs)])
        if len(repeated):
            return self._first_pair(repeated)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # which merges what is sorted already, twenty times as fast as sorting
        self._runs.append(run)
        return None

    def _first_pair(self, repeated: Hashes) -> tuple[int, int]:
        first: dict[int, int] = {}
        hashes = np.concatenate(self._arrived)
        for position in np.flatnonzero(np.isin(hashes, repeated)).tolist():
            if (earlier := first.setdefault(int(hashes[position]), position)) != position:
                return earlier, position
        raise AssertionError("a repeated hash occurs twice")


def _common(run: Hashes, older: Hashes) -> Hashes:
    """The hashes of `run` that `older` has too; both are sorted."""
    places = np.searchsorted(older, run)
    both: Hashes = run[older[np.minimum(places, len(older) - 1)] == run]
    return both
