"""The exit codes of `fitq`: one table, from which its help and the README are made, and what leads to which."""

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

OK, FAILURE, BAD_INPUT, TIMEOUT, FAILED_FITS, CANCELLED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 5, 6, 130, 143

#: The table that help and README show.
MEANINGS = {
    OK: "all is well",
    FAILURE: "the server or another tool failed; trying again may help",
    BAD_INPUT: "wrong usage or bad input; trying again does not help",
    TIMEOUT: "the time given to wait is over; the submission goes on",
    FAILED_FITS: "finished, and some fits failed: diverged, degenerate, invalid or error",
    CANCELLED: "cancelled: some jobs were never fitted",
    INTERRUPTED: "interrupted by Ctrl-C",
    TERMINATED: "terminated",
}

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
