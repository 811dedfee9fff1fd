"""The server under fire: it keeps its data on the disk, and can be killed, frozen, torn and started again."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import redis

from fitq_shared.settings import Settings

START_SECONDS = 60
#: Settings under which deaths are soon noticed and never blamed on a job: here they come from outside.
HASTY = {"lease_seconds": 2, "visibility_timeout_seconds": 6, "max_attempts": 1000}


class Server:
    """A server with a password and an append-only file that is synced with every command."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.folder, self.password, self._port = folder, secrets.token_hex(8), _free_port()
        url = f"redis://:{self.password}@127.0.0.1:{self._port}/0"
        self.settings = Settings(redis_url=url, namespace="faults", **HASTY)  # type: ignore[arg-type]  # all are numbers
        self._command = [binary, *_options(self._port, self.password, folder)]
        self._safe_bytes, self._lock = 0, threading.Lock()
        self.start()

    def start(self) -> None:
        """Start it on the data that are there, and return when it answers."""
        with (self.folder / "server.log").open("ab") as log:
            # SIGXFSZ stays ignored, as in this process: a limit on the size of files is then a disk that is full.
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, restore_signals=False)
        deadline = time.monotonic() + START_SECONDS
        with self.connect() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.exceptions.ConnectionError:  # BusyLoadingError is one of these
                    if time.monotonic() > deadline or self.process.poll() is not None:
                        raise
                    time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it in order."""
        self.process.send_signal(number)
        self.process.wait()

    def freeze(self, seconds: float) -> None:
        """Let it do nothing for a while."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def connect(self) -> redis.Redis:
        """A connection of somebody who may do everything."""
        return redis.Redis.from_url(self.settings.redis_url)

    def note_safe(self) -> None:
        """What is written by now is on the disk: somebody was told so, and a power cut may not take it."""
        with self._lock:
            self._safe_bytes = max(self._safe_bytes, self.log_file().stat().st_size)

    def tear(self, draw: random.Random) -> int:
        """Cut a random part off the end of the append-only file, but nothing that is safe; the server must not run."""
        file = self.log_file()
        size = file.stat().st_size
        with self._lock:
            left = draw.randint(min(self._safe_bytes, size), size)
        os.truncate(file, left)
        return size - left

    def log_file(self) -> Path:
        """The part of the append-only file that grows; rewrites are switched off, so that there is one."""
        (file,) = (self.folder / "appendonlydir").glob("*.incr.aof")
        return file


def _options(port: int, password: str, folder: Path) -> list[str]:
    options = {
        "bind": "127.0.0.1", "port": port, "dir": folder, "requirepass": password, "save": "",
        "appendonly": "yes", "appendfsync": "always", "auto-aof-rewrite-percentage": 0, "busy-reply-threshold": 200,
    }  # fmt: skip
    return [str(text) for name, value in options.items() for text in (f"--{name}", value)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
