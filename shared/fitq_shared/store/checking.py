"""The check of a server: whether it does what a worker asks of it, and how it is set up."""

from __future__ import annotations

import secrets
from typing import NamedTuple, cast

from fitq_shared.errors import ServerRefuses
from fitq_shared.settings import Settings
from fitq_shared.store import keys
from fitq_shared.store.frame_files import frame_files
from fitq_shared.store.reader import Reader
from fitq_shared.store.scripts import load_script

#: What a check has written is gone after this, should it be killed.
_SECONDS = 60


class ServerSetup(NamedTuple):
    """How a server keeps what it is given; a limit in bytes of 0 is none."""

    memory_limit: int
    eviction_policy: str
    append_only_file: bool

    @property
    def evicts(self) -> bool:
        """Whether it throws away jobs and results where its memory is used up."""
        return self.memory_limit > 0 and self.eviction_policy != "noeviction"


class CheckingStore(Reader):
    """Tries what a worker does; nothing of it stays.

    Raises, from every method: ServerUnreachable, AccessDenied, ServerFull, ServerRefuses.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._renew = load_script(self._redis, "renew")

    def work(self) -> None:
        """Take a message from a list, write a claim, renew it by a script and remove it."""
        token = secrets.token_hex(8)
        messages, claim = (f"{keys.check(self.settings.namespace, token)}:{kind}" for kind in ("messages", "claim"))
        with self._server():
            self._redis.lpush(messages, token)
            self._redis.expire(messages, _SECONDS)
            taken = self._redis.brpop([messages], 1)
            self._redis.set(claim, token, ex=_SECONDS)
            renewed = self._renew(keys=[claim], args=[token, _SECONDS])
            self._redis.unlink(claim)
        if taken is None or not renewed:
            raise ServerRefuses(
                "the server has lost what was written a moment ago: does it evict, or does somebody flush it?"
            )

    def setup(self) -> ServerSetup:
        """How the server is set up."""
        with self._server():
            memory = cast("dict[str, int | str]", self._redis.info("memory"))
            persistence = cast("dict[str, int]", self._redis.info("persistence"))
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        return ServerSetup(int(memory.get("maxmemory", 0)), policy, bool(persistence.get("aof_enabled", 0)))

    def write_files(self) -> None:
        """Write a file under FITQ_RESULTS_URL, if there is one, and remove it.

        Raises:
            ResultsUnreachable: it cannot be written.
        """
        files = frame_files(self.settings.results_url, f"check-{secrets.token_hex(8)}")
        if files is not None:
            files.check()
