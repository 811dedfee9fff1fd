"""Records in Redis that something else has written: an error that names the submission, never one of the parsing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fitq_shared.errors import SubmissionDamaged


@contextmanager
def records_of(submission: str) -> Iterator[None]:
    """Read records of a submission.

    Raises:
        SubmissionDamaged: one of them is not as fitq writes it.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise SubmissionDamaged(
            f"{submission}: what is stored of it cannot be read ({error}): something else has written there. Delete its "
            "keys by hand, and submit its jobs again",
            submission,
        ) from None
