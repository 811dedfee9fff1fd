"""What to say of a sample set that cannot be computed with: its first bad point, where that was read, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitq_shared.jobs.points import MAX_MAGNITUDE, find_unfit
from fitq_worker.engine.samples.sets import SampleSets

_LEAST = {"weights": 0.0, "x": -MAX_MAGNITUDE, "y": -MAX_MAGNITUDE}
_LIMIT = f"{MAX_MAGNITUDE:g}".replace("+", "")
_MEND_IT = "mend it or give the point weight 0"
_DROP_IT = "mend it, give the point weight 0, or set missing to drop"


class BadValue(NamedTuple):
    """The first value of a sample set that no fit can be computed with."""

    name: str  # of its column
    position: int  # of its point, from 0
    value: float

    @property
    def missing(self) -> bool:
        """There is no value."""
        return bool(np.isnan(self.value))

    @property
    def reason(self) -> str:
        """What is wrong with it."""
        value = f"{self.name}[{self.position}]"
        if self.missing:
            return f"{value} is missing"
        if np.isinf(self.value):
            return f"{value} = {self.value:g} is not finite"
        wrong = f"beyond {_LIMIT}" if abs(self.value) > MAX_MAGNITUDE else "negative"
        return f"{value} = {self.value:g} is {wrong}"


def messages(sets: SampleSets, which: NDArray[np.int64], places: Sequence[str | None]) -> list[str]:
    """A message for each of the invalid sample sets `which`; `places` says where the first bad point of each was read.

    Raises:
        IndexError: all points of such a set are good.
    """
    return [_message(first_bad(sets, int(number)), place) for number, place in zip(which, places, strict=True)]


def first_bad(sets: SampleSets, number: int) -> BadValue:
    """The first bad value of sample set `number`: of its first bad point, the weight before x before y.

    Raises:
        IndexError: all points of the set are good.
    """
    points = slice(sets.offsets[number], sets.offsets[number + 1])
    columns = {"weights": None if sets.weights is None else sets.weights[points], "x": sets.x[points], "y": sets.y[points]}
    position = int(np.flatnonzero(find_unfit(sets.x[points], sets.y[points], columns["weights"]))[0])
    values = {name: float(column[position]) for name, column in columns.items() if column is not None}
    bad = next(name for name, value in values.items() if not _LEAST[name] <= value <= MAX_MAGNITUDE)
    return BadValue(bad, position, values[bad])


def _message(bad: BadValue, place: str | None) -> str:
    where = f" ({place})" if place else ""
    return f"{bad.reason}{where}; {_DROP_IT if bad.missing else _MEND_IT}"
