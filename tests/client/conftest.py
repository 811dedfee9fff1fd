"""What the tests of the client share: a worker's answers without a worker, and the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from fitq.cli import main
from fitq_shared import frames
from fitq_shared.settings import Settings
from fitq_shared.store import Commit, Store

#: The losses that `finish` commits for a job with three steps and a full trace.
LOSSES = [4.0, 3.0, 2.0, 1.5]


@pytest.fixture
def finish(store: Store) -> Callable[[str], None]:
    """A function that commits a result for each job of a submission: `invalid` when its id starts with "bad"."""

    def commit(submission: str) -> None:
        for chunk in reversed(range(store.manifest(submission).chunks)):
            claim = store.claim(submission, chunk, "test")
            assert claim is not None
            jobs = frames.decode(claim.jobs, frames.JOB_SCHEMA).to_pylist()
            results = [_result(job, chunk) for job in jobs]
            statuses = [result["status"] for result in results]
            store.commit(
                submission,
                chunk,
                Commit(
                    results=frames.encode(pa.RecordBatch.from_pylist(results, frames.RESULT_SCHEMA)),
                    traces=frames.encode(pa.RecordBatch.from_pylist([_trace(job) for job in jobs], frames.TRACE_SCHEMA)),
                    jobs=len(jobs),
                    seconds=0.1,
                    statuses={status: statuses.count(status) for status in set(statuses)},
                    attempt=claim.attempt,
                ),
            )

    return commit


@pytest.fixture
def fitq(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command `fitq` in this process, with the test's server and namespace."""
    monkeypatch.setenv("FITQ_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("FITQ_NAMESPACE", settings.namespace)

    def run(*arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)

    return run


def _result(job: dict[str, Any], chunk: int) -> dict[str, Any]:
    common = {"index": job["index"], "id": job["id"], "chunk": chunk, "device": "cpu", "seed": job["seed"]}
    if job["id"].startswith("bad"):
        return common | {"status": "invalid", "message": "a value of x is missing", "loss": float("nan")}
    coefficients = [float(power) for power in range(job["degree"], -1, -1)]
    return common | {"status": "converged", "coefficients": coefficients, "domain": [0.0, 1.0], "loss": 1.5, "gap": 1e-6}


def _trace(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "index": job["index"],
        "id": job["id"],
        "trace": "full",
        "steps": len(LOSSES) - 1,
        "made": len(LOSSES) - 1,
        "loss": LOSSES,
    }
