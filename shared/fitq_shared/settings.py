"""FITQ_* environment variables become one typed value, read once at the edge and passed down."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from fitq_shared.errors import SettingsError
from fitq_shared.masking import hidden_parameters, mask_url
from fitq_shared.tls import tls_options

PREFIX = "FITQ_"
#: Names that agree to this degree (difflib's ratio) are one name and a slip of the hand.
_ALIKE = 0.85
#: User and password in front of the last `@`, host or address, port and database.
_REDIS_URL = re.compile(r"rediss?://([^\s/?#\[\]@:]*:[^\s/?#\[\]]+@)?([\w.-]*|\[[0-9A-Fa-f:.]+\])(:\d+)?(/\d*)?")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings; the variable of a field is its name in capitals behind `FITQ_`."""

    #: Redis that holds the queue, the manifests and the results, `redis://USER:PASSWORD@HOST:PORT/DATABASE`, or `rediss://`
    #: for TLS. FITQ_REDIS_URL
    redis_url: str = "redis://127.0.0.1:6379/0"
    #: Where results and traces of new submissions are kept as files, `file:///folder` or `s3://bucket/prefix`; empty
    #: keeps them in Redis. It is stored with each submission, so that it holds no credentials. FITQ_RESULTS_URL
    results_url: str = ""
    #: First part of every key, so that several fitq can share one Redis. FITQ_NAMESPACE
    namespace: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "fitq"
    #: How long a submission is kept after its last change, in seconds (14 days); 0 keeps it for ever. FITQ_TTL_SECONDS
    ttl_seconds: Annotated[int, msgspec.Meta(ge=0)] = 14 * 24 * 3600
    #: After this long an unacknowledged message is handed to another worker, in seconds. FITQ_VISIBILITY_TIMEOUT_SECONDS
    visibility_timeout_seconds: Annotated[int, msgspec.Meta(ge=1)] = 900
    #: A worker that has not renewed its claim on a chunk for this long is taken for dead, in seconds. FITQ_LEASE_SECONDS
    lease_seconds: Annotated[int, msgspec.Meta(ge=1)] = 10
    #: A job is given up when workers died with it alone, and so many with its chunk in all. FITQ_MAX_ATTEMPTS
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 4
    #: Certificate authority (PEM file) that has signed the server's certificate; empty trusts those of the system.
    #: FITQ_TLS_CA
    tls_ca: str = ""
    #: Certificate of this client and its key (PEM files, the key without a passphrase), where the server asks for one.
    #: FITQ_TLS_CERTIFICATE, FITQ_TLS_KEY
    tls_certificate: str = ""
    tls_key: str = ""

    def __post_init__(self) -> None:
        """Refuse what nobody could connect with, and secrets that others would read.

        Raises:
            SettingsError: the text names the variable, without the secret.
        """
        _check_redis_url(self.redis_url)
        _check_results_url(self.results_url)
        _check_tls(self)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read FITQ_* from `environment` (by default that of this process).

        Raises:
            SettingsError: a value does not convert or makes no sense, a name is misspelt, a certificate cannot be read; the
                text names the variable.
        """
        environment = os.environ if environment is None else environment
        variables = {PREFIX + field.upper(): field for field in cls.__struct_fields__}
        _check_names(environment, list(variables))
        given = {field: environment[name] for name, field in variables.items() if name in environment}
        try:
            settings = msgspec.convert(given, cls, strict=False)
        except msgspec.ValidationError as error:
            field = str(error).rpartition("`$.")[2].rstrip("`")  # "Expected `int`, got `str` - at `$.lease_seconds`"
            text = mask_url(given[field])
            raise SettingsError(f"{PREFIX}{field.upper()}={text!r}: {error}; unset it to use the default") from None
        settings.tls_options()
        return settings

    def tls_options(self) -> dict[str, Any]:
        """Options of the connections to a `rediss://`, none for another.

        Raises:
            SettingsError: a certificate cannot be read.
        """
        if not self.redis_url.startswith("rediss:"):
            return {}
        return tls_options(self.tls_ca, self.tls_certificate, self.tls_key)

    def environment(self) -> dict[str, str]:
        """The variables from which another process reads the same settings."""
        return {PREFIX + name.upper(): str(value) for name, value in msgspec.structs.asdict(self).items()}


def _check_names(environment: Mapping[str, str], known: list[str]) -> None:
    """Refuse a variable that looks like one of the known ones and is none: it would be ignored in silence."""
    for name in environment:
        if name.startswith(PREFIX) and name not in known and (meant := get_close_matches(name, known, 1, _ALIKE)):
            raise SettingsError(f"{name} is no setting: did you mean {meant[0]}? Unset it otherwise")


def _check_redis_url(url: str) -> None:
    """Refuse what Celery and the Redis client would read in different ways, or complain of with the password in the text."""
    scheme = url.partition("://")[0]
    if scheme not in ("redis", "rediss"):
        raise SettingsError("FITQ_REDIS_URL does not begin with redis:// or rediss:// (for TLS)")
    if not _is_readable(url):
        raise SettingsError(
            f"FITQ_REDIS_URL is not of the form {scheme}://USER:PASSWORD@HOST:PORT/DATABASE (USER may be empty, and nothing "
            "follows DATABASE). A password that has other characters than letters and digits must be percent-encoded: "
            "`python -c \"import urllib.parse; print(urllib.parse.quote(input(), safe=''))\"` does that; TLS is set by "
            "FITQ_TLS_CA, FITQ_TLS_CERTIFICATE and FITQ_TLS_KEY"
        )


def _is_readable(url: str) -> bool:
    try:
        url.encode()
        urlsplit(url).port  # noqa: B018  # asking for it checks it
    except ValueError:
        return False
    return _REDIS_URL.fullmatch(url) is not None


def _check_results_url(url: str) -> None:
    """Refuse credentials: the URL is stored in manifests, which everybody who may look at submissions can read."""
    login = url.partition("://")[2].rpartition("@")[0]
    found = [name or "something behind a # or ?" for name in hidden_parameters(url)]
    if ":" in login and not url.startswith("file:"):
        found.append("a password")
    if found:
        raise SettingsError(
            f"FITQ_RESULTS_URL has {' and '.join(found)}, and everybody who looks at submissions could read it there: take "
            "it out and set it in the environment of clients and workers, for S3 as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)"
        )


def _check_tls(settings: Settings) -> None:
    given = [name for name in ("tls_ca", "tls_certificate", "tls_key") if getattr(settings, name)]
    names = ", ".join(PREFIX + name.upper() for name in given)
    if given and not settings.redis_url.startswith("rediss://"):
        raise SettingsError(f"{names} is set, but FITQ_REDIS_URL is without TLS: begin it with rediss://, or unset {names}")
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingsError("FITQ_TLS_CERTIFICATE and FITQ_TLS_KEY belong together: set both or none")
