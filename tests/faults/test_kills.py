"""A process that is killed after any command that it sends leaves nothing behind that the next one cannot mend."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import redis

from fitq import Client
from fitq.submitting.upload import plan_jobs
from fitq_shared.errors import SubmissionNotFound
from fitq_shared.jobs.frames import decode, encode
from fitq_shared.jobs.schemas import JOB_SCHEMA
from fitq_shared.queue import LANES
from fitq_shared.settings import Settings
from fitq_shared.store import keys
from fitq_shared.store.fitting import Claim, Commit, FittingStore
from fitq_shared.store.payload import payload_of
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.engine import fit
from tests.faults import operations
from tests.faults.comparison import KEPT_KEYS
from tests.faults.fleet import environment_of
from tests.faults.load import rows_by_position

#: Commands that an operation may have at most.
MOST_COMMANDS = 40
DEADLINE_SECONDS = 60
JOBS = [{"polynomial": [1, 2], "degree": 1, "steps": 20, "seed": seed} for seed in range(3)]


@pytest.fixture
def settings(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Settings under which a killed worker is soon taken for dead; a test can ask for results in files."""
    results_url = f"file://{tmp_path}/results" if getattr(request, "param", "") == "in files" else ""
    return msgspec.structs.replace(settings, lease_seconds=1, results_url=results_url)


@pytest.fixture
def submissions(settings: Settings) -> list[str]:
    """Ids of as many submissions of one chunk as there may be commands; their messages were lost."""
    store, (rows,) = SubmittingStore(settings), plan_jobs(JOBS)[0]
    names = [f"submission-{number}" for number in range(MOST_COMMANDS)]
    for name in names:
        store.open(name, "test", key=name)
        store.add_chunk(name, payload_of(0, rows), LANES[0])
        store.close(name)
    return names


def kill_at_every_command(settings: Settings, operation: str, targets: Sequence[str], file: Path | None = None) -> list[str]:
    """Do it to each target in turn, killed one command later each time; returns those amid which it was killed."""
    command = [sys.executable, "-P", operations.__file__, operation, *targets]
    environment = environment_of(settings) | {operations.FILE_VARIABLE: str(file)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    killed = int(done.stdout)
    assert killed > 0
    return list(targets[:killed])


def finish(settings: Settings, submission: str) -> None:
    """Fit what is not committed, as the next worker does, perhaps when the lease of one that was killed is over."""
    store, deadline = FittingStore(settings), time.monotonic() + DEADLINE_SECONDS
    while not (manifest := store.manifest(submission)).finished:
        assert time.monotonic() < deadline, f"{submission} does not become finished"
        for chunk in range(manifest.chunks):
            if (claim := store.claim(submission, chunk, "next")) is not None:
                store.commit(submission, chunk, fitted(claim))
        time.sleep(0.02)


def fitted(claim: Claim) -> Commit:
    """What a worker commits."""
    results, traces = fit(decode(claim.jobs_frame, JOB_SCHEMA))
    statuses = Counter(results["status"].to_pylist())
    return Commit(encode(results), encode(traces) if len(traces) else b"", len(results), 0.1, statuses, claim.attempt)


def assert_as_if_nothing_had_happened(settings: Settings, submission: str) -> None:
    """Every job has one result, the counters say so, and nothing is left of the fits, in Redis or in files."""
    client = Client(settings)
    client.remove_garbage(client.find_garbage())
    found, manifest = client.submission(submission), client.submission(submission).status()
    chunks, _ = plan_jobs(JOBS)
    assert rows_by_position(batch for _, batch in found.result_batches()) == rows_by_position(
        fit(rows.jobs).results for rows in chunks
    )
    assert manifest.jobs == manifest.done_jobs == sum(manifest.statuses.values()) == len(JOBS)
    assert sorted(client.store.committed_chunks(submission)) == list(range(manifest.chunks))
    assert kinds_of_keys(settings, submission) <= {*KEPT_KEYS}
    if (files := client.store.files(submission)) is not None:
        assert len(files.names()) == 2 * manifest.chunks


def assert_nothing_is_left(settings: Settings, submission: str) -> None:
    """No key, no file, no entry in a list of submissions, once `fitq gc` was there."""
    client, namespace = Client(settings), settings.namespace
    client.remove_garbage(client.find_garbage(), client.find_unknown_folders())
    assert kinds_of_keys(settings, submission) == set()
    assert submission not in client.find_unknown_folders()
    with redis.Redis.from_url(settings.redis_url) as server:
        listed = [server.zscore(name(namespace), submission) for name in (keys.submissions, keys.expiries)]
    assert listed == [None, None]


def kinds_of_keys(settings: Settings, submission: str) -> set[str]:
    """What is stored in Redis for a submission, but for frames on their way in, which expire."""
    prefix = f"{settings.namespace}:{{{submission}}}:"
    with redis.Redis.from_url(settings.redis_url) as client:
        found = {key.decode().removeprefix(prefix).split(":")[0] for key in client.scan_iter(f"{prefix}*", count=1000)}
    return found - {"staged"}


def test_a_client_that_is_killed_at_any_command_of_a_submission_is_resumed(settings: Settings, tmp_path: Path) -> None:
    """By its key; the jobs are all there, and once."""
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, JOBS)))
    names = [f"key-{number}" for number in range(MOST_COMMANDS)]
    for key in kill_at_every_command(settings, "submit", names, file):
        submission = Client(settings).submit(file, key=key).id
        finish(settings, submission)
        assert_as_if_nothing_had_happened(settings, submission)


def test_a_worker_that_is_killed_at_any_command_of_a_claim_costs_a_lease(settings: Settings, submissions: list[str]) -> None:
    """Then the next one has the chunk."""
    for submission in kill_at_every_command(settings, "claim", submissions):
        finish(settings, submission)
        assert_as_if_nothing_had_happened(settings, submission)


@pytest.mark.parametrize("settings", ["in Redis", "in files"], indirect=True)
def test_a_worker_that_is_killed_at_any_command_of_a_commit_has_committed_or_not(
    settings: Settings, submissions: list[str], tmp_path: Path
) -> None:
    """Its results count once, or those of the next one do."""
    store, file = FittingStore(settings), tmp_path / "commit.json"
    claims = [store.claim(submission, 0, operations.KILLED_WORKER) for submission in submissions]
    assert claims[0] is not None
    file.write_bytes(msgspec.json.encode(fitted(claims[0])))
    for submission in kill_at_every_command(settings, "commit", submissions, file):
        finish(settings, submission)
        assert_as_if_nothing_had_happened(settings, submission)


def test_a_worker_that_is_killed_at_any_command_of_giving_back_has_done_so_or_not(
    settings: Settings, submissions: list[str]
) -> None:
    """The next one has the chunk at once or after a lease."""
    store = FittingStore(settings)
    for submission in submissions:
        store.claim(submission, 0, operations.KILLED_WORKER)
    for submission in kill_at_every_command(settings, "give_back", submissions):
        finish(settings, submission)
        assert_as_if_nothing_had_happened(settings, submission)


@pytest.mark.parametrize(("settings", "state"), [("in Redis", "waiting"), ("in files", "finished")], indirect=["settings"])
def test_a_client_that_is_killed_at_any_command_of_a_deletion_can_try_again(
    settings: Settings, submissions: list[str], state: str
) -> None:
    """Where there is nothing to try again, `fitq gc` finds what is left."""
    for submission in submissions if state == "finished" else []:
        finish(settings, submission)
    for submission in kill_at_every_command(settings, "delete", submissions):
        with suppress(SubmissionNotFound):
            Client(settings).submission(submission).delete()
        assert_nothing_is_left(settings, submission)


def test_a_client_that_is_killed_at_any_command_of_a_cancellation_can_try_again(
    settings: Settings, submissions: list[str]
) -> None:
    """What was not fitted is dropped in the end, and deleting leaves nothing."""
    for submission in kill_at_every_command(settings, "cancel", submissions):
        assert Client(settings).submission(submission).cancel().state == "cancelled"
        assert kinds_of_keys(settings, submission) <= {*KEPT_KEYS}
        assert FittingStore(settings).claim(submission, 0, "next") is None
        Client(settings).submission(submission).delete()
        assert_nothing_is_left(settings, submission)
