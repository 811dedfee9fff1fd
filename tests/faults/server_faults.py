"""What happens to the server."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from tests.faults.storm import Storm

#: A script that never ends by itself.
BUSY = "while true do end"
#: Nobody listens there.
DEAD_PORT = 1
#: What is left when memory or disk run out: some commands come through, others do not.
LITTLE_BYTES = 50_000
#: Clients that were told that something is safe have said so by then.
LATE_SECONDS = 1.5


def kill_the_server(storm: Storm) -> None:
    """It keeps all that it has acknowledged."""
    storm.server.kill()
    storm.pass_time(0.0, 3.0)
    storm.server.start()


def restart_the_server(storm: Storm) -> None:
    """In order."""
    storm.server.stop()
    storm.server.start()


def freeze_the_server(storm: Storm) -> None:
    """Leases run out meanwhile."""
    storm.server.freeze(storm.random.uniform(1.0, 5.0))


def tear_the_end_off_the_servers_file(storm: Storm) -> None:
    """A power cut on a server that syncs every second: what nobody was promised is gone, amid a command perhaps."""
    storm.server.note_safe()
    with _configured(storm, appendfsync="everysec"):
        storm.pass_time(0.3, 0.9)
        storm.server.kill()
        storm.pass_time(LATE_SECONDS, LATE_SECONDS)
        storm.forgotten |= storm.server.tear(storm.random) > 0
        storm.server.start()
        with storm.server.connect() as client:
            client.bgrewriteaof()  # as docs/guarantees.md asks for


def cut_all_connections(storm: Storm) -> None:
    """As a firewall does."""
    with storm.server.connect() as client:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)


def flush_the_scripts(storm: Storm) -> None:
    """As a restart does, without one."""
    with storm.server.connect() as client:
        client.script_flush()


def keep_the_server_busy_with_a_script(storm: Storm) -> None:
    """It answers BUSY to everybody."""
    script = threading.Thread(target=_run_until_killed, args=[storm])
    script.start()
    storm.pass_time(1.0, 3.0)
    with storm.server.connect() as client:
        client.script_kill()
    script.join()


def let_the_memory_run_out(storm: Storm) -> None:
    """It answers OOM to who writes."""
    with storm.server.connect() as client:
        used = client.info("memory")["used_memory"]
    with _configured(storm, maxmemory=used + storm.random.randrange(LITTLE_BYTES)):
        storm.pass_time(1.0, 4.0)


def let_the_disk_run_full(storm: Storm) -> None:
    """It answers MISCONF to who writes."""
    with _configured(storm, appendfsync="everysec"):
        size = storm.server.log_file().stat().st_size + storm.random.randrange(LITTLE_BYTES)
        pid, (_, hard) = storm.server.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
        storm.pass_time(1.0, 4.0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        storm.pass_time(1.5, 1.5)  # it writes what it has held back


def make_the_server_a_replica(storm: Storm) -> None:
    """It answers READONLY to who writes."""
    with storm.server.connect() as client:
        client.replicaof("127.0.0.1", DEAD_PORT)
        storm.pass_time(1.0, 4.0)
        client.replicaof("NO", "ONE")


def change_the_password_and_back(storm: Storm) -> None:
    """Workers end, and are started again by who has an eye on them."""
    with storm.server.connect() as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)
        storm.pass_time(0.5, 4.0)
        client.config_set("requirepass", storm.server.password)


def _run_until_killed(storm: Storm) -> None:
    with storm.server.connect() as client, suppress(redis.exceptions.ResponseError):
        client.eval(BUSY, 0)


@contextmanager
def _configured(storm: Storm, **values: str | int) -> Iterator[None]:
    """Other settings of the server for the length of the block; it may start anew meanwhile."""
    with storm.server.connect() as client:
        usual = {name: client.config_get(name)[name] for name in values}
        for name, value in values.items():
            client.config_set(name, value)
    yield
    with storm.server.connect() as client:
        for name, value in usual.items():
            client.config_set(name, value)
