"""Weighted medians of a batch, and the robust spread that they give."""

from __future__ import annotations

import torch
from torch import Tensor

from fitq_worker.engine.arithmetic import tree_sum

#: The median absolute deviation of a normal distribution, times this, is its standard deviation.
NORMAL_DEVIATIONS = 1.4826
#: Shares of the weight that differ by less are equal: that of half of the points comes out of a sum.
_SAME_SHARE = 1e-9


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """The median of (N, B) values over the first axis, (B,); weights are (N, B) with sum 1, 0 is no value.

    Where half of the weight lies below a gap it is the middle of it, as in numpy.median.
    """
    ordered, order = torch.where(weights > 0, values, torch.inf).sort(dim=0)
    share = weights.gather(0, order).cumsum(0)
    last = ((weights > 0).sum(0) - 1).clamp(min=0)
    lower, upper = (torch.minimum((mask).sum(0), last) for mask in (share < 0.5 - _SAME_SHARE, share <= 0.5 + _SAME_SHARE))
    both = ordered.gather(0, torch.stack([lower, upper]))
    return torch.where(weights.sum(0) > 0, 0.5 * both[0] + 0.5 * both[1], 0.0)


def spread_around(centre: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Robust standard deviation, (B,): the normalised median absolute deviation from `centre`, (B,)."""
    return NORMAL_DEVIATIONS * weighted_median((values - centre).abs(), weights)


def robust_unit(y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Median and spread of y, (B,) each; a spread that is 0 is followed by ever less robust ones, the last is 1."""
    median = weighted_median(y, weights)
    deviation = torch.where(weights > 0, y - median, 0.0).abs()
    candidates = [spread_around(median, y, weights), tree_sum(weights * deviation), median.abs()]
    unit = torch.ones_like(median)
    for candidate in reversed(candidates):
        unit = torch.where(candidate > 0, candidate, unit)
    return median, unit
