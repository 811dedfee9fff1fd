"""Frames as files, in a folder and in an object store: there as a whole, gone when nobody needs them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
from pyarrow import fs

from fitq_shared.errors import ResultsUnreachable
from fitq_shared.frame_files import FrameFiles
from fitq_shared.keys import SubmissionKeys
from fitq_shared.payload import Payload
from fitq_shared.settings import Settings
from fitq_shared.store import Commit, Store

START_SECONDS = 60
LANE = "fitq.interactive"
COMMIT = Commit(results=b"results", traces=b"traces", jobs=3, seconds=0.5, statuses={"converged": 3}, attempt=1)


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The query of an S3 URL that leads to a private server, which has the bucket `results`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    host, port = address.split(":")
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(process, host, int(port))
            where = {"endpoint_override": address, "scheme": "http", "region": "us-east-1"}
            system = fs.S3FileSystem(access_key="key", secret_key="geheim", allow_bucket_creation=True, **where)
            system.create_dir("results")
            yield urlencode(where)
        finally:
            process.kill()


@pytest.fixture(params=["file", "s3"])
def results_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for results."""
    if request.param == "file":
        return (tmp_path / "results").as_uri()
    return f"s3://key:geheim@results/{tmp_path.name}?{request.getfixturevalue('object_store')}"


@pytest.fixture
def filing(settings: Settings, results_url: str) -> Store:
    """A store that opens submissions whose results are kept as files, with one of two chunks."""
    filing = Store(msgspec.structs.replace(settings, results_url=results_url))
    filing.open("sub", "")
    for chunk in (0, 1):
        filing.add_chunk("sub", Payload(chunk, b"frame", 3, 0, 2), LANE)
    return filing


def test_a_frame_is_read_as_it_was_written(results_url: str) -> None:
    """Each kind, chunk and attempt is a file of its own; what was never written or was removed is None."""
    files = FrameFiles(results_url, "sub")
    files.write("results", 0, 1, b"first")
    files.write("results", 0, 2, b"second")
    assert [files.read("results", 0, attempt) for attempt in (1, 2, 3)] == [b"first", b"second", None]
    assert files.read("traces", 0, 1) is None
    assert files.size() == len(b"firstsecond")
    files.remove("results", 0, 1)
    files.remove("results", 0, 1)
    assert (files.read("results", 0, 1), files.read("results", 0, 2)) == (None, b"second")


def test_a_removed_submission_leaves_its_neighbour_alone(results_url: str) -> None:
    """Even one whose id begins like its own."""
    files, neighbour = FrameFiles(results_url, "sub"), FrameFiles(results_url, "sub-2")
    for each in (files, neighbour):
        each.write("results", 0, 1, b"frame")
    files.remove_all()
    files.remove_all()
    assert (files.read("results", 0, 1), files.size()) == (None, 0)
    assert neighbour.read("results", 0, 1) == b"frame"


def test_a_folder_holds_nothing_but_whole_frames(tmp_path: Path) -> None:
    """A frame gets its name when it is complete."""
    files = FrameFiles(tmp_path.as_uri(), "sub")
    files.write("results", 3, 1, b"frame")
    files.write("traces", 3, 1, b"frame")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["results-3-1.arrow", "traces-3-1.arrow"]


def test_committed_frames_are_files_and_redis_has_none(filing: Store, store: Store) -> None:
    """Every reader and worker finds them by the manifest, whatever its own settings say."""
    assert store.settings.results_url == ""
    assert store.commit("sub", 1, COMMIT._replace(attempt=2))
    assert filing.result_frames("sub", [0, 1]) == store.result_frames("sub", [0, 1]) == [None, b"results"]
    assert store.trace_frames("sub", [0, 1]) == [None, b"traces"]
    names = SubmissionKeys(store.settings.namespace, "sub")
    assert store.redis.exists(names.results(1), names.traces(1), names.jobs(1)) == 0
    assert store.size("sub")[1] == len(b"resultstraces")


def test_an_attempt_that_comes_second_removes_its_files(filing: Store, results_url: str) -> None:
    """The files of the first stay, and its own repeated commit does not take them away."""
    filing.commit("sub", 0, COMMIT)
    assert not filing.commit("sub", 0, COMMIT._replace(results=b"other", attempt=2))
    assert not filing.commit("sub", 0, COMMIT)
    assert filing.result_frame("sub", 0) == b"results"
    files = FrameFiles(results_url, "sub")
    assert (files.read("results", 0, 2), files.read("traces", 0, 2)) == (None, None)


def test_a_deleted_submission_leaves_no_file_behind(filing: Store, results_url: str) -> None:
    """Nor does the commit of a worker that learns of it too late."""
    filing.commit("sub", 0, COMMIT)
    filing.delete("sub")
    assert not filing.commit("sub", 1, COMMIT)
    assert FrameFiles(results_url, "sub").size() == 0
    assert list(filing.redis.scan_iter(f"{filing.settings.namespace}:*")) == []


@pytest.mark.parametrize("url", ["results", "file://relative/results", "gopher://host/results"])
def test_a_url_that_leads_nowhere_is_refused_before_anything_is_submitted(settings: Settings, url: str) -> None:
    """The message names it."""
    store = Store(msgspec.structs.replace(settings, results_url=url))
    with pytest.raises(ResultsUnreachable, match=f"results at {url} cannot be reached .*FITQ_RESULTS_URL"):
        store.open("sub", "")
    assert store.manifests() == []


def test_a_bucket_that_is_missing_is_named_without_the_secret(object_store: str) -> None:
    """As the password of Redis, it is masked."""
    files = FrameFiles(f"s3://key:geheim@nobody/prefix?{object_store}", "sub")
    with pytest.raises(ResultsUnreachable, match=r"s3://key:\*\*\*@nobody/prefix") as caught:
        files.write("results", 0, 1, b"frame")
    assert "geheim" not in str(caught.value)


def test_a_folder_that_cannot_be_written_keeps_the_chunk_uncommitted(settings: Settings, tmp_path: Path) -> None:
    """It can be committed once there is room."""
    blocked = tmp_path / "results"
    blocked.write_text("a file is in the way")
    store = Store(msgspec.structs.replace(settings, results_url=blocked.as_uri()))
    store.open("sub", "")
    store.add_chunk("sub", Payload(0, b"frame", 3, 0, 2), LANE)
    with pytest.raises(ResultsUnreachable, match=r"results at file://.*space"):
        store.commit("sub", 0, COMMIT)
    assert store.manifest("sub").done_chunks == 0
    blocked.unlink()
    assert store.commit("sub", 0, COMMIT)


def _wait_for(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return socket.create_connection((host, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
    pytest.fail("the object store does not answer")
