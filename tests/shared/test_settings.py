"""FITQ_* variables, the names of keys, the queues, and what must not be shown."""

from __future__ import annotations

import msgspec
import pytest

from fitq_shared.errors import SettingsError
from fitq_shared.queue import BULK_LANES, INTERACTIVE_JOBS, INTERACTIVE_LANE, lane_of
from fitq_shared.settings import Settings, mask_password
from fitq_shared.store import keys


def test_without_variables_the_defaults_hold() -> None:
    """A Redis on this machine needs no configuration."""
    assert Settings.from_environment({"PATH": "/bin"}) == Settings()
    assert Settings().redis_url == "redis://127.0.0.1:6379/0"


def test_every_setting_has_a_variable_of_its_name() -> None:
    """Texts and numbers are converted."""
    wanted = Settings(
        redis_url="rediss://h/1",
        results_url="file:///results",
        namespace="team",
        ttl_seconds=0,
        visibility_timeout_seconds=5,
        lease_seconds=6,
        max_attempts=7,
    )
    environment = {f"FITQ_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(wanted).items()}
    assert Settings.from_environment(environment) == wanted


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every program of fitq does."""
    monkeypatch.setenv("FITQ_NAMESPACE", "mine")
    assert Settings.from_environment().namespace == "mine"


@pytest.mark.parametrize("text", ["soon", "", "1.5"])
def test_a_value_that_does_not_convert_names_the_variable(text: str) -> None:
    """And says how to get the default."""
    with pytest.raises(SettingsError, match=f"^FITQ_LEASE_SECONDS={text!r}: .*unset it"):
        Settings.from_environment({"FITQ_LEASE_SECONDS": text})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://me:secret@host/0", "redis://me:***@host/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("s3://key:secret@bucket/prefix?region=x", "s3://key:***@bucket/prefix?region=x"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    """Everything else of the URL stays."""
    assert mask_password(url) == shown


def test_keys_of_a_submission_share_a_slot_and_begin_with_the_namespace() -> None:
    """Redis Cluster hashes what stands in braces."""
    names = keys.SubmissionKeys("team", "abc")
    per_submission = [names.manifest, names.committed, names.enqueued, names.attempts, names.log]
    per_chunk = [names.jobs(3), names.results(3), names.traces(3), names.lease(3)]
    assert all(name.startswith("team:{abc}:") for name in per_submission + per_chunk)
    assert len(set(per_submission + per_chunk)) == 9


def test_small_submissions_take_the_interactive_lane() -> None:
    """They do not wait behind a million fits."""
    assert lane_of("abc", 1) == lane_of("abc", INTERACTIVE_JOBS) == INTERACTIVE_LANE


def test_large_submissions_are_spread_over_the_bulk_lanes() -> None:
    """Each stays in its own; those of unknown size count as large."""
    lanes = {lane_of(f"sub-{number}", INTERACTIVE_JOBS + 1) for number in range(200)}
    assert lanes == set(BULK_LANES)
    assert lane_of("abc", None) == lane_of("abc", 10**6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FITQ_LEASE_SECONDS", "0"),
        ("FITQ_TTL_SECONDS", "-1"),
        ("FITQ_MAX_ATTEMPTS", "0"),
        ("FITQ_VISIBILITY_TIMEOUT_SECONDS", "0"),
    ],
)
def test_a_value_with_which_nothing_works_is_refused(name: str, value: str) -> None:
    """The message names the variable and the limit."""
    with pytest.raises(SettingsError, match=rf"{name}='{value}'.*>="):
        Settings.from_environment({name: value})


def test_a_misspelt_variable_is_refused() -> None:
    """It would be ignored, and somebody would wonder for long."""
    with pytest.raises(SettingsError, match="FITQ_LEASE_SECOND is no setting: did you mean FITQ_LEASE_SECONDS"):
        Settings.from_environment({"FITQ_LEASE_SECOND": "20"})


def test_other_variables_of_fitq_are_left_alone() -> None:
    """Those of the compose file, of the worker and of users who like the prefix."""
    names = ("FITQ_LOCAL_SERVER", "FITQ_REDIS_PASSWORD", "FITQ_BIND", "FITQ_WORKER_DEVICE", "FITQ_MINE")
    assert Settings.from_environment(dict.fromkeys(names, "x")) == Settings()
