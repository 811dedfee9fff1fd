"""Whether the engine computes what it promises on a device: fits with certified answers, and how many digits agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fitq_shared.errors import DeviceError
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.job import FitJob
from fitq_worker.verify.certified import CertifiedSet

#: Correct digits that every exact coefficient must have: what float64 allows on data of this difficulty.
EXACT_DIGITS = {
    "Wampler1": 9,
    "Wampler2": 12,
    "Wampler3": 9,
    "Wampler4": 9,
    "Wampler5": 8,
    "Norris": 12,
    "Pontius": 12,
    "Filip": 13,
}
#: Correct digits that every standard error must have.
STDERR_DIGITS = 8
#: How far the R squared of a descent with default hyperparameters may be from the certified one.
R2_TOLERANCE = 1e-5
#: NIST gives 15 digits; more cannot be told.
MAX_DIGITS = 15


class Check(NamedTuple):
    """One certified data set fitted on one device."""

    data_set: str
    device: str
    degree: int
    points: int
    exact_digits: float
    exact_digits_required: int
    #: None where the certified standard errors are 0: no digit of zero is correct or wrong.
    stderr_digits: float | None
    stderr_digits_required: int
    r2_certified: float
    #: Of NAdam in the orthogonal basis; None where the fit failed.
    r2: float | None
    r2_difference: float | None
    r2_tolerance: float

    @property
    def missed(self) -> list[str]:
        """The requirements that are not met, of `exact`, `stderr` and `r2`."""
        met = {
            "exact": self.exact_digits >= self.exact_digits_required,
            "stderr": self.stderr_digits is None or self.stderr_digits >= self.stderr_digits_required,
            "r2": self.r2_difference is not None and abs(self.r2_difference) <= self.r2_tolerance,
        }
        return [name for name, is_met in met.items() if not is_met]

    def document(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {**self._asdict(), "missed": self.missed, "ok": not self.missed}


def verify(data_sets: Iterable[CertifiedSet], device: str) -> list[Check]:
    """Fit each data set on `device`, "cpu" or "cuda:N", and compare.

    Raises:
        DeviceError: torch cannot compute on the device.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except Exception as error:  # torch has a class for every way in which a device can be missing or broken
        raise DeviceError(f"torch cannot use {device}: {error}; is this torch built for it?") from None
    return [_check(data, device) for data in data_sets]


def correct_digits(values: Sequence[float] | None, certified: Sequence[float]) -> float:
    """The log relative error, -log10 |value / certified - 1|, of the worst value: from 0 to MAX_DIGITS.

    0 where there are no values; no certified value may be 0.
    """
    if values is None:
        return 0.0
    error = max(abs(value - truth) / abs(truth) for value, truth in zip(values, certified, strict=True))
    return max(0.0, -math.log10(max(error, 10.0**-MAX_DIGITS)))


def _check(data: CertifiedSet, device: str) -> Check:
    from fitq_worker.engine import fit

    job = FitJob(id=data.name, x=data.x, y=data.y, degree=data.degree, basis="orthogonal", optimizer="nadam").checked()
    result: dict[str, Any] = fit(jobs_batch([job]), device).results.to_pylist()[0]
    return Check(
        data_set=data.name,
        device=result["device"],
        degree=data.degree,
        points=len(data.x),
        exact_digits=correct_digits(_lowest_first(result["exact_coefficients"]), data.coefficients),
        exact_digits_required=EXACT_DIGITS[data.name],
        stderr_digits=correct_digits(_lowest_first(result["stderr"]), data.stderr) if all(data.stderr) else None,
        stderr_digits_required=STDERR_DIGITS,
        r2_certified=data.r2,
        r2=result["r2"],
        r2_difference=None if result["r2"] is None else result["r2"] - data.r2,
        r2_tolerance=R2_TOLERANCE,
    )


def _lowest_first(highest_first: list[float] | None) -> list[float] | None:
    return highest_first and highest_first[::-1]
