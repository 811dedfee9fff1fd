"""What the tests of the client share: a worker's answers without a worker, and the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from fitq.cli import main
from fitq_shared.jobs import frames, schemas
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.submitting import SubmittingStore

#: The losses that `finish` commits for a job with three steps and a full trace.
LOSSES = [4.0, 3.0, 2.0, 1.5]


@pytest.fixture
def finish(store: SubmittingStore, finish_on: Callable[..., None]) -> Callable[..., None]:
    """A function that commits a result for each job of a submission.

    It is `invalid` when the id starts with "bad", unless the job drops what is missing, `max_steps` when the id starts with
    "short", unless the job makes more than 1000 steps. The last chunk comes first, or only those that it is told.
    """
    return functools.partial(finish_on, store.settings)


@pytest.fixture
def finish_on() -> Callable[..., None]:
    """The same for any settings, which come first."""
    return _finish


@pytest.fixture
def fitq(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command `fitq` in this process, with the test's server and namespace."""
    monkeypatch.setenv("FITQ_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("FITQ_NAMESPACE", settings.namespace)

    def run(*arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)

    return run


def _finish(settings: Settings, submission: str, *chunks: int) -> None:
    fitting = FittingStore(settings)
    committed = set(fitting.committed_chunks(submission))
    for chunk in chunks or sorted({entry.number for entry in fitting.index(submission)} - committed, reverse=True):
        claim = fitting.claim(submission, chunk, "test")
        assert claim is not None
        batch = frames.decode(claim.jobs_frame, schemas.JOB_SCHEMA)
        jobs = batch.to_pylist()
        results = [_result(job, chunk) for job in jobs]
        traces = [trace for job in jobs if (trace := _trace(job)) is not None]
        statuses = [result["status"] for result in results]
        kept = [status in schemas.KEPT for status in statuses]
        commit = Commit(
            results=frames.encode(pa.RecordBatch.from_pylist(results, schemas.RESULT_SCHEMA)),
            traces=frames.encode(pa.RecordBatch.from_pylist(traces, schemas.TRACE_SCHEMA)) if traces else b"",
            job_count=len(jobs),
            seconds=0.1,
            statuses={status: statuses.count(status) for status in set(statuses)},
            attempt=claim.attempt,
            kept=frames.encode(batch.filter(pa.array(kept))) if any(kept) else b"",
        )
        fitting.commit(submission, chunk, commit)


def _result(job: dict[str, Any], chunk: int) -> dict[str, Any]:
    common = {name: job[name] for name in ("index", "id", "seed", "tags")} | {"chunk": chunk, "device": f"cpu of {chunk}"}
    if job["id"].startswith("bad") and job["missing"] != "drop":
        return common | {"status": "invalid", "message": "a value of x is missing", "loss": float("nan")}
    status = "max_steps" if job["id"].startswith("short") and job["steps"] <= 1000 else "converged"
    coefficients = [float(power) for power in range(job["degree"], -1, -1)]
    return common | {"status": status, "coefficients": coefficients, "domain": [0.0, 1.0], "loss": 1.5, "gap": 1e-6}


def _trace(job: dict[str, Any]) -> dict[str, Any] | None:
    if job["trace"] == "none":
        return None
    return {
        "index": job["index"],
        "id": job["id"],
        "trace": "full",
        "steps": len(LOSSES) - 1,
        "made": len(LOSSES) - 1,
        "exponent": 0,
        "loss": LOSSES,
    }
