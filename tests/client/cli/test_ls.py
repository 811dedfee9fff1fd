"""What `fitq ls --size` says, and results that are kept as files, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis
from click.testing import Result

from fitq_shared.store.submitting import SubmittingStore

Fitq: TypeAlias = Callable[..., Result]


@pytest.fixture
def submitted(fitq: Fitq, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The id of a submission of ten jobs whose results go to a folder; later commands do not know of that."""
    with monkeypatch.context() as patch:
        patch.setenv("FITQ_RESULTS_URL", (tmp_path / "results").as_uri())
        return fitq("submit", "--polynomial", "1,2", "--count", 10).stdout.strip()


def listed(fitq: Fitq) -> dict[str, Any]:
    """What `fitq ls --size` says of the only submission."""
    (entry,) = json.loads(fitq("ls", "--size", "--json").stdout)["submissions"]
    return dict(entry)


def test_sizes_are_those_in_redis_and_in_files(
    fitq: Fitq, submitted: str, finish: Callable[[str], None], store: SubmittingStore, tmp_path: Path
) -> None:
    """Both as JSON and as columns of the table, which are not there without the option."""
    assert listed(fitq)["file_bytes"] == 0
    finish(submitted)
    entry = listed(fitq)
    files = list((tmp_path / "results" / submitted).iterdir())
    assert len(files) == 2
    assert entry["file_bytes"] == sum(path.stat().st_size for path in files)
    assert entry["memory_bytes"] == store.size(submitted)[0] > 0
    assert "in Redis" in fitq("ls", "--size").stdout
    assert "in Redis" not in fitq("ls").stdout


def test_results_that_are_files_are_read_and_deleted_like_others(
    fitq: Fitq, submitted: str, finish: Callable[[str], None], tmp_path: Path
) -> None:
    """By commands that do not know where they are kept."""
    finish(submitted)
    ids = [json.loads(line)["id"] for line in fitq("results", submitted).stdout.splitlines()]
    assert ids == [str(number) for number in range(10)]
    assert fitq("delete", submitted).exit_code == 0
    assert list((tmp_path / "results").iterdir()) == []


def test_the_secret_of_a_results_url_is_not_shown(
    fitq: Fitq, store: SubmittingStore, submitted: str, redis_client: redis.Redis
) -> None:
    """Workers need it in the manifest, people do not."""
    redis_client.hset(f"{store.settings.namespace}:{{{submitted}}}:manifest", "results_url", "s3://key:geheim@bucket/r")
    shown = fitq("status", submitted, "--json").stdout + fitq("ls", "--json").stdout
    assert "s3://key:***@bucket/r" in shown
    assert "geheim" not in shown
