"""Operations of the store, each in a process that is killed after its first command, its second one, and so on.

`python operations.py OPERATION TARGET...` forks for each target in turn; the process of the n-th one kills itself when it
has sent n commands, before the answer comes. It prints how many were killed before an operation came to its end.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import redis

from fitq import Client
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import Commit, FittingStore

#: The file of jobs or of what to commit.
FILE_VARIABLE = "FAULTS_FILE"
KILLED_WORKER = "killed"


def submit(key: str) -> None:
    """Open, add chunks, publish, close."""
    Client().submit(os.environ[FILE_VARIABLE], key=key)


def claim(submission: str) -> None:
    """The first chunk."""
    FittingStore(Settings.from_environment()).claim(submission, 0, KILLED_WORKER)


def commit(submission: str) -> None:
    """The first chunk, which is claimed."""
    fitted = msgspec.json.decode(Path(os.environ[FILE_VARIABLE]).read_bytes(), type=Commit)
    FittingStore(Settings.from_environment()).commit(submission, 0, fitted)


def give_back(submission: str) -> None:
    """The first chunk, which is claimed."""
    FittingStore(Settings.from_environment()).give_back(submission, 0, KILLED_WORKER)


def delete(submission: str) -> None:
    """With all that is stored for it."""
    Client().submission(submission).delete()


def cancel(submission: str) -> None:
    """What is not fitted is dropped."""
    Client().submission(submission).cancel()


OPERATIONS: dict[str, Callable[[str], None]] = {
    operation.__name__: operation for operation in (submit, claim, commit, give_back, delete, cancel)
}


def main() -> None:
    """As the module says."""
    operation, targets = OPERATIONS[sys.argv[1]], sys.argv[2:]
    for killed, target in enumerate(targets):
        if not _is_killed(operation, target, commands=killed + 1):
            print(killed)
            return
    sys.exit(f"{operation.__name__} has not come to its end within {len(targets)} commands")


def _is_killed(operation: Callable[[str], None], target: str, commands: int) -> bool:
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, -signal.SIGKILL):
            sys.exit(f"{operation.__name__} of {target} has failed")
        return bool(status)
    try:
        _die_after(commands)
        operation(target)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _die_after(commands: int) -> None:
    """Kill this process once it has sent so many commands, whoever sends them; a pipeline is one."""
    sent, connection = itertools.count(1), redis.connection.AbstractConnection
    send = connection.send_packed_command

    def send_and_die(self: Any, command: Any, check_health: bool = True) -> Any:
        send(self, command, check_health)  # type: ignore[no-untyped-call]
        if next(sent) == commands:
            os.kill(os.getpid(), signal.SIGKILL)

    connection.send_packed_command = send_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
