"""What the exit codes of `fitq` mean; the help of the group lists them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fitq_shared.errors import (
    DifferentContent,
    FitqError,
    InputError,
    JobNotFound,
    JobsNotKept,
    SettingsError,
    SubmissionCancelled,
    SubmissionNotFound,
    SubmissionTimeout,
)

if TYPE_CHECKING:
    from fitq_shared.store.manifest import Manifest

OK = 0
#: The server or another tool failed; trying again may help.
FAILURE = 1
#: What was typed or handed in is wrong; trying again does not help.
BAD_INPUT = 2
#: The time given to wait is over; the submission goes on.
TIMEOUT = 3
#: Everything is finished, and some fits gave no usable coefficients.
FAILED_FITS = 5
#: The submission was cancelled: some of its jobs were never fitted.
CANCELLED = 6
INTERRUPTED = 130
TERMINATED = 143

_BAD_INPUT = (InputError, SettingsError, SubmissionNotFound, JobNotFound, JobsNotKept, DifferentContent)


def exit_code(error: FitqError) -> int:
    """The code for an error."""
    if isinstance(error, SubmissionTimeout):
        return TIMEOUT
    if isinstance(error, SubmissionCancelled):
        return CANCELLED
    return BAD_INPUT if isinstance(error, _BAD_INPUT) else FAILURE


def exit_code_of_submission(manifest: Manifest) -> int:
    """The code for a submission that is finished or cancelled."""
    return CANCELLED if manifest.state == "cancelled" else exit_code_of_fits(manifest.statuses)


def exit_code_of_fits(statuses: Mapping[str, int]) -> int:
    """The code for a finished submission with these fits by status."""
    from fitq_shared.jobs.schemas import FAILED

    return FAILED_FITS if any(statuses.get(status) for status in FAILED) else OK
