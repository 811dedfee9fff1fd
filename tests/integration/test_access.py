"""Everything works under the users of `deploy/redis/users.acl`, and what they must not do does not."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import redis

from fitq import Client, FitJob, Submission
from fitq_shared.errors import AccessDenied
from fitq_shared.jobs.frames import jobs_batch
from fitq_shared.jobs.rows import Rows
from fitq_shared.queue import INTERACTIVE_LANE
from fitq_shared.settings import Settings
from fitq_shared.store.keys import expiries, submissions
from fitq_shared.store.payload import payload_of

if TYPE_CHECKING:
    from tests.conftest import Configured, Worker

WAIT_SECONDS = 60
JOBS = [FitJob(id=name, polynomial=[1.0, 2.0, 3.0], degree=2, steps=20, trace="full") for name in ("a", "b")]


class Guarded(NamedTuple):
    """A server with two tenants, `fitq` and `lab`; the password of a user is its name twice."""

    port: int

    def settings(self, user: str, namespace: str = "fitq") -> Settings:
        return Settings(redis_url=f"redis://{user}:{user}{user}@127.0.0.1:{self.port}/0", namespace=namespace)

    def connection(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.settings(user).redis_url)


@pytest.fixture(scope="module")
def guarded(
    configured_server: Configured, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """A server that was started with that very file, and the lines of a second tenant made from it."""
    folder = tmp_path_factory.mktemp("guarded")
    lines = (pytestconfig.rootpath / "deploy" / "redis" / "users.acl").read_text().splitlines()
    second = [line.replace("fitq:", "lab:").replace("user ", "user lab-") for line in lines if line.split()[1] in TENANT]
    users = folder / "users.acl"
    users.write_text("".join(f"{_with_password(line)}\n" for line in [*lines, *second]))
    with configured_server(folder, aclfile=users, appendonly="yes") as port:
        yield Guarded(port)


TENANT = ("client", "worker", "viewer")


def _with_password(line: str) -> str:
    user = line.split()[1]
    return re.sub("SHA256_OF_THE_PASSWORD_OF_[A-Z]+", hashlib.sha256(f"{user}{user}".encode()).hexdigest(), line)


@pytest.fixture(scope="module")
def fleet(guarded: Guarded, start_worker: Callable[..., Worker]) -> Worker:
    """A worker under its user."""
    return start_worker(guarded.settings("worker"))


def fitq(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `fitq` to its end."""
    command = [sys.executable, "-c", "from fitq.cli import main; main()", *arguments]
    environment = os.environ | settings.environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)


def test_everything_works_under_its_users(guarded: Guarded, fleet: Worker) -> None:
    """Submitting under a name, again, resuming, fitting, following, deleting; the server notes no refusal."""
    operator = guarded.connection("operator")
    operator.acl_log_reset()
    client, viewer = Client(guarded.settings("client")), Client(guarded.settings("viewer"))
    submission = client.submit(JOBS, key="named")
    assert client.submit(JOBS, key="named").id == submission.id
    assert client.submit(JOBS, resume=submission.id).id == submission.id
    assert submission.wait(WAIT_SECONDS).done_jobs == 2
    seen = viewer.submission(submission.id)
    assert [manifest.id for manifest in viewer.submissions()] == [submission.id]
    assert seen.results()["id"].to_pylist() == seen.traces()["id"].to_pylist() == ["a", "b"]
    assert seen.result("a")["id"] == seen.trace("a")["id"] == "a"
    assert viewer.sizes(viewer.submissions())[submission.id][0] > 0
    with_sets = client.submit([{"id": str(number), "x": [0, 1, 2], "y": [0, 1, 4], "degree": 1} for number in range(3)])
    with_sets.wait(WAIT_SECONDS)
    client.submit(JOBS).cancel()
    Client(guarded.settings("operator")).remove_garbage(Client(guarded.settings("operator")).find_garbage())
    for manifest in client.submissions():
        client.submission(manifest.id).delete()
    assert fleet.process.poll() is None
    assert operator.acl_log() == []
    operator.close()


def test_every_command_works_under_its_user(guarded: Guarded, fleet: Worker, tmp_path: Path) -> None:
    """As people type them."""
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"id": "a", "polynomial": [1, 2], "degree": 1, "steps": 20}\n')
    client, viewer = guarded.settings("client"), guarded.settings("viewer")
    done = fitq(client, "submit", str(jobs), "--json")
    assert done.returncode == 0, done.stderr
    (manifest,) = Client(viewer).submissions()
    for settings, *arguments in (
        (client, "wait", manifest.id),
        (viewer, "wait", manifest.id),
        (viewer, "ls", "--size"),
        (viewer, "status", manifest.id, "--json"),
        (viewer, "results", manifest.id),
        (guarded.settings("operator"), "gc"),
        (client, "cancel", manifest.id),
        (client, "delete", manifest.id),
    ):
        done = fitq(settings, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)


def test_a_reconciler_works_under_the_user_of_workers(guarded: Guarded, fleet: Worker) -> None:
    """It sends a message that was never sent, and deletes what has expired."""
    operator, store = guarded.connection("operator"), Client(guarded.settings("client")).store
    operator.acl_log_reset()
    store.open("lost", "")
    store.add_chunk("lost", payload_of(0, Rows(jobs_batch([job.checked() for job in JOBS], 0))), INTERACTIVE_LANE)
    store.close("lost")
    Submission(store, "lost").wait(WAIT_SECONDS)
    operator.zadd(expiries("fitq"), {"lost": 1.0})
    deadline = time.monotonic() + WAIT_SECONDS
    while store.manifests() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not operator.keys("fitq:*lost*")
    assert operator.acl_log() == []
    operator.close()


def test_a_viewer_only_reads(guarded: Guarded, fleet: Worker) -> None:
    """What it may not do is refused with command, user and the next step, and changes nothing."""
    submission = Client(guarded.settings("client")).submit(JOBS)
    submission.wait(WAIT_SECONDS)
    viewer = Client(guarded.settings("viewer"))
    for act in (
        lambda: viewer.submit(JOBS),
        lambda: viewer.submission(submission.id).cancel(),
        lambda: viewer.submission(submission.id).delete(),
        viewer.find_garbage,
    ):
        with pytest.raises(AccessDenied, match=r"does not let user 'viewer' run [A-Z]+ .*FITQ_REDIS_URL.*docs/access.md"):
            act()
    assert len(submission.results()) == 2
    assert fitq(guarded.settings("viewer"), "delete", submission.id).returncode == 1
    submission.delete()


@pytest.mark.parametrize("user", TENANT)
def test_no_user_does_what_belongs_to_the_operator(guarded: Guarded, user: str) -> None:
    """Settings of the server, all keys, other users, other passwords, and what tells of neighbours."""
    with guarded.connection(user) as connection:
        for command in (
            *("FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory 1", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE"),
            *("ACL LIST", "ACL SETUSER x", "CLIENT LIST", "CLIENT KILL 1.2.3.4:5", "MONITOR", "SHUTDOWN"),
            *(
                "EVAL return 0",
                "FUNCTION LIST",
                "SCRIPT FLUSH",
                "SAVE",
                "REPLICAOF NO ONE",
                "SLOWLOG GET",
                "MIGRATE h 1 k 0 1",
            ),
            *("SWAPDB 0 1", "PUBSUB CHANNELS", "SUBSCRIBE lab:celery:x", "HSET fitq:quota jobs 1000000", "MODULE LIST"),
        ):
            with pytest.raises(redis.exceptions.ResponseError, match="permission"):
                connection.execute_command(*command.split())


@pytest.mark.parametrize("user", TENANT)
def test_tenants_neither_see_nor_touch_each_other(guarded: Guarded, fleet: Worker, user: str) -> None:
    """With the namespace of the other in its own settings too."""
    submission = Client(guarded.settings("client")).submit(JOBS)
    submission.wait(WAIT_SECONDS)
    stranger = Client(guarded.settings(f"lab-{user}", "fitq"))
    for act in (
        stranger.submissions,
        lambda: stranger.submission(submission.id),
        lambda: stranger.store.cancel(submission.id),
        lambda: stranger.store.delete(submission.id),
        lambda: stranger.store.result_frames(submission.id, [0]),
        lambda: stranger.submit(JOBS),
        lambda: stranger.store.open("lab", ""),
    ):
        with pytest.raises(AccessDenied, match=rf"user 'lab-{user}'.*FITQ_NAMESPACE"):
            act()
    with guarded.connection(f"lab-{user}") as connection:
        for key in (submissions("fitq"), f"fitq:{{{submission.id}}}:manifest", "fitq:celery:fitq.interactive", "fitq:quota"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                connection.execute_command("EXISTS", key)
    assert len(submission.results()) == 2
    submission.delete()


def test_a_tenant_works_in_its_own_namespace(guarded: Guarded, fleet: Worker) -> None:
    """And the worker of the other one leaves its jobs alone."""
    submission = Client(guarded.settings("lab-client", "lab")).submit(JOBS)
    other = Client(guarded.settings("client")).submit(JOBS)
    other.wait(WAIT_SECONDS)
    assert submission.status().done_jobs == 0
    assert submission.id not in [manifest.id for manifest in Client(guarded.settings("viewer")).submissions()]
    submission.delete()
    other.delete()


def test_a_worker_under_the_user_of_a_client_ends_and_says_why(
    guarded: Guarded, start_worker: Callable[..., Worker]
) -> None:
    """It could take no messages."""
    settings = guarded.settings("viewer")
    worker = start_worker(settings)
    assert worker.process.wait(WAIT_SECONDS) == 4
    assert "does not let user 'viewer' run" in worker.log.read_text()


@pytest.mark.parametrize(("user", "good"), [("worker", True), ("operator", True), ("client", False), ("viewer", False)])
def test_check_tells_whether_a_user_can_work(guarded: Guarded, user: str, good: bool) -> None:
    command = [sys.executable, "-m", "fitq_worker", "check", "--device", "cpu"]
    environment = os.environ | guarded.settings(user).environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert (done.returncode == 0) is good, done.stdout
    assert good or f"missing\tserver\tRedis at redis://{user}:***@127.0.0.1:{guarded.port}/0 does not let" in done.stdout
