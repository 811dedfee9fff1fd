"""A password with every odd character, live: no message, log or document of fitq has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import redis

from fitq import Client
from fitq_shared.errors import AccessDenied, ServerUnreachable
from fitq_shared.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Configured, Worker

PASSWORD = "geheim/@:%41#?&='\"\\ ü+geheim"
WAIT_SECONDS = 60


@pytest.fixture
def protected(configured_server: Configured, tmp_path: Path) -> Iterator[Settings]:
    """A server with that password."""
    with configured_server(tmp_path, requirepass=PASSWORD) as port:
        yield Settings(redis_url=f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0")


def run(settings: Settings, *command: str) -> str:
    """What a command writes."""
    environment = os.environ | settings.environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    return done.stdout + done.stderr


def test_fits_are_made_and_nobody_writes_the_password(
    protected: Settings, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    """Neither what fitq prints nor what it stores, nor the log of a worker whose server goes away and refuses it."""
    worker = start_worker(protected)
    client = Client(protected)
    submission = client.submit([{"id": "a", "polynomial": [1, 2], "degree": 1, "steps": 20}])
    submission.wait(WAIT_SECONDS)
    fitq = [sys.executable, "-c", "from fitq.cli import main; main()"]
    written = run(protected, *fitq, "status", submission.id, "--json") + run(protected, *fitq, "ls", "--json")
    written += run(protected, *fitq, "results", submission.id)
    written += run(protected, sys.executable, "-m", "fitq_worker", "check", "--device", "cpu")
    with redis.Redis.from_url(protected.redis_url) as connection:
        connection.config_set("requirepass", "another")
        connection.client_kill_filter(_type="normal", skipme=False)
    assert worker.process.wait(WAIT_SECONDS) == 4
    written += worker.log.read_text() + run(protected, *fitq, "ls")
    written += (tmp_path / "server.log").read_text()
    assert submission.id in written
    assert "redis://:***@127.0.0.1" in worker.log.read_text()
    assert "geheim" not in written


def test_a_wrong_password_is_not_repeated(protected: Settings) -> None:
    """Nor that of a server that is not there."""
    wrong = Settings(redis_url=protected.redis_url.replace(":geheim", ":falsch"))
    with pytest.raises(AccessDenied, match=r"redis://:\*\*\*@127.*FITQ_REDIS_URL") as caught:
        Client(wrong).submissions()
    away = Settings(redis_url=f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:1/0")
    with pytest.raises(ServerUnreachable, match=r"redis://:\*\*\*@127") as other:
        Client(away).submissions()
    assert not any(part in f"{caught.value}{other.value}" for part in ("geheim", "falsch"))


def test_lines_of_celery_and_kombu_have_no_password(start_worker: Callable[..., Worker]) -> None:
    """A server that is not there is complained of by both."""
    worker = start_worker(Settings(redis_url=f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:1/0"))
    deadline = time.monotonic() + WAIT_SECONDS
    while "consumer: Cannot connect" not in worker.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    worker.process.kill()
    assert "consumer: Cannot connect" in worker.log.read_text()
    assert "geheim" not in worker.log.read_text()
