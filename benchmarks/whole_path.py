"""One submission on the whole path, from a file to Parquet on disk, measured from outside."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from inputs import Source
from processes import Command, Tree
from pyarrow import parquet
from redis import Redis

from fitq.local import LocalFleet
from fitq_shared.store.connection import connect
from fitq_shared.store.submitting import SubmittingStore

#: Rare enough not to take time from what is measured.
_LOOK_SECONDS = 0.05


class Ran(NamedTuple):
    """What a submission took; by process: submit, results, worker, server."""

    #: Wall time from the start of `fitq submit` to the end of the last command.
    seconds: float
    cpu_seconds: dict[str, float]
    peak_bytes: dict[str, int]
    #: Memory of the server's data: the most of it, and what was left after the last commit; both without what was there.
    stored_peak_bytes: int
    stored_bytes: int


def run(source: Source, fleet: LocalFleet, folder: Path) -> Ran:
    """Submit `source` and follow what comes out into Parquet files in `folder`.

    Raises:
        RuntimeError: a command failed, or a file has not one row a job.
    """
    client, standing = connect(fleet.settings), standing_processes(fleet)
    for tree in standing.values():
        tree.forget_peak()
    before = {name: tree.cpu_seconds() for name, tree in standing.items()}
    held = [_information(client)["used_memory"]]
    start = time.perf_counter()
    submission, commands = _started(source, fleet, folder)
    running = list(commands.values())
    while running := [command for command in running if not command.ended()]:
        time.sleep(_LOOK_SECONDS)
        held.append(_information(client)["used_memory"])
    seconds = time.perf_counter() - start
    cpu = {name: command.cpu_seconds for name, command in commands.items()}
    cpu |= {name: tree.cpu_seconds() - before[name] for name, tree in standing.items()}
    peaks = {name: command.peak_bytes for name, command in commands.items()}
    peaks |= {name: tree.peak_bytes() for name, tree in standing.items()}
    _check(source, folder)
    SubmittingStore(fleet.settings).delete(submission)
    return Ran(seconds, cpu, peaks, max(held) - held[0], held[-1] - held[0])


def standing_processes(fleet: LocalFleet) -> dict[str, Tree]:
    """The processes that are there before a submission and after it."""
    return {"worker": Tree(fleet.worker.pid), "server": Tree(_information(connect(fleet.settings))["process_id"])}


def _started(source: Source, fleet: LocalFleet, folder: Path) -> tuple[str, dict[str, Command]]:
    """The id of the submission, and the commands that fill and follow it."""
    submit = Command(fleet.settings, "submit", *source.arguments)
    submission = submit.line()
    results = Command(fleet.settings, "results", submission, "--follow", "-o", str(folder / "out"))
    return submission, {"submit": submit, "results": results}


def _information(client: Redis) -> dict[str, Any]:
    return client.info()


def _file(folder: Path, name: str) -> Path:
    return folder / "out" / f"{name}.parquet"


def _check(source: Source, folder: Path) -> None:
    for file in (_file(folder, name) for name in source.outputs):
        if (rows := parquet.read_metadata(file).num_rows) != source.jobs:
            raise RuntimeError(f"{file} has {rows} rows, expected {source.jobs}")
