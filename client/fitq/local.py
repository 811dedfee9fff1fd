"""A fleet for one run: a private server and a worker that live as long as a `with` block. Jobs take the usual path."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from fitq.private_server import INSTALL, find_server, last_lines, private_server, tied_process
from fitq_shared.errors import LocalFailure, MissingDependency
from fitq_shared.settings import Settings


class LocalFleet(msgspec.Struct, frozen=True):
    """A running private server and worker; clients and the worker reach the server through `settings`."""

    settings: Settings
    worker: subprocess.Popen[bytes]
    worker_log: Path

    def check(self) -> None:
        """Return while the worker lives.

        Raises:
            LocalFailure: it has ended; the text has the end of its log.
        """
        if (status := self.worker.poll()) is not None:
            raise LocalFailure(
                f"the local worker ended early (exit status {status}); its log ends with:\n{last_lines(self.worker_log)}"
            )


@contextmanager
def local_fleet(device: str = "auto") -> Iterator[LocalFleet]:
    """Start a private server and one worker on `device`; both end with the block.

    Raises:
        MissingDependency: no server binary or no torch; the text has the command that installs them.
        LocalFailure: the server does not start.
    """
    server = find_server()
    if importlib.util.find_spec("torch") is None:
        raise MissingDependency(f"fitting on this machine needs torch: {INSTALL}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fitq-")))
        private = stack.enter_context(private_server(server, directory))
        log = directory / "worker.log"
        command = [sys.executable, "-m", "fitq_worker", "start", "--device", device, "--drain", "0"]
        # torch unpacks its kernels into temporary folders and leaves them; these go with ours.
        environment = os.environ | private.settings.environment() | {"TMPDIR": str(directory)}
        worker = stack.enter_context(tied_process(command, log, environment=environment))
        private.wait()
        yield LocalFleet(private.settings, worker, log)
