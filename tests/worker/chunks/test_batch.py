"""Chunks that are claimed one by one and fitted together."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import redis

from fitq.submitting.sample_sets import share_sets
from fitq_shared.jobs.frames import decode, encode, jobs_batch, shape_name
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import JOB_SCHEMA, RESULT_SCHEMA, TRACE_SCHEMA, Status
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.payload import payload_of
from fitq_shared.store.retrying import Earlier, RetryingStore
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.chunks.batch import Chunk, claim_chunk, claim_companions, fit_together
from fitq_worker.engine import fit

LANE = "fitq.interactive"
GENERATED: dict[str, Any] = {"polynomial": [1.0, 2.0], "steps": 30}
EXPLICIT: dict[str, Any] = {"x": [0.0, 1.0, 3.0], "y": [1.0, 2.0, 9.0], "degree": 2, "steps": 30, "lr": 0.1}


def jobs_of(*jobs: dict[str, Any]) -> pa.RecordBatch:
    """Checked jobs as a batch."""
    return jobs_batch([msgspec.convert(job, FitJob).checked() for job in jobs])


def chunk_of(*jobs: dict[str, Any], starts: int = 1, trial: bytes = b"") -> Chunk:
    """A chunk of these jobs, all earlier starts of which have killed their workers."""
    return Chunk("sub", 7, starts, starts, Rows(jobs_of(*jobs)), trial=trial)


def fitted(*chunks: Chunk) -> list[Commit]:
    """What would be committed of chunks fitted together."""
    return fit_together(chunks, max_attempts=3, device="cpu", check_claims=lambda: None, note_trial=lambda trial: None)


def results_of(commit: Commit) -> pa.RecordBatch:
    return decode(commit.results, RESULT_SCHEMA)


@pytest.fixture
def offered(store: SubmittingStore) -> list[str]:
    """Submissions of one small chunk each, whose messages wait."""
    names = ["first", "second", "third"]
    for name in names:
        store.open(name, "")
        store.add_chunk(name, payload_of(0, Rows(jobs_of(GENERATED))), LANE)
        store.offer(shape_name(jobs_of(GENERATED)), name, 0)
    return names


def test_chunks_fitted_together_have_the_results_they_have_alone() -> None:
    """To the bit, with given and generated samples, and different numbers of jobs."""
    chunks = [chunk_of(GENERATED, {**GENERATED, "seed": 5}), chunk_of(EXPLICIT), chunk_of({**EXPLICIT, "lr": 0.5})]
    commits = fitted(*chunks)
    assert [commit.job_count for commit in commits] == [2, 1, 1]
    for chunk, commit in zip(chunks, commits, strict=True):
        alone = fit(chunk.rows.jobs)
        assert results_of(commit).drop_columns("chunk") == alone.results.drop_columns("chunk")
        assert decode(commit.traces, TRACE_SCHEMA) == alone.traces
        assert results_of(commit)["chunk"].to_pylist() == [7] * commit.job_count


def test_chunks_that_share_sample_sets_keep_them_when_they_are_fitted_together() -> None:
    """Each chunk counts its sets from 0."""
    others = [{**EXPLICIT, "y": [0.0, float(number), 1.0], "lr": lr} for number in range(2) for lr in (0.1, 0.2)]
    parts = [chunk_of(EXPLICIT, {**EXPLICIT, "lr": 0.2}), chunk_of(GENERATED), chunk_of(*others)]
    commits = fitted(*(part._replace(rows=share_sets(part.rows)) for part in parts))
    for part, commit in zip(parts, commits, strict=True):
        assert results_of(commit).drop_columns("chunk") == fit(part.rows.jobs).results.drop_columns("chunk")


def test_statuses_are_counted_for_each_chunk() -> None:
    """The most common one first."""
    (commit,) = fitted(chunk_of(EXPLICIT, EXPLICIT, {**EXPLICIT, "x": [1.0] * 3}))
    assert commit.statuses == {Status.MAX_STEPS: 2, Status.DEGENERATE: 1}
    assert next(iter(commit.statuses)) == Status.MAX_STEPS


def test_a_chunk_that_the_engine_refuses_takes_no_other_with_it() -> None:
    """They are fitted without it then; each keeps its traces."""
    refused = chunk_of(EXPLICIT, EXPLICIT)
    jobs = refused.rows.jobs
    column = jobs.schema.get_field_index("y")
    jobs = jobs.set_column(column, jobs.schema.field(column), pa.array([[1.0], EXPLICIT["y"]], pa.list_(pa.float64())))
    good, bad = fitted(chunk_of(GENERATED), refused._replace(rows=Rows(jobs)))
    assert results_of(good)["status"].to_pylist() == [Status.MAX_STEPS]
    assert results_of(bad)["status"].to_pylist() == [Status.ERROR, Status.MAX_STEPS]
    assert "the engine failed" in results_of(bad)["message"][0].as_py()
    assert decode(bad.traces, TRACE_SCHEMA).slice(1) == fit(jobs.slice(1)).traces


def test_waiting_chunks_of_the_same_shape_are_claimed_along(fitting: FittingStore, offered: list[str]) -> None:
    """Each with a lease of its own; those that cannot be claimed are left out."""
    fitting.commit("third", 0, Commit(b"results", b"", 1, 0.1, {"converged": 1}, 1))
    first = claim_chunk(fitting, "me", "first", 0)
    assert first is not None
    assert [(chunk.submission, chunk.attempt) for chunk in claim_companions(fitting, "me", first)] == [("second", 1)]
    assert not fitting.renew("second", 0, "another")
    assert fitting.renew("second", 0, "me")
    assert claim_companions(fitting, "me", first) == []


def test_a_chunk_that_is_tried_again_is_fitted_alone(fitting: FittingStore, offered: list[str]) -> None:
    """It may be what killed its worker."""
    claim_chunk(fitting, "me", "first", 0)
    again = claim_chunk(fitting, "me", "first", 0)
    assert again is not None
    assert claim_companions(fitting, "me", again) == []
    assert len(fitting.take_offers(shape_name(again.rows.jobs), "first", 0)) == 2


def test_a_chunk_that_cannot_be_read_is_claimed_with_what_is_known_of_its_jobs(
    fitting: FittingStore, offered: list[str], redis_client: redis.Redis
) -> None:
    """A frame of another version has index, id, seed and tags; such a chunk is fitted with no other."""
    named = jobs_of({**GENERATED, "id": "mine", "seed": 5, "tags": {"site": "A"}})
    frame = encode(named.replace_schema_metadata({"fitq.kind": "jobs", "fitq.version": "3"}))
    redis_client.set(f"{fitting.settings.namespace}:{{first}}:jobs:0", frame)
    chunk = claim_chunk(fitting, "me", "first", 0)
    assert chunk is not None
    assert claim_companions(fitting, "me", chunk) == []
    (commit,) = fitted(chunk)
    (row,) = results_of(commit).to_pylist()
    assert (row["index"], row["id"], row["seed"], row["tags"]) == (0, "mine", 5, '{"site":"A"}')
    assert (row["status"], commit.traces) == (Status.ERROR, b"")
    assert "jobs version 3" in row["message"]


def test_a_chunk_that_kills_whoever_reads_it_is_given_up_unread(fitting: FittingStore, offered: list[str]) -> None:
    """No trial was ever noted, which is done right after reading; one that was noted is read again."""
    for _ in range(fitting.settings.max_attempts):
        fitting.claim("first", 0, "me")
        fitting.claim("second", 0, "me")
    fitting.note_trial("second", 0, "me", b"{}")
    unread, read = (claim_chunk(fitting, "me", name, 0) for name in ("first", "second"))
    assert unread is not None
    assert read is not None
    assert (unread.problem, unread.rows.jobs["degree"].null_count) == (
        "given up: 4 workers ended with the chunk of this job",
        1,
    )
    assert (read.problem, read.rows.jobs["degree"].null_count) == ("", 0)


def test_companions_that_cannot_be_read_are_left_out(
    fitting: FittingStore, offered: list[str], redis_client: redis.Redis
) -> None:
    """They end through their own message."""
    for name in offered[1:]:
        redis_client.set(f"{fitting.settings.namespace}:{{{name}}}:jobs:0", b"not a frame")
    first = claim_chunk(fitting, "me", "first", 0)
    assert first is not None
    assert claim_companions(fitting, "me", first) == []


def test_a_chunk_that_ended_too_many_workers_is_not_read_again(
    fitting: FittingStore, offered: list[str], redis_client: redis.Redis
) -> None:
    """Reading it may be what ends them: its jobs are known by their positions alone."""
    redis_client.hset(f"{fitting.settings.namespace}:{{first}}:starts", "0", fitting.settings.max_attempts)
    redis_client.set(f"{fitting.settings.namespace}:{{first}}:jobs:0", encode(jobs_of({**GENERATED, "id": "mine"})))
    chunk = claim_chunk(fitting, "me", "first", 0)
    assert chunk is not None
    (row,) = results_of(fitted(chunk)[0]).to_pylist()
    assert (row["index"], row["id"], row["status"]) == (0, "0", Status.ERROR)
    assert row["message"].startswith("given up: 4 workers ended")


def test_jobs_whose_shared_samples_are_lost_end_as_errors(fitting: FittingStore, store: SubmittingStore) -> None:
    """As do those whose own frame is."""
    shared = share_sets(Rows(jobs_of(EXPLICIT, {**EXPLICIT, "lr": 0.2})))
    payload = payload_of(0, shared)
    store.open("sets", "")
    store.add_chunk("sets", payload, LANE)
    names = SubmissionKeys(store.settings.namespace, "sets")
    with redis.Redis.from_url(store.settings.redis_url) as client:
        client.delete(names.shared_sets(payload.sets_digest))
    chunk = claim_chunk(fitting, "me", "sets", 0)
    assert chunk is not None
    assert "Redis has lost its frame" in chunk.problem


# Jobs that may be wanted again.

INVALID: dict[str, Any] = {**EXPLICIT, "y": [1.0, None, 9.0]}


def kept_of(commit: Commit) -> list[dict[str, Any]]:
    return decode(commit.kept, JOB_SCHEMA).to_pylist() if commit.kept else []


def test_jobs_of_fits_without_usable_coefficients_are_kept() -> None:
    """As they came, with what a retry needs; a chunk in which none failed keeps nothing."""
    chunk = chunk_of(EXPLICIT, INVALID, {**EXPLICIT, "x": [1.0] * 3}, {**EXPLICIT, "ftol": 0.9, "patience": 8})
    (commit,) = fitted(chunk)
    assert results_of(commit)["status"].to_pylist() == ["max_steps", "invalid", "degenerate", "stalled"]
    assert kept_of(commit) == chunk.rows.jobs.to_pylist()[1:]
    (commit,) = fitted(chunk_of(EXPLICIT, GENERATED))
    assert commit.kept == b""


def test_kept_jobs_refer_to_the_sets_that_their_chunk_shares() -> None:
    """The sets stay where they are, once for all chunks."""
    rows = share_sets(Rows(jobs_of(EXPLICIT, *({**INVALID, "lr": lr} for lr in (0.1, 0.2, 0.3)))))
    assert rows.sets is not None
    (commit,) = fitted(chunk_of(EXPLICIT)._replace(rows=rows))
    assert [job["sample_set"] for job in kept_of(commit)] == [1, 1, 1]
    assert rows.sets["y"][1].as_py() == INVALID["y"]


def test_chunks_fitted_together_keep_their_own_jobs() -> None:
    """Each by the positions in its own rows."""
    chunks = [chunk_of(EXPLICIT), chunk_of(INVALID, EXPLICIT), chunk_of({**INVALID, "lr": 0.7})]
    assert [[job["lr"] for job in kept_of(commit)] for commit in fitted(*chunks)] == [[], [0.1], [0.7]]


def test_jobs_that_were_given_up_are_kept_where_they_can_be_read(
    fitting: FittingStore, offered: list[str], redis_client: redis.Redis
) -> None:
    """Of a frame that cannot be read nothing is left to keep."""
    trial = msgspec.json.encode({"cuts": [1], "trying": 0})
    (given_up,) = fitted(chunk_of(EXPLICIT, GENERATED, starts=4, trial=trial))
    assert results_of(given_up)["status"].to_pylist() == ["error", "max_steps"]
    assert [job["id"] for job in kept_of(given_up)] == ["0"]
    redis_client.set(f"{fitting.settings.namespace}:{{first}}:jobs:0", b"not a frame")
    unreadable = claim_chunk(fitting, "me", "first", 0)
    assert unreadable is not None
    assert fitted(unreadable)[0].kept == b""


def test_a_retry_that_cannot_be_read_is_ended(
    store: SubmittingStore, fitting: FittingStore, offered: list[str], redis_client: redis.Redis
) -> None:
    """Its jobs are not known, but have results: these stay."""
    first = claim_chunk(fitting, "me", "first", 0)
    assert first is not None
    (commit,) = fitted(first)
    fitting.commit("first", 0, commit)
    store.close("first")
    retrying = RetryingStore(store.settings)
    earlier = [Earlier(0, np.array([0]), 0)]
    number = retrying.add("first", payload_of(0, Rows(jobs_of(GENERATED))), earlier, commit.statuses, LANE)
    redis_client.set(f"{fitting.settings.namespace}:{{first}}:jobs:{number}", b"not a frame")
    assert claim_chunk(fitting, "me", "first", number) is None
    manifest = store.manifest("first")
    assert (manifest.finished, manifest.statuses) == (True, commit.statuses)
    assert fitting.claim("first", number, "me") is None
