"""The Redis behind fitq: one connection, its errors as fitq's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from fitq_shared.errors import AccessDenied, ServerFull, ServerRefuses, ServerUnreachable
from fitq_shared.settings import Settings, mask_password


def connect(settings: Settings) -> redis.Redis:
    """A client of the Redis of `settings`; it connects with its first command."""
    return redis.Redis.from_url(settings.redis_url, socket_timeout=30, socket_connect_timeout=5)


@contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Turn the Redis client's errors into fitq's, with the URL (password masked) and the next step."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError:
        raise ServerFull(
            f"Redis at {mask_password(url)} is full (maxmemory reached) and refuses writes: delete finished "
            "submissions or raise maxmemory"
        ) from None
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise AccessDenied(
            f"Redis at {mask_password(url)} does not let us in ({error}): set user and password in FITQ_REDIS_URL, or "
            "let the user do this"
        ) from None
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, ConnectionError) as error:
        raise ServerUnreachable(
            f"no Redis answers at {mask_password(url)} ({error}): start one or set FITQ_REDIS_URL"
        ) from None
    except redis.exceptions.RedisError as error:
        raise ServerRefuses(f"Redis at {mask_password(url)} refuses what was asked ({error}): {_cause(error)}") from None


def _cause(error: redis.exceptions.RedisError) -> str:
    """The likely cause of an answer, by what the Redis client makes of its first word or that word itself."""
    causes = {
        "BUSY": "a script keeps it busy, wait until that ends",
        "READONLY": "it is a replica, set FITQ_REDIS_URL to the primary",
        "MISCONF": "it cannot save to its disk, make room there",
        "NOREPLICAS": "it has too few replicas, start them",
    }
    word = "READONLY" if isinstance(error, redis.exceptions.ReadOnlyError) else str(error).split(" ", 1)[0]
    return causes.get(word, "its log may say why")
