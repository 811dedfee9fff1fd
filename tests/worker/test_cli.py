"""The command `fitq-worker` as people and containers run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import redis

from fitq_shared.settings import Settings
from fitq_worker.compiler import cxx_compiler

if TYPE_CHECKING:
    from tests.conftest import Configured, Server


def fitq_worker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "fitq_worker", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_devices_are_listed_as_json() -> None:
    """The CPU is always among them."""
    found = json.loads(fitq_worker("devices", "--json").stdout)
    assert {"name": "cpu", "uuid": None, "description": "CPU"} in found


def test_check_passes_where_a_server_answers(server: Server) -> None:
    """It shows the server without the password."""
    done = fitq_worker("check", "--device", "cpu", FITQ_REDIS_URL=server.url)
    assert done.returncode == 0
    assert f"ok\tserver\t{server.url.split('://')[0]}://:***@" in done.stdout


def test_check_writes_nothing_that_stays(settings: Settings, redis_client: redis.Redis, tmp_path: Path) -> None:
    """Neither keys nor files."""
    environment = msgspec.structs.replace(settings, results_url=tmp_path.as_uri()).environment()
    done = fitq_worker("check", "--device", "cpu", **environment)
    assert done.returncode == 0
    assert f"ok\tresults\t{tmp_path.as_uri()}" in done.stdout
    assert list(redis_client.scan_iter(f"{settings.namespace}:*")) == list(tmp_path.iterdir()) == []


def test_check_fails_where_files_for_results_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file is in the way")
    environment = msgspec.structs.replace(settings, results_url=(tmp_path / "results").as_uri()).environment()
    done = fitq_worker("check", "--device", "cpu", **environment)
    assert done.returncode == 1
    assert "missing\tresults\tresults at file://" in done.stdout


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"maxmemory": 1}, "missing\tserver\tRedis at .* is full"),
        (
            {"maxmemory": 2**30, "maxmemory-policy": "allkeys-lru"},
            "missing\tmemory\tmaxmemory-policy is allkeys-lru: .*noeviction",
        ),
        ({"min-replicas-to-write": 1}, "missing\tserver\t.*too few replicas"),
        ({"replicaof": "127.0.0.1 1"}, "missing\tserver\t.*it is a replica"),
    ],
)
def test_check_fails_where_a_server_would_not_keep_what_a_worker_writes(
    configured_server: Configured, tmp_path: Path, harm: dict[str, object], said: str
) -> None:
    """Full, evicting, without its replicas, read-only; an answer to PING is not enough."""
    with configured_server(tmp_path, **harm) as port:
        done = fitq_worker("check", "--device", "cpu", FITQ_REDIS_URL=f"redis://127.0.0.1:{port}")
    assert done.returncode == 1
    assert re.search(said, done.stdout)


def test_check_notes_what_is_not_required(configured_server: Configured, tmp_path: Path) -> None:
    """A server that forgets everything when it ends serves a fleet all the same."""
    with configured_server(tmp_path) as port:
        done = fitq_worker("check", "--device", "cpu", FITQ_REDIS_URL=f"redis://127.0.0.1:{port}")
    assert done.returncode == 0
    assert "missing\tdisk\tno append-only file" in done.stdout
    assert "ok\tmemory\tno maxmemory, nothing is evicted" in done.stdout


def test_check_imports_neither_torch_nor_celery(server: Server) -> None:
    """It is a container's health check, run every half minute."""
    code = (
        "import sys; from fitq_shared.settings import Settings; from fitq_worker.fleet.check import check_machine; "
        "check_machine(Settings.from_environment(), 'cpu'); sys.exit('torch' in sys.modules or 'celery' in sys.modules)"
    )
    environment = {**os.environ, "FITQ_REDIS_URL": server.url}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_check_fails_where_no_server_answers() -> None:
    """The exit code is that of a failed health check."""
    done = fitq_worker("check", FITQ_REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "missing\tserver\tno Redis answers at redis://127.0.0.1:1/0" in done.stdout


@pytest.mark.parametrize("command", ["start", "check"])
def test_a_device_that_is_not_there_is_named(command: str, server: Server) -> None:
    """Nothing is started on another one instead."""
    done = fitq_worker(command, "--device", "cuda:99", FITQ_REDIS_URL=server.url)
    assert done.returncode == 1
    assert "no device 'cuda:99'" in done.stdout + done.stderr


def test_a_setting_that_makes_no_sense_is_named() -> None:
    """One line, no traceback."""
    done = fitq_worker("start", FITQ_LEASE_SECONDS="soon")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: FITQ_LEASE_SECONDS='soon'")


def test_without_torch_it_says_what_to_install() -> None:
    """A client's installation has the command but not what it needs."""
    code = "import sys; sys.modules['torch'] = None; from fitq_worker.cli import main; main(['devices'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "fitq-worker needs torch. Run `pip install 'fitq[worker]'`." in done.stderr


def test_settings_of_the_environment_reach_the_worker_app(server: Server) -> None:
    """The Celery app is built from FITQ_* alone."""
    wanted = Settings(redis_url=server.url, namespace="mine", visibility_timeout_seconds=77)
    environment = {f"FITQ_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(wanted).items()}
    code = "from fitq_worker.chunks.app import app; print(app.conf.broker_url, app.conf.broker_transport_options)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert server.url in done.stdout
    assert "'visibility_timeout': 77" in done.stdout
    assert "'global_keyprefix': 'mine:celery:'" in done.stdout


@pytest.mark.skipif(cxx_compiler() is None, reason="no C++ compiler: kernels cannot be built here")
def test_kernels_are_built_ahead(tmp_path: Path) -> None:
    """A descent and what describes its end for each combination, and the reduction."""
    options = ["--degree", "1", "--degree", "2", "--basis", "power", "--optimizer", "sgd"]
    done = fitq_worker("warm", *options, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["degree 1, mse, sgd, power, float32", "degree 2, mse, sgd, power, float32"]
    assert len(list(tmp_path.glob("fitq/kernels/*.so"))) == 5


def test_kernels_that_cannot_be_built_are_a_clear_error(tmp_path: Path) -> None:
    done = fitq_worker("warm", "--degree", "1", XDG_CACHE_HOME=str(tmp_path), CXX="/nowhere/g++", PATH="")
    assert done.returncode == 1
    assert done.stderr == "Error: there is no C++ compiler; install g++ or clang++\n"
