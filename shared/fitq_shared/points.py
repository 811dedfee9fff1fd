"""Which points of sample sets cannot be fitted: one rule for the readers, which say where such a point was read, and the
engine, which calls the fit `invalid` or drops the point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Numbers beyond it overflow when they are squared and summed.
MAX_MAGNITUDE = 1e150


def unfit(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.bool_]:
    """Which points cannot be fitted, for arrays of the same shape, in which NaN is missing; None weighs every point 1.

    These are points whose weight is missing, negative, infinite or beyond MAX_MAGNITUDE, and points of another weight
    than 0 whose x or y is missing, infinite or beyond it. A point of weight 0 is no point, whatever its x and y are.
    """
    # Comparing with NaN gives False, so that each condition says what is fine.
    fine = (np.abs(x) <= MAX_MAGNITUDE) & (np.abs(y) <= MAX_MAGNITUDE)
    if weights is not None:
        fine = (weights == 0) | (fine & (weights > 0) & (weights <= MAX_MAGNITUDE))
    unfit: NDArray[np.bool_] = ~fine
    return unfit
