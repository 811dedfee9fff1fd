"""What to type after an error: the library says what happened, the command line which command comes next."""

from __future__ import annotations

from fitq_shared.errors import (
    DifferentContent,
    FitqError,
    JobNotFinished,
    JobNotFound,
    JobsNotKept,
    QuotaExceeded,
    RetryRefused,
    ServerFull,
    ServerUnreachable,
    SubmissionCancelled,
    SubmissionNotFound,
    SubmissionTimeout,
)

#: `{submission}` becomes the id of the error's submission.
_NEXT_STEPS: dict[type[FitqError], str] = {
    SubmissionNotFound: "`fitq ls` shows what there is",
    DifferentContent: "`fitq delete {submission}` deletes it",
    SubmissionCancelled: "`fitq results {submission}` shows what was fitted",
    SubmissionTimeout: "`fitq wait {submission}` waits again",
    JobNotFinished: "`fitq wait {submission}` waits",
    JobNotFound: "`fitq results {submission}` shows all ids",
    JobsNotKept: "`fitq retry {submission} INPUT` with the same options takes them from there",
    RetryRefused: "`fitq status {submission}` shows how far it is",
    QuotaExceeded: "`fitq ls` and `fitq delete ID` make room",
    ServerFull: "`fitq ls --size` and `fitq delete ID` make room",
    ServerUnreachable: "`fitq run` needs no server",
}


def text_of(error: FitqError) -> str:
    """The error, the command that comes next, and on further lines its notes."""
    steps = [step for kind, step in _NEXT_STEPS.items() if isinstance(error, kind)]
    sentence = "; ".join([str(error), *steps]).replace("{submission}", getattr(error, "submission", ""))
    return "\n".join([sentence, *getattr(error, "__notes__", ())])
