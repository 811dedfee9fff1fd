"""The Redis behind fitq: one connection, its errors as fitq's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from fitq_shared.errors import ServerFull, ServerUnreachable
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
        raise ServerUnreachable(
            f"Redis at {mask_password(url)} does not let us in ({error}): set user and password in FITQ_REDIS_URL"
        ) from None
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, ConnectionError) as error:
        raise ServerUnreachable(
            f"no Redis answers at {mask_password(url)} ({error}): start one or set FITQ_REDIS_URL"
        ) from None
