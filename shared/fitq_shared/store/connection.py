"""The Redis behind fitq: one connection, its errors as fitq's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import redis

from fitq_shared.errors import AccessDenied, FitqError, ServerFull, ServerRefuses, ServerUnreachable
from fitq_shared.masking import hide, mask_url
from fitq_shared.settings import Settings
from fitq_shared.store.refused_certificates import explain_tls

#: What a server says of a right that is missing, by itself or in a script.
_NO_RIGHT = re.compile(r"no permission|can't access|cannot access|ACL failure", re.IGNORECASE)
#: Where the name of the command stands: in the answer, or where the Redis client names one command of a pipeline.
_COMMANDS = (re.compile(r"to run the '([\w|]+)"), re.compile(r"Command # \d+ \((\w+)"))


class _Client(redis.Redis):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As always; an answer that a right is missing gets the command as its note, for Redis does not always name it."""
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # it has no types
        except redis.exceptions.NoPermissionError as error:
            error.add_note(str(args[0]))
            raise


def connect(settings: Settings) -> redis.Redis:
    """A client of the Redis of `settings`; it connects with its first command.

    Raises:
        SettingsError: a certificate of the settings cannot be read.
    """
    options = settings.tls_options()
    client: redis.Redis = _Client.from_url(settings.redis_url, socket_timeout=30, socket_connect_timeout=5, **options)
    return client


@contextmanager
def translate_errors(url: str, tls_options: Mapping[str, Any]) -> Iterator[None]:
    """Turn the Redis client's errors into fitq's, with the URL (password masked) and the next step.

    `tls_options` are those with which it was connected, none without TLS.
    """
    try:
        yield
    except (redis.exceptions.RedisError, ConnectionError) as error:
        raise _translated(error, url, tls_options) from None


def _translated(error: redis.exceptions.RedisError | ConnectionError, url: str, tls_options: Mapping[str, Any]) -> FitqError:
    server, text = f"Redis at {mask_url(url)}", hide(error, url)
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return ServerFull(
            f"{server} is full (maxmemory reached) and refuses writes: delete finished submissions or raise maxmemory"
        )
    if isinstance(error, redis.exceptions.NoPermissionError) or _NO_RIGHT.search(text):
        return _right_missing(error, server, url)
    if isinstance(error, redis.exceptions.AuthenticationError):
        return AccessDenied(f"{server} does not let us in ({text}): set user and password in FITQ_REDIS_URL")
    if reason := explain_tls(error, url, tls_options):
        return AccessDenied(f"{server}: {reason}")
    if isinstance(error, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError | ConnectionError):
        other = "without TLS wants redis://" if url.startswith("rediss:") else "that speaks TLS wants rediss://"
        return ServerUnreachable(
            f"no Redis answers at {mask_url(url)} ({text}): start one or set FITQ_REDIS_URL; one {other}"
        )
    return ServerRefuses(f"{server} refuses what was asked ({text}): {_cause(error)}")


def _right_missing(error: Exception, server: str, url: str) -> AccessDenied:
    """Which command, which user, what to do; what the command was given is left out, it may be frames."""
    user = unquote(urlsplit(url).username or "") or "default"
    named = (found[1] for pattern in _COMMANDS if (found := pattern.search(str(error))))
    command = next(named, None) or next(iter(getattr(error, "__notes__", ())), "a script")
    what = "with this key or channel" if re.search("key|channel", str(error).rpartition(":")[2]) else "at all"
    return AccessDenied(
        f"{server} does not let user {user!r} run {command.upper()} {what}: use the user for this in FITQ_REDIS_URL and the "
        "namespace it is for in FITQ_NAMESPACE, or give it the right; docs/access.md lists what each user may do"
    )


def _cause(error: Exception) -> str:
    """The likely cause of an answer, by what the Redis client makes of its first word or that word itself."""
    causes = {
        "BUSY": "a script keeps it busy, wait until that ends",
        "READONLY": "it is a replica, set FITQ_REDIS_URL to the primary",
        "MISCONF": "it cannot save to its disk, make room there",
        "NOREPLICAS": "it has too few replicas, start them",
    }
    word = "READONLY" if isinstance(error, redis.exceptions.ReadOnlyError) else str(error).split(" ", 1)[0]
    return causes.get(word, "its log may say why")
