"""What is left when the storm is over, compared with what the engine gave without one."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple, cast

import msgspec
import redis

from fitq import Client
from fitq.results.traces import LABELLED_SCHEMA
from fitq_shared.errors import FitqError, SubmissionNotFound
from fitq_shared.queue import LANES
from fitq_shared.store import keys
from tests.faults.clients import Follower, Order, persist
from tests.faults.load import Rows, rows_by_position
from tests.faults.storm import Storm

RECOVERY_DEADLINE_SECONDS = 150
#: Messages of dead workers come back after their time, and are dropped.
BROKER_DEADLINE_SECONDS = 40
#: What a finished submission keeps; the rest was needed to fit it.
KEPT_KEYS = ("manifest", "index", "committed", "log", "results", "traces", "ids", "sets")


class Totals(msgspec.Struct, frozen=True):
    """What a storm has done, or several; rows, but for the faults and what was left over."""

    faults: int = 0
    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0
    left_over: int = 0
    #: From the last fault, or where clients try for longer from the last submission, until all is fitted.
    recovery_seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.faults} faults, {self.jobs} jobs, {self.lost} lost, {self.doubled} doubled, {self.differing} differing, "
            f"{self.left_over} left over, longest recovery {self.recovery_seconds:.1f} s"
        )

    def plus(self, other: Totals) -> Totals:
        """Both together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        return Totals(**sums | {"recovery_seconds": max(self.recovery_seconds, other.recovery_seconds)})

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.differing or self.left_over)


class Finding(NamedTuple):
    """Something that is not as it should be, in words, and how many rows (or keys, files) it is about."""

    kind: str
    rows: int
    what: str


def compare(storm: Storm, faults: int) -> tuple[Totals, list[Finding]]:
    """Wait until all is fitted, and find what is lost, doubled, different or left over."""
    storm.clients.wait()
    began = time.monotonic()
    _wait_until_finished(storm)
    recovery = time.monotonic() - began
    findings = [finding for order in storm.clients.orders for finding in _look_at(order)]
    for follower in storm.clients.followers:
        findings += _look_at_follower(follower, storm)
    findings += _look_at_broker(storm)
    findings += _look_at_keys(storm)
    findings += _look_after_deletion(storm)
    counts = Counter[str]()
    for finding in findings:
        counts[finding.kind] += finding.rows
    jobs = sum(order.work.job_count for order in storm.clients.orders)
    lost, doubled, differing, left = (counts[kind] for kind in ("lost", "doubled", "differing", "left over"))
    return Totals(faults, jobs, lost, doubled, differing, left, recovery), findings


def _wait_until_finished(storm: Storm) -> None:
    """Return when every submission that is kept is finished, or cannot be expected to become so any more."""
    deadline = time.monotonic() + RECOVERY_DEADLINE_SECONDS
    client = Client(storm.server.settings)
    unfinished = {order.submission for order in storm.clients.submitted()}
    while unfinished and time.monotonic() < deadline:
        storm.fleet.revive()
        finished = {manifest.id for manifest in persist(client.submissions) if manifest.finished}
        if unfinished := unfinished - finished:
            time.sleep(0.1)
    client.store.disconnect()


def _look_at(order: Order) -> list[Finding]:
    """Rows of a submission, and whether its counters say the same."""
    client = Client(order.settings)
    try:
        submission = client.submission(order.submission)
        results = rows_by_position(batch for _, batch in submission.result_batches())
        traces = rows_by_position(batch.select(LABELLED_SCHEMA.names) for _, batch in submission.trace_batches())
        chunks, manifest = Counter(client.store.committed_chunks(order.submission)), submission.status()
    except SubmissionNotFound:
        gone = order.fate in ("deleted", "expired")
        return [] if gone else [Finding("lost", order.work.job_count, f"{order.key} is gone")]
    except FitqError as error:
        return [Finding("lost", order.work.job_count, f"{order.key}: {error!r}")]
    finally:
        client.store.disconnect()
    if order.fate == "deleted":
        return [Finding("left over", 1, f"{order.key} was deleted")]
    findings = [] if order.fate in ("cancelled", "expired") else _missing(order, results, traces)
    findings += _different(order, "results", order.work.results, results)
    findings += _different(order, "traces", order.work.traces, traces)
    if (count := sum(map(len, results.values()))) != manifest.done_jobs or count != sum(manifest.statuses.values()):
        findings.append(Finding("differing", 1, f"{order.key}: {count} rows, but {manifest}"))
    if twice := [chunk for chunk, commits in chunks.items() if commits > 1]:
        findings.append(Finding("doubled", len(twice), f"{order.key}: chunks {twice} were committed twice"))
    return findings


def _missing(order: Order, results: Rows, traces: Rows) -> list[Finding]:
    missing = len(order.work.results.keys() - results.keys()) + len(order.work.traces.keys() - traces.keys())
    return [Finding("lost", missing, f"{order.key} ({order.submission}) lacks rows")] if missing else []


def _different(order: Order, what: str, expected: Rows, found: Rows) -> list[Finding]:
    findings = []
    if doubled := sum(len(texts) - 1 for texts in found.values()):
        findings.append(Finding("doubled", doubled, f"{order.key}: {what} come twice"))
    wrong = [position for position, texts in found.items() if {*texts} != {*expected.get(position, ())}]
    if wrong:
        texts = f"{found[wrong[0]]} instead of {expected.get(wrong[0])}"
        findings.append(Finding("differing", len(wrong), f"{order.key} ({order.submission}): {what} {wrong[:5]}: {texts}"))
    return findings


def _look_at_follower(follower: Follower, storm: Storm) -> list[Finding]:
    """Each row came once; at least once where the server has forgotten rows that the follower had, and sent them again."""
    follower.finish()
    expected, name = follower.order.work.results.keys(), f"a follower of {follower.order.key}"
    findings = []
    if missing := len(expected - follower.rows.keys()):
        findings.append(Finding("lost", missing, f"{name} lacks rows"))
    doubled = follower.rows.total() - len(follower.rows)
    if doubled and not storm.forgotten:
        findings.append(Finding("doubled", doubled, f"{name} has rows twice"))
    return findings


def _look_at_broker(storm: Storm) -> list[Finding]:
    """No message waits and none is taken."""
    prefix, deadline = keys.broker_prefix(storm.server.settings.namespace), time.monotonic() + BROKER_DEADLINE_SECONDS
    names = [prefix + name for name in (*LANES, "unacked", "unacked_index")]
    with storm.server.connect() as client:
        _let_wrong_days_pass(client, prefix + "unacked_index")
        while (left := [name for name in names if client.exists(name)]) and time.monotonic() < deadline:
            time.sleep(0.2)
        letters = cast("bytes | None", client.get(keys.dead_letter_count(storm.server.settings.namespace)))
    findings = [Finding("left over", 1, name) for name in left]
    return findings + ([Finding("left over", int(letters), "dead letters")] if letters else [])


def _let_wrong_days_pass(client: redis.Redis, index: str) -> None:
    """What a worker took by a clock that is ahead comes back as late; nobody waits for it, and nor do we."""
    if ahead := cast("list[bytes]", client.zrangebyscore(index, time.time() + 1, "+inf")):
        client.zadd(index, dict.fromkeys(ahead, 0.0), xx=True)


def _look_at_keys(storm: Storm) -> list[Finding]:
    """Submissions that were not cut short keep results and what describes them, and nothing else."""
    kept = {order.submission for order in storm.clients.orders if order.fate in ("kept", "cancelled")}
    left = []
    with storm.server.connect() as client:
        for key in client.scan_iter(f"{storm.server.settings.namespace}:{{*", count=1000):
            submission, _, kind = key.decode().partition("{")[2].partition("}:")
            if kind.startswith("staged:"):
                continue  # expires by itself
            if submission in kept and kind.split(":")[0] not in KEPT_KEYS:
                left.append(key.decode())
    return [Finding("left over", len(left), f"keys {left[:10]}")] if left else []


def _look_after_deletion(storm: Storm) -> list[Finding]:
    """Nothing is left in the server or in files once everything is deleted and `fitq gc` was there."""
    client = Client(storm.clients.orders[0].settings)
    for manifest in client.submissions():
        client.submission(manifest.id).delete()
    client.remove_garbage(client.find_garbage())
    client.store.disconnect()
    namespace = storm.server.settings.namespace
    with storm.server.connect() as server:
        found = [key.decode() for key in server.scan_iter(f"{namespace}:*", count=1000)]
    usual = (keys.broker_prefix(namespace), keys.taken(namespace), keys.offers(namespace, ""))
    left = [key for key in found if not key.startswith(usual)]
    left += [str(path) for path in (storm.folder / "results").glob("*/*")]
    return [Finding("left over", len(left), f"after deletion: {left[:10]}")] if left else []
