"""FITQ_* variables, the names of keys, the queues, and what must not be shown."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.errors import SettingsError
from fitq_shared.queue import BULK_LANES, INTERACTIVE_JOBS, INTERACTIVE_LANE, lane_of
from fitq_shared.settings import Settings
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
    assert wanted.environment() == environment


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every program of fitq does."""
    monkeypatch.setenv("FITQ_NAMESPACE", "mine")
    assert Settings.from_environment().namespace == "mine"


@pytest.mark.parametrize("text", ["soon", "", "1.5"])
def test_a_value_that_does_not_convert_names_the_variable(text: str) -> None:
    """And says how to get the default."""
    with pytest.raises(SettingsError, match=f"^FITQ_LEASE_SECONDS={text!r}: .*unset it"):
        Settings.from_environment({"FITQ_LEASE_SECONDS": text})


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


def parse_url(url: str) -> dict[str, object]:
    """What the Redis client makes of a URL."""
    found: dict[str, object] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]  # it has no types
    return found


PASSWORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(PASSWORDS)
def test_any_password_that_is_percent_encoded_is_taken(password: str) -> None:
    """The Redis client gets it as it was."""
    settings = Settings(redis_url=f"redis://me:{quote(password, safe='')}@host:6379/0")
    assert parse_url(settings.redis_url)["password"] == password


@given(st.text(min_size=1))
def test_a_password_in_raw_form_is_taken_as_it_is_or_refused_without_it(password: str) -> None:
    """It never becomes another host, port or database, nor part of a message."""
    secret = f"geheim{password}geheim"
    url = f"redis://:{secret}@host:6379/3"
    refused = ""
    try:
        Settings(redis_url=url)
    except SettingsError as error:
        refused = str(error)
    assert "geheim" not in refused
    assert refused or parse_url(url) == {"password": unquote(secret), "host": "host", "port": 6379, "db": 3}


@pytest.mark.parametrize(
    "url",
    [
        "geheim",
        "geheim@host",
        "redis://geheim@host",
        "redis://h:geheim/0",
        "redis://h/0?password=geheim",
        "redis://h/0#geheim",
        "redis://:p@h/geheim",
        "unix:///geheim",
        "http://:geheim@h",
        "redis://[geheim",
        "redis://:p@h:99999/0",
    ],
)
def test_a_url_that_is_none_of_a_server_is_refused_without_a_secret(url: str) -> None:
    """And the variable is named."""
    with pytest.raises(SettingsError, match=r"^FITQ_REDIS_URL ") as caught:
        Settings.from_environment({"FITQ_REDIS_URL": url})
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:geheim@bucket/prefix",
        "s3://key:ge/he@im@bucket/prefix?region=x",
        "s3://bucket/prefix?region=x&access_key=geheim",
        "s3://bucket/prefix?session_token=geheim#x",
        "abfs://container:geheim@account.dfs.core.windows.net/x",
    ],
)
def test_credentials_of_results_are_refused(url: str) -> None:
    """They would be stored with each submission; the message says where they go."""
    with pytest.raises(SettingsError, match=r"^FITQ_RESULTS_URL has .*AWS_SECRET_ACCESS_KEY") as caught:
        Settings.from_environment({"FITQ_RESULTS_URL": url})
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///a:b@c/d", "s3://bucket/p?region=x&endpoint_override=h:9000&scheme=http", "gs://me@b"]
)
def test_results_without_credentials_are_taken(url: str) -> None:
    assert Settings(results_url=url).results_url == url


def test_certificates_without_tls_are_refused() -> None:
    """They would be ignored, and everything sent in clear."""
    with pytest.raises(SettingsError, match="FITQ_TLS_CA is set, but FITQ_REDIS_URL is without TLS"):
        Settings(tls_ca="ca.pem")


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(SettingsError, match="FITQ_TLS_CERTIFICATE and FITQ_TLS_KEY belong together"):
        Settings(redis_url="rediss://h", tls_certificate="me.pem")


@pytest.mark.parametrize("name", ["FITQ_TLS_CA", "FITQ_TLS_CERTIFICATE"])
def test_a_certificate_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """Gone, or something else."""
    path = tmp_path / "some.pem"
    environment = {"FITQ_REDIS_URL": "rediss://h", name: str(path)}
    if name == "FITQ_TLS_CERTIFICATE":
        environment["FITQ_TLS_KEY"] = str(path)
    with pytest.raises(SettingsError, match=f"^{name}={path}.* cannot be read|^{name}={path}.* can be read"):
        Settings.from_environment(environment)
    path.write_text("nonsense")
    with pytest.raises(SettingsError, match=f"^{name}={path}"):
        Settings.from_environment(environment)


def test_other_variables_of_fitq_are_left_alone() -> None:
    """Those of the compose file, of the worker and of users who like the prefix."""
    names = ("FITQ_LOCAL_SERVER", "FITQ_REDIS_PASSWORD", "FITQ_BIND", "FITQ_WORKER_DEVICE", "FITQ_MINE")
    assert Settings.from_environment(dict.fromkeys(names, "x")) == Settings()
