"""Every error fitq raises on purpose.

    FitqError
    ├── InputError              what was submitted cannot be read or is not a valid job
    │   ├── FileError           the file is missing, empty or of an unknown format
    │   └── JobError            one job breaks a rule; names place, job, field, value and rule
    ├── SettingsError           a FITQ_* variable has a value that makes no sense
    ├── ServerError             what fitq stores in: Redis, or files for results
    │   ├── ServerUnreachable   nobody answers at the URL
    │   ├── AccessDenied        the user, the password or a right is wrong
    │   ├── ServerFull          it answers but refuses writes: maxmemory is reached
    │   ├── QuotaExceeded       the namespace may not have so many jobs or bytes
    │   ├── ServerRefuses       it answers but does something else: busy, read-only, its disk is full
    │   └── ResultsUnreachable  the files of FITQ_RESULTS_URL cannot be read or written
    ├── SubmissionError         one submission, or what was asked of it
    │   ├── SubmissionNotFound  no submission has this id
    │   ├── DifferentContent    the submission with this key or id was made of other jobs
    │   ├── SubmissionCancelled it was cancelled, and takes no more jobs
    │   ├── RetryRefused        its jobs cannot be fitted again now: still being submitted, or retried by somebody else
    │   ├── JobsNotKept         jobs that are to be fitted again are not kept, and have to be given again
    │   ├── ResultsLost         stored results of a chunk are gone or damaged
    │   ├── SubmissionDamaged   what is noted of it was written by something else
    │   ├── SubmissionTimeout   it did not finish in the time the caller gave it
    │   ├── JobNotFound         no job of the submission has this id
    │   └── JobNotFinished      the fit of this job is not done yet
    ├── WorkerError             what a worker needs of its machine or holds of its chunks
    │   ├── DeviceError         there is no such device, or torch cannot compute on it
    │   ├── ClaimLost           the chunks are another worker's now, or were deleted
    │   └── DrainEnded          the worker is to stop, and the time in which it could finish its chunks is over
    ├── LocalFailure            the private server or worker of `fitq run` did not start or ended early
    ├── FrameError              bytes that are no frame this version of fitq can read
    └── MissingDependency       an optional package (an extra) is needed and not installed

A fit that fails is not an error: its result carries a status and a message.
"""

from __future__ import annotations


class FitqError(Exception):
    """Base of all errors of fitq; the text says what happened, the likely cause and the next step."""


class InputError(FitqError):
    """What was submitted cannot be read or is not a valid job."""


class FileError(InputError):
    """An input or output file is missing, empty, unreadable or of an unknown format."""


class JobError(InputError):
    """One job breaks a rule.

    `place` is where it was read (`jobs.jsonl:17`), `job` its id, `field` and `value` what is wrong, `rule` what
    was expected. All are None where unknown.
    """

    def __init__(
        self, rule: str, *, field: str | None = None, value: object = None, job: str | None = None, place: str | None = None
    ) -> None:
        self.rule, self.field, self.value, self.job, self.place = rule, field, value, job, place
        super().__init__(self._text())

    def with_place(self, place: str | None, job: str | None = None) -> JobError:
        """The same error with the place and the job filled in where they were not known before."""
        return JobError(self.rule, field=self.field, value=self.value, job=self.job or job, place=self.place or place)

    def _text(self) -> str:
        where = [text for text in (self.place, f"job {self.job!r}" if self.job else None) if text]
        what = f"{self.field} = {_shorten(self.value)}: " if self.field else ""
        return ": ".join([*where, f"{what}{self.rule}"])


class SettingsError(FitqError):
    """A FITQ_* environment variable has a value that makes no sense."""


class ServerError(FitqError):
    """What fitq stores in did not do what was asked."""


class ServerUnreachable(ServerError):
    """Nobody answers at the URL."""


class AccessDenied(ServerError):
    """The server refuses the user or the password, or the user may not do what was asked."""


class ServerFull(ServerError):
    """Redis answers but refuses writes because maxmemory is reached."""


class QuotaExceeded(ServerError):
    """The namespace may not have so many jobs or bytes; an operator sets how many."""


class ServerRefuses(ServerError):
    """Redis answers but does not do what was asked: a script keeps it busy, it is a replica, its disk is full."""


class ResultsUnreachable(ServerError):
    """The files of FITQ_RESULTS_URL cannot be read or written."""


class SubmissionError(FitqError):
    """Base of the errors about one submission, whose id is `submission`."""

    def __init__(self, text: str, submission: str) -> None:
        self.submission = submission
        super().__init__(text)


class SubmissionNotFound(SubmissionError):
    """No submission has this id: mistyped, deleted or expired."""


class DifferentContent(SubmissionError):
    """The submission with this key or id was made of other jobs."""


class SubmissionCancelled(SubmissionError):
    """The submission was cancelled: it takes no more jobs, and what was fitted before is kept."""


class RetryRefused(SubmissionError):
    """Its jobs cannot be fitted again now; later they can."""


class JobsNotKept(SubmissionError):
    """Jobs that are to be fitted again are not kept, and have to be given again."""


class ResultsLost(SubmissionError):
    """Results of a chunk that were stored are gone or damaged; those of other chunks are not harmed."""


class SubmissionDamaged(SubmissionError):
    """What Redis holds of the submission, its manifest or what is noted of its chunks, is not as fitq writes it."""


class SubmissionTimeout(SubmissionError):
    """The submission did not finish in the time the caller gave it; it goes on."""


class JobNotFound(SubmissionError):
    """No job of the submission has this id, or it does not have what was asked for."""


class JobNotFinished(SubmissionError):
    """The fit of this job is not done yet; it goes on."""


class WorkerError(FitqError):
    """Base of the errors of one worker."""


class DeviceError(WorkerError):
    """There is no such device, or torch cannot compute on it."""


class ClaimLost(WorkerError):
    """None of the chunks is this worker's any longer: it was taken for dead, or their submissions were deleted."""


class DrainEnded(WorkerError):
    """This worker was told to stop, and the time in which it could finish its chunks is over: others fit them."""


class LocalFailure(FitqError):
    """The private server or worker of `fitq run` did not start or ended early; the text has the end of its log."""


class FrameError(FitqError):
    """Bytes that are not a frame this version of fitq can read."""


class MissingDependency(FitqError):
    """An optional package is needed; the text has the command that installs it."""


def _shorten(value: object, limit: int = 80) -> str:
    # A list of ten million numbers is not written out for the first few.
    text = repr(value[:limit] if isinstance(value, list) else value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
