"""A real worker on a real server: what is submitted gets fitted once, whatever is killed, lost or repeated."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import psutil
import pyarrow as pa
import pytest

from fitq import Client
from fitq.readers import from_jobs, from_recipe
from fitq.submitting import retry
from fitq_shared.jobs.frames import decode, encode
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import SETS_SCHEMA, Status
from fitq_shared.queue import LANES, client_app, lane_of, publish
from fitq_shared.settings import Settings
from fitq_shared.store.keys import SubmissionKeys, active, broker_prefix
from fitq_shared.store.payload import payload_of
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.engine import fit
from fitq_worker.fleet.supervisor import DENIED_STATUS

if TYPE_CHECKING:
    from tests.conftest import RestartableServer
    from tests.integration.conftest import Fleet

JOBS_PER_CHUNK = 4
#: Jobs that are fitted in a moment.
QUICK = {"degree": 2, "steps": 20}
#: Steps that a chunk takes seconds for, time to end the server in.
SLOW_STEPS = 6000


def assert_as_fitted_here(fleet: Fleet, name: str, jobs_of: Callable[..., pa.RecordBatch], **fields: object) -> None:
    """Every chunk was committed once and holds what the engine gives without any queue."""
    manifest = fleet.store.manifest(name)
    assert manifest.done_jobs == manifest.jobs == sum(manifest.statuses.values())
    assert sorted(fleet.store.committed_chunks(name)) == list(range(manifest.chunks))
    for chunk, results in enumerate(fleet.results(name)):
        assert results["chunk"].to_pylist() == [chunk] * JOBS_PER_CHUNK
        expected = fit(jobs_of(chunk, **fields)).results
        assert results.drop_columns(["chunk"]).equals(expected.drop_columns(["chunk"]))


def test_a_submission_is_fitted_as_the_engine_does_alone(fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch]) -> None:
    """The queue adds nothing to the results and loses nothing of them."""
    fleet.submit("plain", chunks=5, **QUICK)
    fleet.wait_until_finished("plain")
    assert_as_fitted_here(fleet, "plain", jobs_of, **QUICK)


def test_traces_are_stored_only_where_they_are_wanted(fleet: Fleet) -> None:
    """A chunk of jobs without traces has no trace frame."""
    fleet.submit("traced", **QUICK)
    fleet.submit("traceless", **QUICK, trace="none")
    fleet.wait_until_finished("traced")
    fleet.wait_until_finished("traceless")
    assert fleet.store.trace_frame("traced", 0) is not None
    assert fleet.store.trace_frame("traceless", 0) is None


def test_messages_of_the_same_chunk_commit_it_once(fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch]) -> None:
    """Duplicates are dropped and leave the queue."""
    fleet.submit("repeated", **QUICK)
    app = client_app(fleet.store.settings)
    publish(app, lane_of("repeated", JOBS_PER_CHUNK), "repeated", [0] * 5)
    app.close()
    unacknowledged = broker_prefix(fleet.store.settings.namespace) + "unacked"
    fleet.wait_until_finished("repeated")
    fleet.wait_until(
        lambda: not any(map(fleet.store.message_count, LANES)) and not fleet.redis_client.exists(unacknowledged)
    )
    assert_as_fitted_here(fleet, "repeated", jobs_of, **QUICK)


def test_a_chunk_whose_fitting_process_is_killed_runs_again(fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch]) -> None:
    """The results are the same and counted once."""
    fleet.submit("killed")
    fleet.wait_until_claimed("killed")
    fleet.kill_fitting_process()
    fleet.wait_until_claimed("killed", attempt=2)
    fleet.wait_until_finished("killed")
    assert_as_fitted_here(fleet, "killed", jobs_of)


def test_results_in_files_survive_a_killed_process_too(
    start_fleet: Callable[[Settings], Fleet], settings: Settings, jobs_of: Callable[..., pa.RecordBatch], tmp_path: Path
) -> None:
    """The worker learns from the manifest where they go; they are those of the second attempt, and Redis has none."""
    worker_settings = msgspec.structs.replace(settings, lease_seconds=3)
    fleet = start_fleet(worker_settings)
    submitting = SubmittingStore(msgspec.structs.replace(settings, results_url=f"file://{tmp_path}"))
    fleet._replace(store=submitting).submit("filed")
    fleet.wait_until_claimed("filed")
    fleet.kill_fitting_process()
    fleet.wait_until_finished("filed")
    assert_as_fitted_here(fleet, "filed", jobs_of)
    assert sorted(path.name for path in (tmp_path / "filed").iterdir()) == ["results-0-2.arrow", "traces-0-2.arrow"]
    assert list(fleet.redis_client.scan_iter(f"{settings.namespace}:*:results:*")) == []


def test_a_job_that_always_kills_its_process_ends_as_an_error_and_no_other_does(
    fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch]
) -> None:
    """Its chunk is fitted in ever smaller parts until the job is alone; what was fitted beside it has the usual bits."""
    deadly, attempts = 2, SubmissionKeys(fleet.store.settings.namespace, "deadly").attempts
    fleet.submit("deadly", chunks=2)
    killed_with: list[range] = []

    def kill_where_it_is_fitted() -> bool:
        started, part = fleet.redis_client.hexists(attempts, "0"), fleet.part_tried("deadly")
        if not killed_with:  # the first attempt fits the whole chunk and notes nothing
            part = range(JOBS_PER_CHUNK) if started else range(0)
        if deadly in part and part not in killed_with:
            fleet.kill_fitting_process()
            killed_with.append(part)
        return fleet.store.manifest("deadly").finished

    fleet.wait_until(kill_where_it_is_fitted)
    assert killed_with == [range(4), range(2, 4), range(2, 3)]
    first, _ = fleet.results("deadly")
    assert first["id"].to_pylist() == ["0", "1", "2", "3"]
    assert "3 workers ended" in first["message"][deadly].as_py()
    manifest = fleet.store.manifest("deadly")
    assert (manifest.done_jobs, manifest.statuses[Status.ERROR]) == (2 * JOBS_PER_CHUNK, 1)
    expected = fit(jobs_of(0)).results
    for row in (0, 1, 3):
        assert first.drop_columns(["chunk"]).slice(row, 1) == expected.drop_columns(["chunk"]).slice(row, 1)


def test_a_chunk_that_no_job_model_allows_ends_as_errors(fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch]) -> None:
    """The rule that it breaks is in the message of every job of the chunk."""
    jobs = jobs_of(0, **QUICK)
    column = jobs.schema.get_field_index("optimizer")
    refused = jobs.set_column(column, jobs.schema.field("optimizer"), pa.array(["unheard-of"] * JOBS_PER_CHUNK))
    fleet.store.open("refused", "test")
    fleet.store.add_chunk("refused", payload_of(0, Rows(refused)), LANES[0])
    fleet.store.close("refused")
    app = client_app(fleet.store.settings)
    publish(app, LANES[0], "refused", [0])
    app.close()
    fleet.wait_until_finished("refused")
    (results,) = fleet.results("refused")
    assert results["status"].to_pylist() == [Status.ERROR] * JOBS_PER_CHUNK
    assert "optimizer is one of" in results["message"][0].as_py()


@pytest.mark.parametrize("damage", ["another version", "garbage", "lost"])
def test_a_chunk_that_cannot_be_read_ends_as_errors(
    fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch], damage: str
) -> None:
    """Every job of it says why, the submission comes to its end, and the worker goes on."""
    name, jobs = damage.replace(" ", "-"), jobs_of(0, **QUICK)
    later = jobs.replace_schema_metadata({"fitq.kind": "jobs", "fitq.version": "99"})
    damaged = {"another version": encode(later), "garbage": b"no frame at all", "lost": None}[damage]
    fleet.add(name, **QUICK)
    key = SubmissionKeys(fleet.store.settings.namespace, name).jobs(0)
    fleet.redis_client.delete(key)
    if damaged is not None:
        fleet.redis_client.set(key, damaged)
    app = client_app(fleet.store.settings)
    publish(app, LANES[0], name, [0])
    app.close()
    fleet.wait_until_finished(name)
    (results,) = fleet.results(name)
    assert results["status"].to_pylist() == [Status.ERROR] * JOBS_PER_CHUNK
    assert (results["index"].to_pylist(), results["id"].to_pylist()) == ([0, 1, 2, 3], ["0", "1", "2", "3"])
    (message,) = set(results["message"].to_pylist())
    assert message.startswith("the jobs of this chunk cannot be read: ")
    expected = {"another version": "version 99", "garbage": "not an Arrow IPC frame", "lost": "Redis has lost its frame"}
    assert expected[damage] in message


def test_results_are_committed_after_an_outage_of_the_server(
    start_fleet: Callable[[Settings], Fleet], restartable: RestartableServer
) -> None:
    """The server is killed while a chunk is fitted, and away when it is done: the worker keeps the results until then."""
    fleet = start_fleet(restartable.settings)
    fleet.submit("kept", steps=SLOW_STEPS)
    fleet.wait_until_claimed("kept")
    time.sleep(0.5)  # until it is fitted, which takes seconds
    restartable.kill()
    fleet.wait_until(lambda: "commit failed, trying again" in fleet.worker.log.read_text())
    restartable.start()
    fleet.wait_until_finished("kept")
    committed = SubmissionKeys(restartable.settings.namespace, "kept").committed
    (value,) = cast("dict[bytes, bytes]", fleet.redis_client.hgetall(committed)).values()
    assert value.split()[0] == b"1"  # by the first attempt


def test_a_worker_that_is_not_let_in_ends_and_says_so_once(
    start_fleet: Callable[[Settings], Fleet], settings: Settings
) -> None:
    """With an exit status of its own: an outage is waited out, a wrong password is not."""
    host = settings.redis_url.rpartition("@")[2]
    fleet = start_fleet(msgspec.structs.replace(settings, redis_url=f"redis://:wrong@{host}"))
    assert fleet.worker.process.wait(60) == DENIED_STATUS
    assert fleet.worker.log.read_text().count("the workers are ended") == 1
    assert "wrong@" not in fleet.worker.log.read_text()


def test_a_submission_deleted_in_the_middle_leaves_nothing_and_stops_nothing(fleet: Fleet) -> None:
    """The worker gives its chunk up and goes on with the next submission."""
    fleet.submit("deleted", steps=1_000_000)
    fleet.wait_until_claimed("deleted")
    fleet.store.delete("deleted")
    fleet.submit("next", **QUICK)
    fleet.wait_until_finished("next")
    assert list(fleet.redis_client.scan_iter("*{deleted}*")) == []


def test_a_cancelled_submission_stops_its_fits_and_its_followers(fleet: Fleet) -> None:
    """Within seconds; results in the order of the input end although chunks before others were never fitted."""
    client = Client(fleet.store.settings)
    fleet.submit("long", steps=1_000_000)
    fleet.wait_until_claimed("long")
    fleet.submit("behind", chunks=3, **QUICK)
    started = time.monotonic()
    assert client.submission("long").cancel().state == "cancelled"
    fleet.wait_until_finished("behind")
    assert time.monotonic() - started < 30
    followed = client.submission("long")
    assert list(followed.result_batches(follow=True, ordered=True)) == []
    assert followed.wait(timeout_seconds=1).done_jobs == 0


def test_a_chunk_without_a_message_is_brought_back(fleet: Fleet, jobs_of: Callable[..., pa.RecordBatch]) -> None:
    """The manifest is the truth: what it lists is fitted even though the queue knows nothing of it."""
    fleet.add("forgotten", **QUICK)
    enqueued = SubmissionKeys(fleet.store.settings.namespace, "forgotten").enqueued
    fleet.redis_client.hset(enqueued, "0", f"{lane_of('forgotten', JOBS_PER_CHUNK)} 1.0")
    fleet.wait_until_finished("forgotten")
    assert_as_fitted_here(fleet, "forgotten", jobs_of, **QUICK)


def test_the_chunk_of_a_killed_worker_runs_on_the_next_one_and_a_stopped_one_finishes_first(
    start_fleet: Callable[[Settings], Fleet], settings: Settings, jobs_of: Callable[..., pa.RecordBatch]
) -> None:
    """Killing the supervisor ends all its processes; TERM lets the chunk in work be committed."""
    hasty = msgspec.structs.replace(settings, lease_seconds=3)
    killed = start_fleet(hasty)
    killed.submit("orphaned")
    killed.wait_until_claimed("orphaned")
    processes = psutil.Process(killed.worker.process.pid).children(recursive=True)
    killed.worker.process.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []

    successor = start_fleet(hasty)
    successor.wait_until_finished("orphaned")
    assert_as_fitted_here(successor, "orphaned", jobs_of)

    successor.submit("last")
    successor.wait_until_claimed("last")
    assert successor.worker.stop(signal.SIGTERM) == 0
    assert SubmittingStore(hasty).manifest("last").finished


def test_small_submissions_that_wait_are_fitted_together(
    start_fleet: Callable[[Settings], Fleet], settings: Settings
) -> None:
    """As one batch, with the results that each one has alone, and every one committed once."""
    client = Client(settings)
    jobs = [
        [{"polynomial": [1, 2, 3], "steps": 20, "seed": 10 * number + seed} for seed in range(3)] for number in range(20)
    ]
    submissions = [client.submit(some) for some in jobs]
    fleet = start_fleet(settings)
    for submission in submissions:
        fleet.wait_until_finished(submission.id)
    assert "in a batch of 20 chunks" in fleet.worker.log.read_text()
    fleet.wait_until(lambda: fleet.store.message_count(LANES[0]) == 0)
    for submission, some in zip(submissions, jobs, strict=True):
        (results,) = fleet.results(submission.id)
        (frame,) = from_jobs(some)
        assert results.drop_columns("chunk") == fit(frame).results.drop_columns("chunk")
        assert fleet.store.manifest(submission.id).done_jobs == 3


def test_chunks_whose_common_process_is_killed_run_again(
    start_fleet: Callable[[Settings], Fleet], settings: Settings
) -> None:
    """Each one through its own message, alone, and counted once."""
    client = Client(settings)
    jobs = [[{"polynomial": [1, 2, 3], "degree": 7, "steps": 1500, "seed": number}] for number in range(3)]
    submissions = [client.submit(some) for some in jobs]
    fleet = start_fleet(settings)
    for submission in submissions:
        fleet.wait_until_claimed(submission.id)
    fleet.kill_fitting_process()
    for submission, some in zip(submissions, jobs, strict=True):
        fleet.wait_until_finished(submission.id)
        (results,) = fleet.results(submission.id)
        (frame,) = from_jobs(some)
        assert results.drop_columns("chunk") == fit(frame).results.drop_columns("chunk")
        assert fleet.store.manifest(submission.id).done_jobs == 1
    assert "in a batch of" not in fleet.worker.log.read_text()


def test_jobs_that_share_a_sample_set_send_it_once(fleet: Fleet) -> None:
    """And are fitted as if each had its own."""
    points = {"x": [0.0, 1.0, 2.0, 4.0], "y": [1.0, 3.0, 2.0, 8.0], "steps": 20}
    jobs = [{**points, "lr": 0.01 * (number + 1)} for number in range(6)]
    submission = Client(fleet.store.settings).submit(jobs)
    fleet.wait_until_finished(submission.id)
    names = SubmissionKeys(fleet.store.settings.namespace, submission.id)
    (digest,) = cast("set[bytes]", fleet.redis_client.smembers(names.sets))
    sets = cast(bytes, fleet.redis_client.get(names.shared_sets(digest.decode())))
    assert decode(sets, SETS_SCHEMA).to_pylist() == [{"x": points["x"], "y": points["y"], "weights": None}]
    (results,) = fleet.results(submission.id)
    (frame,) = from_jobs(jobs)
    assert results.drop_columns("chunk") == fit(frame).results.drop_columns("chunk")


def test_a_single_job_does_not_wait_for_a_bulk_submission(
    start_fleet: Callable[[Settings], Fleet], settings: Settings
) -> None:
    """It is finished while the bulk submission, which was queued first, is not."""
    client = Client(settings)
    bulk = client.submit(from_recipe([1, 2, 3], 3000, defaults={"degree": 7, "loss": "huber", "steps": 500}))
    single = client.submit([{"polynomial": [1, 2, 3], "steps": 20}])
    fleet = start_fleet(settings)
    fleet.wait_until_finished(single.id)
    assert not fleet.store.manifest(bulk.id).finished
    assert fleet.store.manifest(bulk.id).chunks > 2
    bulk.delete()


def assert_retried_as_fitted_here(client: Client, name: str, jobs: list[dict[str, object]], changed: set[int]) -> None:
    """Each job has the result that the engine gives of it alone; those in `changed` at their second attempt."""
    submission = client.submission(name)
    (frame,) = from_jobs(jobs)
    results = submission.results().combine_chunks()
    assert results.drop_columns("chunk").to_batches() == [fit(frame).results.drop_columns("chunk")]
    assert {row["index"] for row in results.to_pylist() if len(submission.history(row["id"])) == 2} == changed
    manifest = submission.status()
    assert manifest.statuses == dict(Counter(results["status"].to_pylist()))
    assert (manifest.jobs, manifest.done_jobs) == (len(jobs), len(jobs))


def _mixed_jobs(**changes: object) -> list[dict[str, object]]:
    """Jobs that share a sample set, and jobs of their own; `changes` are for those that cannot be fitted as they are."""
    points: dict[str, object] = {"x": [0.0, 1.0, None, 4.0], "y": [1.0, 3.0, 2.0, 8.0], "degree": 1, "steps": 20}
    shared = [{**points, "id": f"shared-{number}", "lr": 0.01 * (number + 1)} for number in range(6)]
    own = [
        {"id": f"own-{number}", "x": [float(number), 1.0, 5.0, None if number % 2 else 3.0], "y": [1.0, 2.0, 4.0, 5.0]}
        for number in range(6)
    ]
    jobs: list[dict[str, object]] = [*shared, *({**job, "degree": 1, "steps": 20} for job in own)]
    failing = {*range(6), 7, 9, 11}
    return [job | changes if position in failing else job for position, job in enumerate(jobs)]


def test_failed_jobs_are_retried_as_if_they_had_been_submitted_so(fleet: Fleet) -> None:
    """The results of the others stay to the bit, those of the retried ones are the engine's."""
    client = Client(fleet.store.settings)
    submission = client.submit(_mixed_jobs())
    assert submission.wait(60).statuses["invalid"] == 9
    assert submission.retry(changes={"missing": "drop"}) == (9, 0)
    assert "invalid" not in submission.wait(60).statuses
    assert_retried_as_fitted_here(client, submission.id, _mixed_jobs(missing="drop"), {*range(6), 7, 9, 11})


def test_a_retry_whose_fitting_process_is_killed_runs_again(fleet: Fleet) -> None:
    """It is counted once, and the earlier results are there until it is done."""
    client = Client(fleet.store.settings)
    slow: list[dict[str, object]] = [
        {"id": f"job-{number}", "polynomial": [1, 2, 3], "degree": 7, "seed": number} for number in range(4)
    ]
    submission = client.submit([{**job, "steps": 20} for job in slow])
    submission.wait(60)
    before = submission.results()
    assert submission.retry(ids=["job-1", "job-3"], jobs=slow, changes={"steps": 1500}) == (2, 0)
    attempts = SubmissionKeys(fleet.store.settings.namespace, submission.id).attempts
    fleet.wait_until(lambda: fleet.redis_client.hget(attempts, "1") == b"1")
    fleet.kill_fitting_process()
    assert submission.results() == before
    submission.wait(60)
    expected = [{**job, "steps": 1500 if number in (1, 3) else 20} for number, job in enumerate(slow)]
    assert_retried_as_fitted_here(client, submission.id, expected, {1, 3})


def test_a_retry_without_a_message_is_brought_back(fleet: Fleet) -> None:
    """Though its submission was finished before and nobody looked after it."""
    client = Client(fleet.store.settings)
    submission = client.submit(_mixed_jobs()[:1])
    submission.wait(60)
    fleet.wait_until(lambda: not fleet.redis_client.sismember(active(fleet.store.settings.namespace), submission.id))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "enqueue", lambda *arguments: None)
        assert submission.retry().jobs == 1
    enqueued = SubmissionKeys(fleet.store.settings.namespace, submission.id).enqueued
    fleet.redis_client.hset(enqueued, "1", f"{LANES[0]} 1.0")
    submission.wait(60)
    assert [row["chunk"] for row in submission.history("shared-0")] == [0, 1]


def test_a_cancelled_retry_stops_its_fits_and_leaves_the_results(fleet: Fleet) -> None:
    """Within seconds; the submission is finished as it was."""
    client = Client(fleet.store.settings)
    jobs = [{"polynomial": [1, 2, 3], "degree": 7, "steps": 20}]
    submission = client.submit(jobs)
    before = submission.wait(60)
    submission.retry(ids=["0"], jobs=jobs, changes={"steps": 1_000_000})
    attempts = SubmissionKeys(fleet.store.settings.namespace, submission.id).attempts
    fleet.wait_until(lambda: fleet.redis_client.hget(attempts, "1") == b"1")
    assert submission.cancel() == msgspec.structs.replace(before, retry_chunks=1)
    fleet.submit("after", **QUICK)
    fleet.wait_until_finished("after")
    assert len(submission.history("0")) == 1
