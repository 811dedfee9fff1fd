"""Which points of sample sets cannot be fitted: one rule for the readers, which say where such a point was read, and for
the engine, which calls the fit `invalid` or drops the point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Beyond this magnitude the squares that the loss sums may leave the range of float64.
MAX_MAGNITUDE = 1e150


def find_unfit(x: Floats, y: Floats, weights: Floats | None) -> NDArray[np.bool_]:
    """Which points make a fit invalid; all arrays are (N,), a missing value is NaN, no weights are ones.

    A point whose weight is 0 is no point, so its x and y may be anything.
    """
    bad = ~(_usable(x) & _usable(y))
    return bad if weights is None else ~(_usable(weights) & (weights >= 0.0)) | (bad & (weights != 0.0))


def _usable(values: Floats) -> NDArray[np.bool_]:
    return np.abs(values) <= MAX_MAGNITUDE
