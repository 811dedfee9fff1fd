"""Results kept as files, in a folder and in an object store: the same promises as in Redis."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from pyarrow import fs

from fitq_shared.errors import ResultsUnreachable
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore
from fitq_shared.store.frame_files import FrameFiles
from fitq_shared.store.payload import Payload
from fitq_shared.store.submitting import SubmittingStore

LANE = "fitq.interactive"
COMMIT = Commit(b"results", b"traces", job_count=3, seconds=0.5, statuses={"converged": 3}, attempt=1)
START_SECONDS = 60


@pytest.fixture(scope="module")
def object_store() -> Iterator[str]:
    """Address of an S3 server with a bucket `fits`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}", process)
            system = fs.S3FileSystem(
                access_key="key",
                secret_key="secret",
                endpoint_override=f"127.0.0.1:{port}",
                scheme="http",
                region="us-east-1",
                allow_bucket_creation=True,
            )
            system.create_dir("fits")
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    pytest.fail("the S3 server did not start")


@pytest.fixture(params=["file", "s3"])
def results_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where results go."""
    if request.param == "file":
        return f"file://{tmp_path}/results"
    address = request.getfixturevalue("object_store")
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return f"s3://fits/{tmp_path.name}?scheme=http&endpoint_override={address}&region=us-east-1"


@pytest.fixture
def files_store(settings: Settings, results_url: str) -> SubmittingStore:
    """A store of somebody who wants results in files, with an open submission of two chunks."""
    store = SubmittingStore(msgspec.structs.replace(settings, results_url=results_url))
    store.open("sub", "test")
    for chunk in (0, 1):
        store.add_chunk("sub", Payload(chunk, b"frame %d" % chunk, 3, 0, 2), LANE)
    return store


def keys_of(redis_client: redis.Redis, settings: Settings, kind: str) -> list[bytes]:
    return list(redis_client.scan_iter(f"{settings.namespace}:*:{kind}:*"))


def test_frames_are_in_files_and_readers_find_them_without_settings(
    files_store: SubmittingStore, store: SubmittingStore, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """The manifest says where; Redis has neither results nor traces, and jobs are gone as always."""
    fitting.claim("sub", 1, "a")
    assert fitting.commit("sub", 1, COMMIT)
    assert (store.result_frame("sub", 1), store.trace_frame("sub", 1)) == (b"results", b"traces")
    assert store.result_frames("sub", [0, 1]) == [None, b"results"]
    found = {kind: len(keys_of(redis_client, store.settings, kind)) for kind in ("jobs", "results", "traces")}
    assert found == {"jobs": 1, "results": 0, "traces": 0}
    assert files_store.manifest("sub").statuses == {"converged": 3}
    memory, files = store.size("sub")
    assert (memory > 0, files) == (True, len(b"results" + b"traces"))


def test_a_second_commit_of_a_chunk_is_dropped_with_its_files(files_store: SubmittingStore, fitting: FittingStore) -> None:
    """The first one stays what readers get; nothing of the second is left."""
    assert fitting.commit("sub", 0, COMMIT)
    assert not fitting.commit("sub", 0, COMMIT._replace(results=b"other", attempt=2))
    assert files_store.result_frame("sub", 0) == b"results"
    files = files_store.files("sub")
    assert files is not None
    assert files.read("results", 0, 2) is None


def test_a_commit_whose_answer_was_lost_keeps_its_files(files_store: SubmittingStore, fitting: FittingStore) -> None:
    """It is repeated, finds itself committed, and must not take its own files for left-overs."""
    assert fitting.commit("sub", 0, COMMIT)
    assert not fitting.commit("sub", 0, COMMIT)
    assert files_store.result_frame("sub", 0) == b"results"


def test_a_chunk_without_traces_has_no_trace_file(files_store: SubmittingStore, fitting: FittingStore) -> None:
    """No empty files are kept."""
    fitting.commit("sub", 0, COMMIT._replace(traces=b""))
    assert files_store.trace_frame("sub", 0) is None


def test_deleting_a_submission_removes_its_files(
    files_store: SubmittingStore, results_url: str, fitting: FittingStore, redis_client: redis.Redis
) -> None:
    """And those of no other one."""
    fitting.commit("sub", 0, COMMIT)
    other = FrameFiles(results_url, "other")
    other.write("results", 0, 1, b"stays")
    files_store.delete("sub")
    assert FrameFiles(results_url, "sub").size() == 0
    assert other.read("results", 0, 1) == b"stays"
    assert list(redis_client.scan_iter(f"{files_store.settings.namespace}:{{sub}}*")) == []


def test_a_commit_that_comes_after_the_deletion_leaves_no_file(
    files_store: SubmittingStore, results_url: str, fitting: FittingStore
) -> None:
    """The worker had the chunk already, and learns of the deletion when it has written."""
    fitting.commit("sub", 0, COMMIT)
    files_store.delete("sub")
    assert not fitting.commit("sub", 1, COMMIT)
    assert FrameFiles(results_url, "sub").size() == 0


def test_a_folder_holds_nothing_but_whole_frames(tmp_path: Path) -> None:
    """A frame gets its name when it is complete."""
    files = FrameFiles(tmp_path.as_uri(), "sub")
    files.write("results", 3, 1, b"frame")
    files.write("traces", 3, 1, b"frame")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["results-3-1.arrow", "traces-3-1.arrow"]


def test_a_place_without_room_keeps_the_chunk_uncommitted(settings: Settings, fitting: FittingStore, tmp_path: Path) -> None:
    """It can be committed once there is room."""
    blocked = tmp_path / "results"
    store = SubmittingStore(msgspec.structs.replace(settings, results_url=blocked.as_uri()))
    store.open("sub", "")
    blocked.rmdir()
    blocked.write_text("a file is in the way")
    store.add_chunk("sub", Payload(0, b"frame", 3, 0, 2), LANE)
    with pytest.raises(ResultsUnreachable, match=r"results at file://.*space"):
        fitting.commit("sub", 0, COMMIT)
    assert store.manifest("sub").done_chunks == 0
    blocked.unlink()
    assert fitting.commit("sub", 0, COMMIT)


@pytest.mark.parametrize("url", ["results", "file://relative/results", "gopher://host/results"])
def test_a_url_that_leads_nowhere_is_refused_before_anything_is_submitted(settings: Settings, url: str) -> None:
    """A worker would find out only after the first fits."""
    store = SubmittingStore(msgspec.structs.replace(settings, results_url=url))
    with pytest.raises(ResultsUnreachable, match=f"results at {url} cannot be reached .*FITQ_RESULTS_URL"):
        store.open("sub", "")
    assert store.manifests() == []


def test_an_error_of_the_object_store_repeats_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one of a URL that cannot be read, as manifests of earlier versions may have one."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nonsense")
    with pytest.raises(ResultsUnreachable) as caught:
        FrameFiles("nonsense://nonsense/prefix", "sub")
    assert "URI: ***://***/prefix" in str(caught.value)
    with pytest.raises(ResultsUnreachable) as caught:
        FrameFiles("s3://key:ge heim/@bucket/prefix", "sub")
    assert "heim" not in str(caught.value)


def test_a_bucket_that_is_missing_is_named_without_the_secret(object_store: str) -> None:
    """As the password of Redis, it is masked."""
    url = f"s3://key:geheim@nobody/prefix?scheme=http&endpoint_override={object_store}&region=us-east-1"
    with pytest.raises(ResultsUnreachable, match=r"s3://key:\*\*\*@nobody/prefix") as caught:
        FrameFiles(url, "sub").write("results", 0, 1, b"frame")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("url", ["file:///proc/nowhere", "ftp://somewhere/x", "nonsense"])
def test_a_place_that_cannot_be_written_is_named(url: str) -> None:
    """With the variable that names it."""
    with pytest.raises(ResultsUnreachable, match=rf"results at {url} cannot be reached .*FITQ_RESULTS_URL"):
        FrameFiles(url, "sub").write("results", 0, 1, b"frame")
