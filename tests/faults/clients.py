"""The clients under fire: they submit under a key until that is accepted, and follow results from cursor to cursor."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from fitq import Client
from fitq_shared.errors import FitqError
from fitq_shared.settings import Settings
from tests.faults.fleet import environment_of
from tests.faults.load import Work
from tests.faults.server import Server

PATIENCE_SECONDS = 240
PAUSE_SECONDS = 0.3
AT_ONCE = 3
#: Exit codes of `fitq`: trying again may help, bad input, interrupted.
FAILURE, BAD_INPUT, INTERRUPTED = 1, 2, 130


class WrongAnswer(Exception):
    """A client did something else than its promises say."""


class Refused(WrongAnswer):
    """What was submitted is no good input, which is right only where somebody else has the key."""


@dataclass
class Order:
    """Jobs that somebody wants to have fitted, under a key, and what has become of them."""

    work: Work
    key: str
    settings: Settings
    submission: str = ""
    fate: Literal["kept", "cancelled", "expired", "deleted"] = "kept"


class Follower:
    """`fitq results ID --follow --since CURSOR`, run as often as it takes; counts how often each row came."""

    def __init__(self, order: Order, folder: Path) -> None:
        self.order, self.rows = order, Counter[int]()
        self._cursor, self._base = "", folder / f"follower-{order.key}"
        self._start()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C, and go on behind the cursor that was told."""
        self.process.send_signal(number)
        self._go_on()

    def finish(self) -> None:
        """Return when it has come to its end."""
        while self._go_on():
            time.sleep(PAUSE_SECONDS)

    def _go_on(self) -> bool:
        """Take what it has written, and start it again unless all is well; False at the end."""
        status = self.process.wait(PATIENCE_SECONDS)
        self.rows.update(row["index"] for row in map(msgspec.json.decode, self._output.read_bytes().splitlines()))
        errors = self._errors.read_text()
        if told := re.findall(r"^cursor: (\S+)$", errors, re.MULTILINE):
            self._cursor = told[-1]
        if status == 0:
            return False
        before_it_began = status == -signal.SIGINT and not self._output.stat().st_size
        if not before_it_began and (status not in (FAILURE, INTERRUPTED) or "Traceback" in errors):
            raise WrongAnswer(f"a follower of {self.order.submission} ended with {status}: {errors}")
        self._start()
        return True

    def _start(self) -> None:
        since = ["--since", self._cursor] if self._cursor else []
        command = fitq("results", self.order.submission, "--follow", "--format", "jsonl", *since)
        self._output, self._errors = self._base.with_suffix(".jsonl"), self._base.with_suffix(".log")
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(command, env=environment_of(self.order.settings), stdout=output, stderr=errors)


class Clients:
    """Everybody who submits and follows."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._threads, self._keys = ThreadPoolExecutor(AT_ONCE), itertools.count()
        self.orders: list[Order] = []
        self.followers: list[Follower] = []
        self._waiting: list[Future[None]] = []

    def order(self, work: Work, *, in_files: bool = False, **settings: Any) -> Order:
        """Want jobs to be fitted; nothing is submitted yet."""
        results_url = f"file://{self._folder}/results" if in_files else ""
        own = msgspec.structs.replace(self._server.settings, results_url=results_url, **settings)
        self.orders.append(Order(work, f"{work.name}-{next(self._keys)}", own))
        return self.orders[-1]

    def submit_later(self, order: Order, *, by_command: bool) -> None:
        """Submit in a thread, so that faults come amid it."""
        submit = self.submit_by_command if by_command else self.submit
        self._waiting.append(self._threads.submit(submit, order))

    def wait(self) -> None:
        """Return when everything is submitted; raises what went wrong."""
        for future in self._waiting:
            future.result(PATIENCE_SECONDS)

    def submit(self, order: Order) -> None:
        """Submit in this process, again and again while the server fails."""

        def submit() -> str:
            client = Client(order.settings)
            try:
                return client.submit(order.work.file, key=order.key).id
            finally:
                client.store.disconnect()

        order.submission = persist(submit)
        self._server.note_safe()

    def submit_by_command(self, order: Order) -> None:
        """The same by `fitq submit`."""
        for _ in range(int(PATIENCE_SECONDS / PAUSE_SECONDS)):
            process = self.start_submitting(order)
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
            if process.returncode == 0:
                order.submission = output.split()[0]
                self._server.note_safe()
                return
            if process.returncode == BAD_INPUT:
                raise Refused(errors)
            check_failure(process.returncode, errors)
            time.sleep(PAUSE_SECONDS)
        raise WrongAnswer(f"{order.key} could not be submitted: {errors}")

    def race(self, orders: Sequence[Order]) -> list[bool]:
        """Submit all at once by `fitq submit`, again and again while the server fails; says which were accepted."""
        return list(self._threads.map(self._is_accepted, orders))

    def _is_accepted(self, order: Order) -> bool:
        try:
            self.submit_by_command(order)
        except Refused:
            return False
        return True

    def id_of(self, key: str) -> str:
        """The id of the submission with this key."""
        manifests = persist(Client(self._server.settings).submissions)
        (submission,) = (manifest.id for manifest in manifests if manifest.key == key)
        return str(submission)

    def start_submitting(self, order: Order) -> subprocess.Popen[str]:
        """Start `fitq submit` once."""
        command = fitq("submit", str(order.work.file), "--key", order.key)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment_of(order.settings), **pipes)

    def follow(self, order: Order) -> Follower:
        """Follow the results of what is submitted."""
        self.followers.append(Follower(order, self._folder))
        return self.followers[-1]

    def submitted(self) -> list[Order]:
        """What was submitted and shall be complete in the end."""
        return [order for order in self.orders if order.submission and order.fate == "kept"]

    def end(self) -> None:
        """End those that still run."""
        self._threads.shutdown(cancel_futures=True)
        for follower in self.followers:
            follower.process.kill()
            follower.process.wait()


def persist(act: Callable[[], Any], *accepted: type[FitqError]) -> Any:
    """What `act` returns, tried again after each error of fitq but the accepted ones, which give None."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return act()
        except accepted:
            return None
        except FitqError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def check_failure(status: int, errors: str) -> None:
    """Accept a failure of the server that is told in words; raises otherwise."""
    if status != FAILURE or "Traceback" in errors:
        raise WrongAnswer(f"a client ended with {status}: {errors}")


def fitq(*arguments: str) -> list[str]:
    """The command line of `fitq`."""
    return [sys.executable, "-c", "from fitq.cli import main; main()", *arguments]
