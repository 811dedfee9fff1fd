"""FITQ_* environment variables become one typed value, read once at the edge and passed down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

import msgspec

from fitq_shared.errors import SettingsError

PREFIX = "FITQ_"
#: Names that agree to this degree (difflib's ratio) are one name and a slip of the hand.
_ALIKE = 0.85


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings; the variable of a field is its name in capitals behind `FITQ_`."""

    #: Redis that holds the queue, the manifests and the results. FITQ_REDIS_URL
    redis_url: str = "redis://127.0.0.1:6379/0"
    #: Where results and traces of new submissions are kept as files, `file:///folder` or `s3://bucket/prefix`; empty
    #: keeps them in Redis. FITQ_RESULTS_URL
    results_url: str = ""
    #: First part of every key, so that several fitq can share one Redis. FITQ_NAMESPACE
    namespace: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "fitq"
    #: How long a submission is kept after its last change, in seconds (14 days); 0 keeps it for ever. FITQ_TTL_SECONDS
    ttl_seconds: Annotated[int, msgspec.Meta(ge=0)] = 14 * 24 * 3600
    #: After this long an unacknowledged message is handed to another worker, in seconds. FITQ_VISIBILITY_TIMEOUT_SECONDS
    visibility_timeout_seconds: Annotated[int, msgspec.Meta(ge=1)] = 900
    #: A worker that has not renewed its claim on a chunk for this long is taken for dead, in seconds. FITQ_LEASE_SECONDS
    lease_seconds: Annotated[int, msgspec.Meta(ge=1)] = 10
    #: A chunk during whose fits this many workers have died is given up. FITQ_MAX_ATTEMPTS
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 4

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read FITQ_* from `environment` (by default that of this process).

        Raises:
            SettingsError: a value does not convert, or a name is misspelt; the text names the variable.
        """
        environment = os.environ if environment is None else environment
        variables = {PREFIX + field.upper(): field for field in cls.__struct_fields__}
        _check_names(environment, list(variables))
        given = {field: environment[name] for name, field in variables.items() if name in environment}
        for name, text in given.items():
            try:
                msgspec.convert({name: text}, cls, strict=False)
            except msgspec.ValidationError as error:
                raise SettingsError(f"{PREFIX}{name.upper()}={text!r}: {error}; unset it to use the default") from None
        return msgspec.convert(given, cls, strict=False)

    def environment(self) -> dict[str, str]:
        """The variables from which another process reads the same settings."""
        return {PREFIX + name.upper(): str(value) for name, value in msgspec.structs.asdict(self).items()}


def _check_names(environment: Mapping[str, str], known: list[str]) -> None:
    """Refuse a variable that looks like one of the known ones and is none: it would be ignored in silence."""
    for name in environment:
        if name.startswith(PREFIX) and name not in known and (meant := get_close_matches(name, known, 1, _ALIKE)):
            raise SettingsError(f"{name} is no setting: did you mean {meant[0]}? Unset it otherwise")


def mask_password(url: str) -> str:
    """`url` with the password replaced by `***`, fit for messages and logs."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
