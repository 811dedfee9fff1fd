"""Every Redis key of fitq, in one place.

The submission id stands in braces, Redis Cluster's hash tag: all keys of one submission live in one slot, so that
the commit script may touch them together.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fitq_shared.store.committed import Kind

#: What an id of a submission is made of: nothing that means something in a key, a pattern of keys or a path.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_submission_id(text: str) -> bool:
    """Whether this can be the id of a submission; no other text gets into a key or a path."""
    return _ID.fullmatch(text) is not None


class SubmissionKeys(NamedTuple):
    """The keys of one submission."""

    namespace: str
    submission: str

    @property
    def manifest(self) -> str:
        """Hash: state, totals, counters, times."""
        return f"{self._base}:manifest"

    @property
    def committed(self) -> str:
        """Hash: number of a chunk whose results are stored -> the attempt that stored them, and digests of its frames."""
        return f"{self._base}:committed"

    @property
    def enqueued(self) -> str:
        """Hash: chunk number -> lane and Unix time of its last message."""
        return f"{self._base}:enqueued"

    @property
    def chunk_index(self) -> str:
        """Hash: chunk number -> first and last position in the input, jobs, digest, digest of shared sample sets."""
        return f"{self._base}:index"

    @property
    def sets(self) -> str:
        """Set: digests of the sample sets that chunks share."""
        return f"{self._base}:sets"

    @property
    def attempts(self) -> str:
        """Hash: chunk number -> how often a worker has started it."""
        return f"{self._base}:attempts"

    @property
    def starts(self) -> str:
        """Hash: chunk number -> how often it was started and neither committed nor given back."""
        return f"{self._base}:starts"

    @property
    def trials(self) -> str:
        """Hash: chunk number -> what is known of the jobs with which its workers died."""
        return f"{self._base}:trials"

    @property
    def retries(self) -> str:
        """Hash: number of a chunk of retried jobs, while it is not committed -> what it replaces, as JSON."""
        return f"{self._base}:retries"

    @property
    def replaced(self) -> str:
        """Hash: chunk number -> positions of its retried jobs, each with the chunk in which that is; see replaced.py."""
        return f"{self._base}:replaced"

    @property
    def log(self) -> str:
        """Stream: one entry per commit, in the order of completion."""
        return f"{self._base}:log"

    def jobs(self, chunk: int | str) -> str:
        """Job frame of a chunk."""
        return f"{self._base}:jobs:{chunk}"

    def shared_sets(self, digest: str) -> str:
        """Frame of sample sets that chunks share."""
        return f"{self._base}:sets:{digest}"

    def ids(self, bucket: int | str) -> str:
        """String: entries of the index from ids to chunks."""
        return f"{self._base}:ids:{bucket}"

    def results(self, chunk: int) -> str:
        """Result frame of a chunk."""
        return f"{self._base}:results:{chunk}"

    def traces(self, chunk: int) -> str:
        """Trace frame of a chunk."""
        return f"{self._base}:traces:{chunk}"

    def kept(self, chunk: int) -> str:
        """Job frame of the fits of a committed chunk that may be wanted again."""
        return f"{self._base}:kept:{chunk}"

    def frame(self, kind: Kind, chunk: int) -> str:
        """Frame of a committed chunk."""
        return {"results": self.results, "traces": self.traces, "kept": self.kept}[kind](chunk)

    def staged(self, kind: str, chunk: int, version: int | str) -> str:
        """A frame on its way in; `version` tells it from others: an attempt for results and traces, a digest for jobs."""
        return f"{self._base}:staged:{kind}:{chunk}:{version}"

    def lease(self, chunk: int | str) -> str:
        """The worker that is fitting the chunk now; expires when it stops renewing."""
        return f"{self._base}:lease:{chunk}"

    @property
    def _base(self) -> str:
        return f"{self.namespace}:{{{self.submission}}}"


def submissions(namespace: str) -> str:
    """Sorted set: submission id -> Unix time of its creation."""
    return f"{namespace}:submissions"


def named(namespace: str, name: str) -> str:
    """String: id of the submission that was made under a name."""
    return f"{namespace}:named:{name}"


def active(namespace: str) -> str:
    """Set: ids of submissions that may still have chunks to fit; workers look here for stranded ones."""
    return f"{namespace}:active"


def expiries(namespace: str) -> str:
    """Sorted set: submission id -> Unix time at which it is to be deleted, where there is one."""
    return f"{namespace}:expiries"


def taken(namespace: str) -> str:
    """Sorted set: lane -> Unix time at which the youngest message that a worker has taken from it was sent."""
    return f"{namespace}:taken"


def dead_letters(namespace: str) -> str:
    """List: what lay in a lane and was no message of fitq, newest first."""
    return f"{namespace}:dead-letters"


def dead_letter_count(namespace: str) -> str:
    """Number: how many of them there ever were."""
    return f"{namespace}:dead-letter-count"


def quota(namespace: str) -> str:
    """Hash: `jobs` and `bytes` that all submissions together may have; only an operator writes it."""
    return f"{namespace}:quota"


def check(namespace: str, token: str) -> str:
    """What `fitq-worker check` writes, for seconds, to see whether it can."""
    return f"{namespace}:check:{token}"


def offers(namespace: str, shape: str) -> str:
    """Set: submission and number of small chunks of this shape that wait in the interactive lane."""
    return f"{namespace}:waiting:{shape}"


def lane(namespace: str, name: str) -> str:
    """List: the messages that wait in a lane. It is kombu's, named after its prefix and the queue."""
    return broker_prefix(namespace) + name


def broker_prefix(namespace: str) -> str:
    """The prefix of all keys of kombu."""
    return f"{namespace}:celery:"
