"""What docker-compose.yml promises: loopback only, nobody is root, nothing evicted, time to finish, a GPU where wanted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fitq_worker.fleet.drain import DRAIN_SECONDS, GIVE_BACK_SECONDS


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The services of the file."""
    path: Path = pytestconfig.rootpath / "docker-compose.yml"
    found: dict[str, Any] = yaml.safe_load(path.read_text())["services"]
    return found


def test_nothing_is_reachable_from_outside_by_default(services: dict[str, Any]) -> None:
    """Every published port is bound to the loopback interface unless somebody says otherwise."""
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("${FITQ_BIND:-127.0.0.1}:") for port in ports)


def test_redis_keeps_what_it_was_given(services: dict[str, Any]) -> None:
    """It writes a log, has a limit and evicts nothing; without a password it does not start."""
    command = services["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"]
    assert options["--requirepass"].startswith("${FITQ_REDIS_PASSWORD:?")


def test_workers_have_the_time_to_finish_their_chunks(services: dict[str, Any]) -> None:
    """Docker kills later than the supervisor does."""
    for name in ("worker", "worker-cpu"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS + GIVE_BACK_SECONDS


def test_every_service_restarts_and_says_whether_it_is_well(services: dict[str, Any]) -> None:
    """Nobody has to watch them."""
    assert all(service["restart"] == "unless-stopped" and service["healthcheck"]["test"] for service in services.values())


def test_the_gpu_worker_reserves_every_gpu_and_the_cpu_worker_none(services: dict[str, Any]) -> None:
    """Each starts under its own profile."""
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services["worker-cpu"]
    assert (services["worker"]["profiles"], services["worker-cpu"]["profiles"]) == (["gpu"], ["cpu"])


def test_nobody_is_root_and_nothing_but_data_can_be_written(services: dict[str, Any], pytestconfig: pytest.Config) -> None:
    """Redis has its volume; the others have memory, from which native code can be loaded."""
    image = (pytestconfig.rootpath / "Dockerfile").read_text()
    assert "useradd --create-home --uid 10001 fitq" in image
    assert re.findall(r"^USER (.*)$", image, re.MULTILINE)[-1] == "fitq"
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name == "redis":
            assert (service["user"], service["volumes"]) == ("redis", ["redis:/data"])
        else:
            assert "user" not in service
            assert "volumes" not in service
            assert service["tmpfs"] == ["/tmp", "/home/fitq/.cache:exec,mode=0700,uid=10001,gid=10001"]
