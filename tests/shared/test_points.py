"""Which points no fit can be computed with."""

import numpy as np
import pytest

from fitq_shared.points import unfit

NO_NUMBERS = [np.nan, np.inf, -np.inf, 1.1e150, -1e300]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_no_number_in_x_or_y_is_unfit_unless_its_weight_is_0(value: float) -> None:
    """Whatever the other columns are."""
    sick, whole, weights = np.array([value, 1.0, value]), np.ones(3), np.array([1.0, 1.0, 0.0])

    for x, y in ((sick, whole), (whole, sick), (sick, sick)):
        assert unfit(x, y, None).tolist() == [True, False, True]
        assert unfit(x, y, weights).tolist() == [True, False, False]


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1.0, -5e-324])
def test_a_weight_must_be_a_number_from_0_up(value: float) -> None:
    """A negative one has no meaning in a mean of squares."""
    weights = np.array([1.0, value, 0.0, -0.0, 1e150])

    assert unfit(np.ones(5), np.ones(5), weights).tolist() == [False, True, False, False, False]
